"""The doctor's findings about servers of every state."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gsv_client import Client, ServerError, ServerUnavailable, SpeechOptions
from gsv_client.doctor import Finding, check_server
from gsv_client.testing import FakeTransport
from gsv_client.transport import ModelIO, ModelState, Request
from gsv_client.transport.base import Tensors


def findings(transport: FakeTransport, speak: bool = False) -> list[Finding]:
    options = SpeechOptions(voice="demo") if speak else None
    return list(check_server(Client(transport=transport), options))


def amiss(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.subject) for finding in found if finding.level != "ok"]


def test_all_is_well() -> None:
    transport = FakeTransport()
    found = findings(transport, speak=True)
    assert amiss(found) == []
    assert [f.message for f in found if f.subject == "speech"] == [
        "0.60 s at 48000 Hz, peak 0.10", "0.60 s at 16000 Hz, peak 0.10",
    ]  # fmt: skip
    spoken = [request for request in transport.requests if request.model != "voices"]
    assert {request.inputs["VOICE"].item() for request in spoken} == {b"demo"}


def test_nothing_is_spoken_unasked(transport: FakeTransport) -> None:
    findings(transport)
    assert [request.model for request in transport.requests] == ["voices"]


class WithVoices(FakeTransport):
    """A server with these voices."""

    def __init__(self, default: str | None, names: list[str], broken: list[str]) -> None:
        super().__init__()
        voices = [{"name": name} for name in names]
        self.answer = json.dumps({"default": default, "voices": voices, "broken": broken})

    def infer(self, request: Request) -> Tensors:
        if request.model != "voices":
            return super().infer(request)
        return {"VOICES": np.array([[self.answer.encode()]], object)}


def test_voices_of_the_server() -> None:
    def told(*voices: Any) -> list[tuple[str, str]]:
        found = findings(WithVoices(*voices))
        return [(f.level, f.message) for f in found if f.subject == "voices"]

    assert told("bo/calm", ["al", "bo"], []) == [("ok", "2 that can be used, default bo/calm")]
    assert told(None, ["al"], ["voice bo: no file"]) == [
        ("error", "voice bo: no file"),
        ("ok", "1 that can be used, no default: each request must name one"),
    ]
    assert told("bo", ["al"], [])[0] == (
        "error", "the default voice bo is not among those that can be used",
    )  # fmt: skip
    ((level, message),) = told("bo", [], [])
    assert (level, message.partition(":")[0]) == ("warning", "none that can be used")


def test_a_server_that_cannot_list_voices() -> None:
    found = findings(FakeTransport(models=("gpt_sovits_v4", "gpt_sovits_v4_stream")))
    assert amiss(found) == [("warning", "voices")]


def test_no_server() -> None:
    class Away(FakeTransport):
        def is_live(self, timeout: float) -> bool:
            raise ServerUnavailable("no server answers")

    (finding,) = findings(Away())
    assert (finding.level, finding.message) == ("error", "no server answers")


def test_models_that_are_not_ready_or_not_there() -> None:
    class Loading(FakeTransport):
        def is_ready(self, timeout: float) -> bool:
            return False

        def models(self, timeout: float) -> list[ModelState]:
            return [ModelState("gpt_sovits_v4", "1", "UNAVAILABLE", "no weights")]

    found = findings(Loading(), speak=False)
    assert amiss(found) == [
        ("error", "server"), ("error", "gpt_sovits_v4/1"), ("error", "gpt_sovits_v4_stream"),
    ]  # fmt: skip
    assert "no weights" in found[2].message


@pytest.mark.parametrize(
    ("inputs", "outputs", "level", "message"),
    [
        ({"TEXT": "BYTES"}, {}, "error", "SEED INT64 (missing)"),
        ({"SEED": "INT32"}, {}, "error", "SEED INT64 (is INT32)"),
        (None, {"AUDIO": "FP64"}, "error", "AUDIO FP32 (is FP64)"),
        ({"MOOD": "BYTES"}, None, "warning", "takes MOOD, which this client does not know"),
    ],
)
def test_tensors_of_another_version(
    inputs: dict | None, outputs: dict | None, level: str, message: str
) -> None:
    class Other(FakeTransport):
        def model_io(self, model: str, timeout: float) -> ModelIO:
            same = super().model_io(model, timeout)
            theirs = dict(same.inputs) | (inputs or {})
            if inputs == {"TEXT": "BYTES"}:
                del theirs["SEED"]
            return ModelIO(theirs, {**same.outputs, **(outputs or {})})

    found = [f for f in findings(Other()) if f.subject == "gpt_sovits_v4" and f.level != "ok"]
    assert found[0].level == level
    assert message in found[0].message
    assert "different versions" in found[0].advice


class Speaking(FakeTransport):
    """Answers with one fixed wave at one rate."""

    def __init__(self, audio: np.ndarray, rate: int | None = None) -> None:
        super().__init__()
        self.audio, self.rate = audio, rate

    def infer(self, request: Request) -> Tensors:
        if request.model == "voices":
            return super().infer(request)
        rate = self.rate or int(request.inputs["SAMPLE_RATE"].item())
        return {
            "AUDIO": self.audio.astype(np.float32)[None],
            "SAMPLE_RATE": np.array([[rate]], np.int32),
        }


@pytest.mark.parametrize(
    ("transport", "message"),
    [
        (Speaking(np.zeros(4_800)), "0.10 s of silence came back"),
        (Speaking(np.full(4_800, np.nan)), "samples that are not numbers"),
        (Speaking(np.ones(4_800), 32_000), "48000 Hz was asked for, 32000 Hz came"),
        (Speaking(np.ones(4_800)), "the same word lasts 0.100 s at 48000 Hz and 0.300 s at 16000"),
    ],
)
def test_speech_that_is_none(transport: FakeTransport, message: str) -> None:
    found = [f for f in findings(transport, speak=True) if f.subject == "speech"]
    assert any(message in finding.message for finding in found if finding.level != "ok")


def test_speech_that_fails() -> None:
    def refuse(request: Request) -> ServerError | None:
        return ServerError("out of memory") if request.model == "gpt_sovits_v4" else None

    found = findings(FakeTransport(refuse=refuse), speak=True)
    assert (found[-1].level, found[-1].message) == ("error", "out of memory")
    broken = FakeTransport(break_after=0, broken=ServerError("broken"))
    found = findings(broken, speak=True)
    assert (found[-1].level, found[-1].subject, found[-1].message) == ("error", "stream", "broken")
