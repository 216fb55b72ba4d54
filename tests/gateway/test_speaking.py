"""From an order to bytes: certain silence at the end, and Triton that tells nothing."""

from __future__ import annotations

import time

import httpx
import pytest
from gateway.running import running

from gsv_client import AsyncClient
from gsv_client.gateway import speaking
from gsv_client.gateway.speaking import silence_at_end
from gsv_client.limits import DEFAULTS
from gsv_client.options import SpeechOptions
from gsv_client.testing import FakeAsyncTransport

USUAL = DEFAULTS["PAUSE_SECONDS"]


@pytest.mark.parametrize(
    ("text", "pause", "silence"),
    [
        ("Good evening.", None, USUAL),
        ("Good evening.", 0.0, 0.0),
        ("Good evening.[pause:0s]", None, 0.0),
        ("Good evening.[pause:0s]", 0.5, 0.0),
        ("Good evening. [pause: 40ms ]", None, 0.04),
        ("Good evening.[pause:0s] !", None, 0.0),  # nothing is read after it
        ("Good [pause:2s] evening.", None, USUAL),
        ("Good evening.[pause:2s][pause:0.1s]", None, 0.1),  # 2.1 s in fact: "at least"
        ("Good evening [pause:soon].", 0.2, 0.2),  # the server refuses it
    ],
)
def test_the_shortest_pause_is_certain(text: str, pause: float | None, silence: float) -> None:
    assert silence_at_end(SpeechOptions(pause_seconds=pause), text) == pytest.approx(silence)


def test_triton_that_tells_nothing_holds_no_place_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who has left before the answer began can't be seen until then."""
    monkeypatch.setattr(speaking, "TOLD_SECONDS", 0.3)
    client = AsyncClient(transport=FakeAsyncTransport(pace=30.0))
    with running(client) as gateway, httpx.Client(base_url=gateway.url, timeout=20) as http:
        answer = http.get("/v1/audio/voices")
        assert answer.status_code == 504
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/audio/speech", json={"input": "x", "voice": "alloy"}, timeout=0.1)
        deadline = time.monotonic() + 5
        while gateway.metrics.in_flight and time.monotonic() < deadline:
            time.sleep(0.02)
        assert gateway.metrics.in_flight == 0
