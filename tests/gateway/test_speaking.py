"""From an order to bytes: how much silence an answer ends with for certain."""

from __future__ import annotations

import pytest

from gsv_client.gateway.speaking import silence_at_end
from gsv_client.limits import DEFAULTS
from gsv_client.options import SpeechOptions

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
