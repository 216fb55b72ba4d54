"""OpenAI's door, through the official client and by hand."""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
import soundfile
from gateway.running import Gateway, running

from gsv_client import AsyncClient, Audio, ServerError, ServerUnavailable, Timeout
from gsv_client.gateway.openai_door import SpeechFields
from gsv_client.gateway.settings import Settings
from gsv_client.gateway.voice_names import OPENAI_VOICES
from gsv_client.options import SpeechOptions
from gsv_client.testing import FakeAsyncTransport, FakeTransport

import dataclasses  # isort: skip

TEXT = "Hello there. It is a fine day."  # 0.1 s for each character but the blank between
SECONDS = 2.9
MEDIA_TYPES = {
    "mp3": "audio/mpeg", "opus": "audio/ogg; codecs=opus", "aac": "audio/aac",
    "flac": "audio/flac", "wav": "audio/wav", "pcm": "audio/pcm",
}  # fmt: skip


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{gateway.url}/v1", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("form", sorted(MEDIA_TYPES))
def test_the_official_client_streams_every_format(client: openai.OpenAI, form: str) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="tts-1",
        voice="alloy",
        input=TEXT,
        response_format=form,  # type: ignore[arg-type]
    ) as answer:
        assert answer.headers["content-type"] == MEDIA_TYPES[form]
        assert answer.headers["x-accel-buffering"] == "no"
        assert "first-audio;dur=" in answer.headers["server-timing"]
        data = b"".join(answer.iter_bytes())
    if form == "pcm":  # 24 kHz, 16 bit, mono, and nothing else
        assert len(data) == round(SECONDS * 24_000) * 2
    assert len(data) > 5_000


def test_a_whole_answer_has_its_length(http: httpx.Client, triton: FakeTransport) -> None:
    answer = http.post(
        "/v1/audio/speech", json={"input": TEXT, "response_format": "wav", "stream": False}
    )
    assert int(answer.headers["content-length"]) == len(answer.content)
    with wave.open(io.BytesIO(answer.content)) as sound:  # a strict reader
        assert sound.getparams()[:4] == (1, 2, 48_000, 30 * 4_800)
    assert triton.requests[-1].model == "gpt_sovits_v4"


def test_server_sent_events(client: openai.OpenAI, http: httpx.Client) -> None:
    body = {"input": TEXT, "response_format": "pcm", "stream_format": "sse"}
    with http.stream("POST", "/v1/audio/speech", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line]
    kinds = [event["type"] for event in events]
    assert kinds == ["speech.audio.delta"] * (len(kinds) - 1) + ["speech.audio.done"]
    data = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(data) == round(SECONDS * 24_000) * 2
    assert events[-1]["usage"]["input_tokens"] == len(TEXT)


def test_our_options_under_their_own_names(http: httpx.Client, triton: FakeTransport) -> None:
    recording = io.BytesIO()
    soundfile.write(recording, np.full(5 * 16_000, 0.1), 16_000, format="WAV")
    body = {
        "input": TEXT, "model": "anything", "instructions": "cheerfully", "nobody_knows": [1],
        "response_format": "pcm", "speed": 1.25, "seed": 7, "language": "en", "top_k": 5,
        "top_p": 0.9, "temperature": 0.5, "repetition_penalty": 1.2, "sample_steps": 4,
        "split_method": "cut0", "pause_seconds": 0.1, "sample_rate": 8_000,
        "reference": base64.b64encode(recording.getvalue()).decode(),
        "reference_window": [0.5, 4.0], "reference_text": "What I say.",
        "reference_language": "en",
    }  # fmt: skip
    answer = http.post("/v1/audio/speech", json=body)
    assert answer.status_code == 200
    assert len(answer.content) == round(SECONDS * 8_000) * 2
    inputs = triton.requests[-1].inputs
    scalars = {name: array.item() for name, array in inputs.items() if array.size == 1}
    assert scalars.pop("TEXT").decode() == TEXT
    assert scalars == pytest.approx(
        {
            "LANGUAGE": b"en", "TOP_K": 5, "TOP_P": 0.9, "TEMPERATURE": 0.5,
            "REPETITION_PENALTY": 1.2, "SEED": 7, "SPEED": 1.25, "SAMPLE_STEPS": 4,
            "SPLIT_METHOD": b"cut0", "PAUSE_SECONDS": 0.1, "SAMPLE_RATE": 8_000,
            "REFERENCE_SAMPLE_RATE": 16_000, "REFERENCE_TEXT": b"What I say.",
            "REFERENCE_LANGUAGE": b"en",
        }
    )  # fmt: skip
    assert inputs["REFERENCE_AUDIO"].shape == (1, 56_000)


def test_every_option_of_the_client_is_a_field() -> None:
    ours = {field.name for field in dataclasses.fields(SpeechOptions)}
    assert ours <= set(SpeechFields.model_fields)


def test_voices(http: httpx.Client, triton: FakeTransport) -> None:
    def asked(**body: object) -> object:
        answer = http.post("/v1/audio/speech", json={"input": "Hi you.", **body})
        assert answer.status_code == 200, answer.text
        found = triton.requests[-1].inputs.get("VOICE")
        return None if found is None else found.item().decode()

    assert asked(voice="demo/happy") == "demo/happy"
    assert asked(voice={"id": "demo"}) == "demo"
    assert asked(voice=" demo/happy ") == "demo/happy"
    assert asked() is None
    for name in (*OPENAI_VOICES, "default", ""):
        assert asked(voice=name) is None
    assert http.post("/v1/audio/speech", json={"input": "x", "voice": {}}).status_code == 400


def test_aliases() -> None:
    triton = FakeTransport()
    aliases = {"alloy": "demo/happy", "nova": "demo"}
    settings = Settings(local=True, aliases=aliases, default_voice="demo/happy")
    with (
        running(AsyncClient(transport=FakeAsyncTransport(triton)), settings) as gateway,
        httpx.Client(base_url=gateway.url) as http,
    ):
        for name, voice in (
            ("alloy", b"demo/happy"), ("nova", b"demo"), (None, b"demo/happy"),
            ("onyx", b"demo/happy"), ("demo", b"demo"),
        ):  # fmt: skip
            assert http.post("/v1/audio/speech", json={"input": "x", "voice": name}).is_success
            assert triton.requests[-1].inputs["VOICE"].item() == voice


def test_listings(client: openai.OpenAI, http: httpx.Client) -> None:
    models = [model.id for model in client.models.list()]
    assert models[0] == "gpt-sovits-v4"
    assert "tts-1" in models
    assert client.models.retrieve("tts-1").object == "model"
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.models.retrieve("gpt-9")
    # What Open WebUI fills its menus with.
    assert [model["id"] for model in http.get("/v1/audio/models").json()["models"]] == models
    voices = http.get("/v1/audio/voices").json()["voices"]
    assert [voice["id"] for voice in voices] == ["demo", "demo/happy"]
    assert [voice["default"] for voice in voices] == [True, False]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "Field required"),
        ({"input": ""}, "input", "empty"),
        ({"input": "  \n"}, "input", "empty"),
        ({"input": 5}, "input", "valid string"),
        ({"input": "x" * 10_001}, "input", "10001 characters; allowed: up to 10000"),
        ({"input": "x", "response_format": "midi"}, "response_format", "allowed: mp3"),
        ({"input": "x", "top_k": "many"}, "top_k", "valid integer"),
        ({"input": "x", "seed": 2**70}, "seed", "allowed: -9"),
        ({"input": "x", "sample_rate": 11_025}, "sample_rate", "allowed: 8000"),
        ({"input": "x", "stream_format": "smoke"}, "stream_format", "'audio' or 'sse'"),
        ({"input": "x", "reference": "%%"}, "reference", "sound file in base64"),
        ({"input": "x", "reference": "UklGRg=="}, "reference", "not a readable recording"),
        ({"input": "x", "reference_window": [1, 2]}, "reference_window", "without a reference"),
    ],
)  # fmt: skip
def test_errors_are_openais(http: httpx.Client, body: object, param: str, words: str) -> None:
    answer = http.post("/v1/audio/speech", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


@pytest.mark.parametrize("text", [b"{nope", b"", b"[1]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_malformed_json(http: httpx.Client, text: bytes) -> None:
    answer = http.post("/v1/audio/speech", content=text)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_numbers_and_letters_that_json_should_not_hold(http: httpx.Client) -> None:
    for text in (
        b'{"input": "x", "temperature": NaN}',
        b'{"input": "x", "top_k": Infinity}',
        b'{"input": "\\ud800"}',
        b'{"input": "x", "voice": "\\ud800"}',
        b'{"input": "x", "speed": 1e999}',
    ):
        answer = http.post("/v1/audio/speech", content=text)
        assert answer.status_code == 400, text
        assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status", "retry"),
    [
        (ServerUnavailable("grpc://10.0.0.7:8001: 64 are waiting; try again later"), 503, "2"),
        (ServerUnavailable("no server answers at grpc://10.0.0.7:8001 (refused)"), 503, "2"),
        (Timeout("grpc://10.0.0.7:8001: no answer within 5 s"), 504, None),
        (ServerError("grpc://10.0.0.7:8001: At: /opt/model.py(19): execute"), 502, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_what_triton_says(error: Exception, status: int, retry: str | None, stream: bool) -> None:
    """In words, with the right status, and without Triton's address or insides."""
    triton = FakeTransport(refuse=lambda request: error)  # type: ignore[arg-type,return-value]
    with (
        running(AsyncClient(transport=FakeAsyncTransport(triton))) as gateway,
        httpx.Client(base_url=gateway.url) as http,
    ):
        answer = http.post("/v1/audio/speech", json={"input": "Hi you.", "stream": stream})
    assert answer.status_code == status
    assert answer.headers.get("retry-after") == retry
    assert "10.0.0.7" not in answer.text
    assert "model.py" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-request-id"]


def test_a_break_in_the_middle_is_no_end() -> None:
    triton = FakeTransport(break_after=2, broken=ServerError("it broke"))
    with (
        running(AsyncClient(transport=FakeAsyncTransport(triton))) as gateway,
        httpx.Client(base_url=gateway.url) as http,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            http.post("/v1/audio/speech", json={"input": TEXT, "response_format": "wav"})
        body = {"input": TEXT, "response_format": "wav", "stream_format": "sse"}
        events = http.post("/v1/audio/speech", json=body).text.strip().split("\n\n")
        assert json.loads(events[-1][6:])["error"]["type"] == "server_error"


def test_request_ids_reach_triton(http: httpx.Client, triton: FakeTransport) -> None:
    answer = http.post(
        "/v1/audio/speech", json={"input": "Hi."}, headers={"X-Request-Id": "my-request.7"}
    )
    assert answer.headers["x-request-id"] == "my-request.7"
    assert triton.requests[-1].request_id == "my-request.7"
    for strange in ("a b", "x" * 65, 'a"\x01'):
        answer = http.post(
            "/v1/audio/speech", json={"input": "Hi."}, headers={"X-Request-Id": strange.encode()}
        )
        assert answer.headers["x-request-id"] != strange
        assert triton.requests[-1].request_id == answer.headers["x-request-id"]


def test_saved_audio_is_the_same_in_one_piece_and_streamed(http: httpx.Client) -> None:
    body = {"input": "One sentence here", "response_format": "wav"}
    streamed = http.post("/v1/audio/speech", json=body).content
    whole = http.post("/v1/audio/speech", json={**body, "stream": False}).content
    assert streamed[44:] == whole[44:]
    assert Audio.read(io.BytesIO(whole)).duration == pytest.approx(1.7)
