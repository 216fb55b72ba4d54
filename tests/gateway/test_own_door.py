"""Lines of JSON, captions, options, recordings and new voices."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from gateway.running import running

from gsv_client import AsyncClient, ServerError
from gsv_client.gateway import new_voices
from gsv_client.gateway.settings import Settings
from gsv_client.testing import FakeAsyncTransport, FakeTransport

ROOT = Path(__file__).parents[2]
SAMPLE = (ROOT / "voices" / "sample" / "reference.wav").read_bytes()
TEXT = "Hello there. Bye you."


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Path]]:
    """A gateway before a server with times, which may add voices."""
    folder = tmp_path_factory.mktemp("voices")
    client = AsyncClient(transport=FakeAsyncTransport(FakeTransport(times=True)))
    with (
        running(client, Settings(local=True, voices=folder)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=60) as http,
    ):
        yield http, folder


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_audio_and_times_as_lines(timed: tuple[httpx.Client, Path]) -> None:
    found = lines(timed[0].post("/v1/speech", json={"text": TEXT, "sample_rate": 8_000}))
    assert {k: found[0][k] for k in ("type", "format", "sample_rate", "times")} == {
        "type": "start", "format": "pcm", "sample_rate": 8_000, "times": True,
    }  # fmt: skip
    audio = [line for line in found if line["type"] == "audio"]
    assert sum(len(base64.b64decode(line["audio"])) for line in audio) == 2 * 16_000
    assert [line["start"] for line in audio] == [0, 0.5, 1.0, 1.2, 1.7]
    assert [line["sentence"] for line in audio] == [0, 0, 0, 1, 1]
    words = [word for line in found if line["type"] == "words" for word in line["words"]]
    assert [(w["word"], w["start"], w["sentence"]) for w in words] == [
        ("Hello", 0.0, 0), ("there", 0.6, 0), ("Bye", 1.2, 1), ("you", 1.6, 1),
    ]  # fmt: skip
    done = found[-1]
    assert (done["type"], done["audio_seconds"]) == ("done", 2.0)
    assert 0 < done["first_audio"] <= done["seconds"]
    assert done["real_time_factor"] == pytest.approx(done["seconds"] / 2, abs=0.001)


def test_one_may_do_without_times(timed: tuple[httpx.Client, Path]) -> None:
    found = lines(timed[0].post("/v1/speech", json={"text": TEXT, "times": False}))
    assert not found[0]["times"]
    assert all(line["type"] != "words" for line in found)


def test_where_the_server_offers_none(http: httpx.Client, triton: FakeTransport) -> None:
    found = lines(http.post("/v1/speech", json={"text": TEXT, "format": "mp3"}))
    assert not found[0]["times"]
    assert triton.requests[-1].outputs == ("AUDIO", "SAMPLE_RATE", "SENTENCE_INDEX")
    for path, body in (
        ("/v1/speech", {"text": TEXT, "times": True}),
        ("/v1/speech/captions", {"text": TEXT}),
    ):
        answer = http.post(path, json=body)
        assert answer.status_code == 400
        assert "no output TIMES" in answer.json()["error"]["message"]


def test_a_break_is_told_on_the_last_line() -> None:
    triton = FakeTransport(break_after=2, broken=ServerError("grpc://x:1: it broke"))
    with (
        running(AsyncClient(transport=FakeAsyncTransport(triton))) as gateway,
        httpx.Client(base_url=gateway.url) as http,
    ):
        found = lines(http.post("/v1/speech", json={"text": TEXT}))
    assert [line["type"] for line in found] == ["start", "audio", "audio", "error"]
    assert found[-1]["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("form", "kind", "begin"),
    [("srt", "application/x-subrip", "1\n00:00:00,000 --> "), ("vtt", "text/vtt", "WEBVTT\n")],
)
def test_captions(timed: tuple[httpx.Client, Path], form: str, kind: str, begin: str) -> None:
    answer = timed[0].post("/v1/speech/captions", json={"text": TEXT, "format": form})
    assert answer.headers["content-type"].startswith(kind)
    assert answer.text.startswith(begin)
    assert "Hello there" in answer.text
    answer = timed[0].post("/v1/speech/captions", json={"text": TEXT, "format": "ass"})
    assert "format: got 'ass'; allowed: srt, vtt" in answer.json()["error"]["message"]


def test_options(timed: tuple[httpx.Client, Path], http: httpx.Client) -> None:
    found = timed[0].get("/v1/speech/options").json()
    assert (found["times"], found["add_voices"]) == (True, True)
    assert "yue" in found["languages"]
    assert found["limits"]["speed"] == {"low": 0.6, "high": 1.65, "above": False, "default": 1}
    found = http.get("/v1/speech/options").json()
    assert (found["times"], found["add_voices"]) == (False, False)


def test_a_recording_is_looked_at(http: httpx.Client) -> None:
    good = http.post("/v1/speech/recording", content=SAMPLE).json()
    assert good["usable"]
    assert good["window"] is None
    short = io.BytesIO()
    soundfile.write(short, np.full(8_000, 0.1), 8_000, format="WAV")
    bad = http.post("/v1/speech/recording", content=short.getvalue()).json()
    assert not bad["usable"]
    assert "1.00 s long; allowed: 3 to 10 s" in [remark["message"] for remark in bad["remarks"]]
    answer = http.post("/v1/speech/recording", content=b"no sound")
    assert answer.status_code == 400
    assert "not a readable recording" in answer.json()["error"]["message"]


def new_voice(**changes: object) -> dict[str, object]:
    reference = base64.b64encode(SAMPLE).decode()
    given = {
        "name": "me",
        "reference": reference,
        "reference_text": "What I say.",
        "language": "en",
    }
    return {**given, **changes}


def test_a_voice_is_added(timed: tuple[httpx.Client, Path]) -> None:
    http, folder = timed
    answer = http.post("/v1/audio/voices", json=new_voice())
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "me"
    assert 'text = "What I say."' in (folder / "me" / "voice.toml").read_text()
    answer = http.post("/v1/audio/voices", json=new_voice())
    assert answer.status_code == 400
    assert "me" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../x"}, {"name": "--force"}, {"name": ""}, {"name": "a/b/c"},
        {"name": "demo/angry"}, {"language": "xx"}, {"reference_text": " "},
        {"reference_text": "a\0b"}, {"reference": "%%"},
        {"reference_window": [0.0, 1.0]}, {"unknown": 1},
    ],
)  # fmt: skip
def test_a_voice_that_can_not_be_added(
    timed: tuple[httpx.Client, Path], changes: dict[str, object]
) -> None:
    http, folder = timed
    before = sorted(path.name for path in folder.iterdir())
    answer = http.post("/v1/audio/voices", json=new_voice(**{"name": "other", **changes}))
    assert answer.status_code == 400, answer.text
    assert sorted(path.name for path in folder.iterdir()) == before
    assert "gsv-gateway-" not in answer.text  # nor where the scratch file was


def test_adding_that_takes_too_long(
    timed: tuple[httpx.Client, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_voices, "ADDING_SECONDS", 0.01)
    answer = timed[0].post("/v1/audio/voices", json=new_voice(name="slow"))
    assert answer.status_code == 502
    assert not (timed[1] / "slow").exists()


def test_adding_is_off_unless_it_is_switched_on(http: httpx.Client) -> None:
    answer = http.post("/v1/audio/voices", json=new_voice())
    assert answer.status_code == 403
    assert "gsv gateway --voices FOLDER" in answer.json()["error"]["message"]
