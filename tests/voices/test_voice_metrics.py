"""Figures of voices: names that become labels are bounded, and every request is counted once."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from voices.test_weight_cache import Clock, Recorder
from voices.voice_files import make_voice

from gsv.config import VocoderConfig
from gsv.errors import Cancelled, GsvError, InvalidRequest, Overloaded, VoiceError
from gsv.stages import speech, stream
from gsv.stages.base import Place
from gsv.stages.calls import StageCall
from gsv.stages.messages import (
    MelResult,
    ReferenceResult,
    SemanticResult,
    TextResult,
    WaveResult,
)
from gsv.voices import VoiceFolder
from gsv.voices import metrics as voice_metrics
from gsv.voices.metrics import Change, VoiceMetrics, outcome_of


@pytest.fixture
def voices(tmp_path: Path) -> VoiceFolder:
    for name in ("alice", "bob"):
        make_voice(tmp_path / "voices" / name)
    make_voice(tmp_path / "voices" / "broken", language="klingon")
    return VoiceFolder(tmp_path / "voices", "bob/calm")


def test_labels_are_voices_that_are_there(voices: VoiceFolder) -> None:
    label = VoiceMetrics(voices).label
    assert [label(name) for name in ("alice", "alice/happy", "alice@0123", "", "broken")] == [
        "alice", "alice", "alice", "bob", "broken",
    ]  # fmt: skip
    for name in ("nobody", "../alice", "x" * 300, "alice\n", "\0", '"', "/"):
        assert label(name) == "(unknown)"
    assert label("alice", own_recording=True) == "(request)"


def test_the_number_of_labels_is_bounded(
    voices: VoiceFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice_metrics, "LABELS", 2)
    counted = VoiceMetrics(voices)
    for name in ("alice", "bob", "carol", "dave", "alice"):
        counted.count("loads", name)
        counted.set("resident_bytes", name, 5)
    labels = {change.voice for change in counted.take()}
    assert labels == {"alice", "bob", "(other)"}


def test_voices_that_are_gone_are_told_once(voices: VoiceFolder) -> None:
    clock = Clock()
    counted = VoiceMetrics(voices, clock)
    for name in ("alice", "bob", "(unknown)", "(request)"):
        counted.count("requests", name, detail="answered")
    shutil.rmtree(voices.folder / "alice")
    assert counted.gone() == [], "not at every look"
    clock.now += 60
    assert counted.gone() == ["alice"]
    clock.now += 60
    assert counted.gone() == []


def test_counts_add_up_and_gauges_are_the_last(voices: VoiceFolder) -> None:
    counted = VoiceMetrics(voices)

    def work(_: int) -> None:
        for value in range(100):
            counted.count("requests", "alice", detail="answered")
            counted.set("resident_bytes", "bob", value)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert counted.take() == [
        Change("requests", "alice", 800, "answered"), Change("resident_bytes", "bob", 99),
    ]  # fmt: skip
    assert counted.take() == []


def test_how_requests_end() -> None:
    assert outcome_of(None) == "answered"
    assert {outcome_of(e) for e in (InvalidRequest("x"), Overloaded("x"))} == {"refused"}
    assert outcome_of(Cancelled("x")) == "cancelled"
    assert {outcome_of(e) for e in (VoiceError("x"), GsvError("x"), KeyError("x"))} == {"failed"}


def ids(count: int) -> NDArray[np.int32]:
    return np.zeros(count, np.int32)


BERT = np.zeros((1, 1024), np.float32)
ANSWERS: tuple[Any, ...] = (
    TextResult(ids(3), np.array([3], np.int32), BERT, ids(3), ids(3), np.zeros(2, np.float32),
               ids(2), BERT, ids(2)),
    ReferenceResult(ids(9), np.zeros((704, 9), np.float32), np.zeros((100, 18), np.float32)),
    SemanticResult(ids(4), np.array([4], np.int32), 1),
    MelResult(np.zeros((100, 16), np.float32), np.array([16], np.int32)),
    WaveResult(np.zeros(24_000, np.float32), 48_000),
)  # fmt: skip


class Stages:
    """The other models: half a second of audio, or an error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self, call: StageCall[Any], token: Stages) -> Any:
        if self.error is not None:
            raise self.error
        return next(answer for answer in ANSWERS if isinstance(answer, call.answer))

    def token(self, request_id: str) -> Stages:
        return self

    def await_first_audio(self, *, awaited: bool) -> None:
        pass

    def cancel(self) -> None:
        """Nothing runs."""

    def release(self) -> None:
        """Nothing was taken."""


def counted(stage: Any, **request: Any) -> list[tuple[str, str, float, str]]:
    """What one request adds to the figures."""
    recorder = Recorder()
    stage.submit(speech.PublicRequest(text="a", **request), recorder)
    assert recorder.done.wait(10)
    return [(c.family, c.voice, c.value, c.detail) for c in stage.voice_metrics.take()]


def test_requests_and_audio_by_voice(voices: VoiceFolder, tmp_path: Path) -> None:
    place = Place(tmp_path / "repository" / "gpt_sovits_v4" / "1")
    stages = Stages()
    stage = speech.SpeechStage(place, speech.Settings(default_voice="bob"), stages)
    assert counted(stage, voice="alice") == [
        ("requests", "alice", 1, "answered"), ("audio_seconds", "alice", 0.5, ""),
    ]  # fmt: skip
    assert counted(stage)[0] == ("requests", "bob", 1, "answered")
    own = {
        "reference_audio": 0.1 * np.sin(np.arange(80_000, dtype=np.float32)),
        "reference_sample_rate": 16_000,
        "reference_text": "b",
    }
    assert counted(stage, **own)[0] == ("requests", "(request)", 1, "answered")
    assert counted(stage, voice="nobody") == [("requests", "(unknown)", 1, "refused")]
    assert counted(stage, voice="broken") == [("requests", "broken", 1, "failed")]
    stages.error = GsvError("broken")
    assert counted(stage, voice="alice") == [("requests", "alice", 1, "failed")]
    stage.close()


def test_a_full_house_counts_as_refused(voices: VoiceFolder, tmp_path: Path) -> None:
    place = Place(tmp_path / "repository" / "gpt_sovits_v4_stream" / "1")
    served = tmp_path / "repository" / "vocoder" / "1"
    served.mkdir(parents=True)
    VocoderConfig().save(served / "vocoder.json")
    settings = stream.Settings(default_voice="bob", concurrency=1, waiting=0)
    gate = threading.Event()

    class Slow(Stages):
        def __call__(self, *_: Any, **__: Any) -> Any:
            assert gate.wait(10)
            raise GsvError("late")

    stage = stream.SpeechStreamStage(place, settings, Slow())
    first = Recorder()
    stage.submit(speech.PublicRequest(text="a", voice="alice"), first)
    with pytest.raises(Overloaded):
        stage.submit(speech.PublicRequest(text="a", voice="alice"), Recorder())
    gate.set()
    assert first.done.wait(10)
    stage.close()
    told = [(c.voice, c.value, c.detail) for c in stage.voice_metrics.take()]
    assert told == [("(unknown)", 1, "refused"), ("alice", 1, "failed")]
