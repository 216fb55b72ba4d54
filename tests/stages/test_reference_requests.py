"""What a request may bring as its reference, told before any work is done."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gsv.errors import InvalidRequest
from gsv.stages.messages import ReferenceRequest

RATE = 16_000


def tone(seconds: float, level: float = 0.3) -> NDArray[np.float32]:
    time = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * 220 * time)).astype(np.float32)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(4 * RATE, np.float32),
        tone(4, 0.0002),
        np.full(4 * RATE, 0.5, np.float32),  # a constant is no sound
        (tone(4) + -tone(4)) / 2,  # two channels in opposite phase, mixed
    ],
)
def test_a_reference_without_speech_is_refused(samples: NDArray[np.float32]) -> None:
    with pytest.raises(InvalidRequest, match="REFERENCE_AUDIO: holds nothing but silence"):
        ReferenceRequest(reference_audio=samples, reference_sample_rate=RATE)


def test_a_quiet_one_with_something_in_it_is_taken() -> None:
    samples = np.zeros(4 * RATE, np.float32)
    samples[RATE : 2 * RATE] = tone(1, 0.01)
    ReferenceRequest(reference_audio=samples, reference_sample_rate=RATE)


@pytest.mark.parametrize(("seconds", "told"), [(2.98, "2.98"), (10.02, "10.02"), (11, "11.00")])
def test_a_wrong_length_does_not_look_allowed(seconds: float, told: str) -> None:
    with pytest.raises(InvalidRequest, match=f"got {told} s; allowed: 3 to 10 s"):
        ReferenceRequest(reference_audio=tone(seconds), reference_sample_rate=RATE)


@pytest.mark.parametrize(("seconds", "told"), [(10.001, "10.001"), (2.999, "2.999")])
def test_nor_does_one_that_is_a_little_wrong(seconds: float, told: str) -> None:
    from gsv.stages.messages import wrong_length

    assert f"got {told} s; allowed: 3 to 10 s" in str(wrong_length(seconds))
