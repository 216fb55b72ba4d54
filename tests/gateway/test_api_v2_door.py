"""GPT-SoVITS' door, through a client written from the documentation of upstream's api_v2.

Its header documents: `GET /tts?text=…&text_lang=…&ref_audio_path=…&prompt_lang=…&…`, `POST /tts`
with the same fields as JSON; on success the sound itself with code 200, on failure JSON with code
400. `/control`, `/set_gpt_weights`, `/set_sovits_weights` likewise.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.parse
import urllib.request
import wave
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from gateway.running import Gateway, running

from gsv_client import AsyncClient, ServerUnavailable
from gsv_client.testing import FakeAsyncTransport, FakeTransport


class UpstreamClient:
    """As a user of api_v2 writes one, with the standard library alone."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.defaults: dict[str, Any] = {
            "text_lang": "zh", "ref_audio_path": "demo", "prompt_lang": "zh",
            "prompt_text": "我是云骑将军。", "text_split_method": "cut5", "batch_size": 1,
        }  # fmt: skip

    def get(self, path: str, **query: object) -> tuple[int, str, bytes]:
        url = f"{self.base}{path}?{urllib.parse.urlencode(query)}"
        return self._answer(urllib.request.Request(url))

    def tts_get(self, **fields: object) -> tuple[int, str, bytes]:
        return self.get("/tts", **{**self.defaults, **fields})

    def tts_post(self, **fields: object) -> tuple[int, str, bytes]:
        body = json.dumps({**self.defaults, **fields}).encode()
        headers = {"Content-Type": "application/json"}
        return self._answer(urllib.request.Request(f"{self.base}/tts", body, headers))

    def _answer(self, request: urllib.request.Request) -> tuple[int, str, bytes]:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["content-type"], answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers["content-type"], error.read()


TEXT = "先帝创业未半而中道崩殂。今天下三分。"
SAMPLES = 18 * 4_800
AAC_FRAME = 1_024
EVERYTHING = {
    "aux_ref_audio_paths": [], "top_k": 5, "top_p": 1, "temperature": 1,
    "text_split_method": "cut0", "batch_size": 4, "batch_threshold": 0.75, "split_bucket": True,
    "speed_factor": 1.1, "fragment_interval": 0.2, "seed": 42, "parallel_infer": True,
    "repetition_penalty": 1.3, "sample_steps": 8, "super_sampling": False, "streaming_mode": False,
    "overlap_length": 2, "min_chunk_length": 16, "media_type": "wav",
}  # fmt: skip


@pytest.fixture
def client(gateway: Gateway) -> UpstreamClient:
    return UpstreamClient(gateway.url)


@pytest.mark.parametrize("verb", ["tts_get", "tts_post"])
def test_a_whole_wav(client: UpstreamClient, verb: str) -> None:
    status, kind, data = getattr(client, verb)(text=TEXT)
    assert (status, kind) == (200, "audio/wav")
    with wave.open(io.BytesIO(data)) as sound:
        assert sound.getparams()[:4] == (1, 2, 48_000, SAMPLES)


def test_every_field(client: UpstreamClient, triton: FakeTransport) -> None:
    status, _, _ = client.tts_post(text=TEXT, text_lang="ALL_ZH", **{**EVERYTHING})
    assert status == 200
    inputs = {name: array.item() for name, array in triton.requests[-1].inputs.items()}
    assert inputs.pop("TEXT").decode() == TEXT
    assert inputs == pytest.approx(
        {
            "LANGUAGE": b"all_zh", "VOICE": b"demo", "TOP_K": 5, "TOP_P": 1.0, "TEMPERATURE": 1.0,
            "REPETITION_PENALTY": 1.3, "SEED": 42, "SPEED": 1.1, "SAMPLE_STEPS": 8,
            "SPLIT_METHOD": b"cut0", "PAUSE_SECONDS": 0.2, "SAMPLE_RATE": 48_000,
        }
    )  # fmt: skip
    assert client.tts_get(text=TEXT, **{**EVERYTHING})[0] == 200


@pytest.mark.parametrize("verb", ["tts_get", "tts_post"])
@pytest.mark.parametrize("mode", [1, 2, 3, True, "true"])
@pytest.mark.parametrize("media", ["wav", "raw", "ogg", "aac"])
def test_streaming(client: UpstreamClient, verb: str, mode: object, media: str) -> None:
    status, kind, data = getattr(client, verb)(
        text=TEXT, streaming_mode=mode, media_type=media, fragment_interval=0
    )
    assert (status, kind) == (200, f"audio/{media}")
    assert _samples(media, data) == pytest.approx(SAMPLES, abs=AAC_FRAME if media == "aac" else 0)


@pytest.mark.parametrize("media", ["wav", "raw", "ogg", "aac"])
def test_whole(client: UpstreamClient, media: str) -> None:
    status, kind, data = client.tts_post(text=TEXT, streaming_mode=0, media_type=media)
    assert (status, kind) == (200, f"audio/{media}")
    assert _samples(media, data) == pytest.approx(SAMPLES, abs=AAC_FRAME if media == "aac" else 0)


def _samples(media: str, data: bytes) -> int:
    if media == "raw":
        return len(data) // 2
    if media == "ogg":
        info = soundfile.info(io.BytesIO(data))
        assert (info.samplerate, info.subtype) == (48_000, "VORBIS")
        return int(info.frames)
    if media == "wav":
        assert data[:4] == b"RIFF"
        return (len(data) - 44) // 2
    with av.open(io.BytesIO(data), format="aac") as file:
        return sum(frame.samples for frame in file.decode(audio=0))


@pytest.mark.parametrize("verb", ["tts_get", "tts_post"])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ref_audio_path": "", "text": ""}, "ref_audio_path is required"),
        ({"text": ""}, "text is required"),
        ({"text_lang": ""}, "text_lang is required"),
        ({"text_lang": "xx"}, "text_lang: xx is not supported in version v4"),
        ({"prompt_lang": ""}, "prompt_lang is required"),
        ({"prompt_lang": "yy"}, "prompt_lang: yy is not supported in version v4"),
        ({"media_type": "mp3"}, "media_type: mp3 is not supported"),
        ({"text_split_method": "cut9"}, "text_split_method:cut9 is not supported"),
        ({"streaming_mode": 5},
         "the value of streaming_mode must be 0, 1, 2, 3(int) or true/false(bool)"),
    ],
)  # fmt: skip
def test_upstreams_errors_in_its_words(
    client: UpstreamClient, verb: str, fields: dict[str, Any], message: str
) -> None:
    status, kind, data = getattr(client, verb)(**{"text": TEXT, **fields})
    assert (status, kind.partition(";")[0]) == (400, "application/json")
    assert json.loads(data) == {"message": message}


def test_wrong_types_and_broken_json(client: UpstreamClient) -> None:
    for status, _, data in (
        client.tts_post(text=TEXT, top_k="many"),
        client.tts_get(text=TEXT, temperature="warm"),
        client.tts_post(text=None),
        client._answer(
            urllib.request.Request(
                f"{client.base}/tts", b"{nope", {"Content-Type": "application/json"}
            )
        ),
    ):
        assert status == 422
        assert {"type", "loc", "msg"} <= set(json.loads(data)["detail"][0])
    request = urllib.request.Request(f"{client.base}/control", b"{}")
    assert client._answer(request)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../../voices/demo", "demo/../demo", "C:\\voice.wav", "demo/happy/x",
        "file:///etc/passwd", "http://127.0.0.1/x.wav", "\\\\host\\share", "demo\x00", "~/x.wav",
    ],
)  # fmt: skip
def test_no_path_is_followed(client: UpstreamClient, triton: FakeTransport, path: str) -> None:
    status, _, data = client.tts_post(text=TEXT, ref_audio_path=path)
    told = json.loads(data)
    assert (status, told["message"]) == (400, "tts failed")
    assert "allowed: the name of a voice" in told["Exception"]
    assert triton.requests == []


def test_a_recording_comes_along(client: UpstreamClient, triton: FakeTransport) -> None:
    file = io.BytesIO()
    soundfile.write(file, np.full(4 * 16_000, 0.1), 16_000, format="WAV")
    data_url = "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()
    assert client.tts_post(text=TEXT, ref_audio_path=data_url)[0] == 200
    inputs = triton.requests[-1].inputs
    assert inputs["REFERENCE_AUDIO"].shape == (1, 64_000)
    assert inputs["REFERENCE_TEXT"].item().decode() == "我是云骑将军。"
    assert inputs["REFERENCE_LANGUAGE"].item() == b"zh"
    assert "VOICE" not in inputs
    status, _, data = client.tts_post(text=TEXT, ref_audio_path=data_url, prompt_text="")
    assert status == 400
    assert "prompt_text: empty" in json.loads(data)["Exception"]

    import httpx

    fields = {"text": TEXT, "text_lang": "zh", "prompt_lang": "zh", "prompt_text": "你好。",
              "seed": "5"}  # fmt: skip
    upload = {"ref_audio": ("me.wav", file.getvalue(), "audio/wav")}
    answer = httpx.post(f"{client.base}/tts", data=fields, files=upload)
    assert answer.status_code == 200, answer.text
    assert triton.requests[-1].inputs["SEED"].item() == 5
    assert triton.requests[-1].inputs["REFERENCE_TEXT"].item().decode() == "你好。"
    broken = {"ref_audio": ("me.wav", b"no sound", "audio/wav")}
    answer = httpx.post(f"{client.base}/tts", data=fields, files=broken)
    assert answer.json()["message"] == "tts failed"


def test_what_changes_the_server_is_answered_with_what_to_do(client: UpstreamClient) -> None:
    for path, message in (
        ("/set_gpt_weights", "change gpt weight failed"),
        ("/set_sovits_weights", "change sovits weight failed"),
    ):
        status, _, data = client.get(path, weights_path="GPT_weights/x.ckpt")
        assert status == 400
        assert json.loads(data)["message"] == message
        assert "gsv voices add" in json.loads(data)["Exception"]
    assert json.loads(client.get("/set_gpt_weights")[2]) == {
        "message": "gpt weight path is required"
    }
    assert json.loads(client.get("/set_sovits_weights")[2]) == {
        "message": "sovits weight path is required"
    }
    status, _, data = client.get("/set_refer_audio", refer_audio_path="x.wav")
    assert (status, json.loads(data)["message"]) == (400, "set refer audio failed")
    assert json.loads(client.get("/control")[2]) == {"message": "command is required"}
    for command in ("restart", "exit"):
        status, _, data = client.get("/control", command=command)
        assert status == 403
        assert "refused" in json.loads(data)["message"]
    assert client.get("/health")[0] == 200  # and it still runs


def test_a_full_server() -> None:
    full = ServerUnavailable("grpc://triton:8001: 64 requests are waiting; try again later")
    triton = FakeTransport(refuse=lambda request: full)
    with running(AsyncClient(transport=FakeAsyncTransport(triton))) as gateway:
        for mode in (0, 1):
            status, _, data = UpstreamClient(gateway.url).tts_post(text=TEXT, streaming_mode=mode)
            assert status == 503
            assert json.loads(data) == {
                "message": "tts failed",
                "Exception": "64 requests are waiting; try again later",
            }
