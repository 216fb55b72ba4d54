"""The caller's trace goes with what the gateway asks of Triton, through every door."""

from __future__ import annotations

import json

import httpx
import pytest
from gateway.running import Gateway
from websockets.sync.client import connect

from gsv_client.testing import FakeTransport, text_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
HEADERS = {"traceparent": PARENT}
FIRST, SECOND = "This is the first sentence.", "And this is the second one."
TTS = {"text": "Hi.", "text_lang": "en", "ref_audio_path": "demo", "prompt_lang": "en"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/audio/speech", {"input": "Hi.", "response_format": "pcm"}),
        ("/v1/audio/speech", {"input": "Hi.", "response_format": "pcm", "stream": False}),
        ("/v1/audio/speech", {"input": "Hi.", "stream_format": "sse", "response_format": "pcm"}),
        ("/v1/speech", {"text": "Hi."}),
        ("/tts", {**TTS, "streaming_mode": 0}),
        ("/tts", {**TTS, "streaming_mode": 1}),
    ],
)
def test_the_trace_reaches_triton(
    http: httpx.Client, triton: FakeTransport, path: str, body: dict[str, object]
) -> None:
    answer = http.post(path, json=body, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    spoken = [r for r in triton.requests if r.model.startswith("gpt_sovits")]
    assert [r.headers for r in spoken] == [HEADERS]
    triton.requests.clear()
    http.post(path, json=body)
    assert [r.headers for r in triton.requests if r.model.startswith("gpt_sovits")] == [{}]


def test_every_sentence_of_a_socket_has_it(gateway: Gateway, triton: FakeTransport) -> None:
    url = f"{gateway.url.replace('http', 'ws')}/v1/speech/stream"
    with connect(url, proxy=None, additional_headers=HEADERS) as socket:
        for message in (
            {"type": "start", "voice": "demo"},
            {"type": "text", "text": f"{FIRST} {SECOND}"},
            {"type": "end"},
        ):
            socket.send(json.dumps(message))
        for _ in socket:
            pass
    spoken = [r for r in triton.requests if r.model == "gpt_sovits_v4_stream"]
    assert [(text_of(r), r.headers) for r in spoken] == [(FIRST, HEADERS), (SECOND, HEADERS)]


@pytest.mark.parametrize(
    "given",
    [
        "nonsense",
        f"01-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT}-more",
        f"{PARENT[:-2]}00",  # nobody records the caller's spans
        f"{PARENT[:-2]}02",
    ],
)
def test_what_is_no_trace_is_left_out(
    http: httpx.Client, triton: FakeTransport, given: str
) -> None:
    body = {"input": "Hi.", "response_format": "pcm"}
    answer = http.post("/v1/audio/speech", json=body, headers={"traceparent": given})
    assert answer.status_code == 200
    assert [r.headers for r in triton.requests] == [{}]
