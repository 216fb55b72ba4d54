"""What is found in recordings: good ones pass, each fault has its remark."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray
from voices.voice_files import RATE, SAMPLE, speech

from gsv import constants
from gsv_client import quality
from gsv_client.quality import Report, best_window, inspect


def remarks(wave: NDArray[np.float32], rate: int = RATE) -> dict[str, str]:
    """Level by message."""
    return {remark.message: remark.level for remark in inspect(wave, rate).remarks}


def one(wave: NDArray[np.float32], word: str, level: str, rate: int = RATE) -> Report:
    found = remarks(wave, rate)
    assert [value for key, value in found.items() if word in key] == [level], found
    return inspect(wave, rate)


def test_good_recordings_pass() -> None:
    assert remarks(speech()) == {}
    report = inspect(speech(5.0), RATE)
    assert report.seconds == 5.0
    assert -30 < report.level_db < -10
    assert report.bandwidth > 10_000
    wave, rate = soundfile.read(SAMPLE, dtype="float32")
    assert inspect(wave, rate).usable


@pytest.mark.parametrize("seconds", [0.5, 2.9, 10.1])
def test_length(seconds: float) -> None:
    assert not one(speech(seconds), "allowed: 3 to 10 s", "error").usable


def test_level() -> None:
    assert one(speech() * np.float32(0.05), "dB below full scale", "warning").usable
    one(speech() * np.float32(0.008), "dB below full scale", "error")
    one(np.zeros(4 * RATE, np.float32), "nothing but silence", "error")


def test_clipping() -> None:
    loud = speech()
    loud[::2_000] = 1.0
    one(loud, "are clipped", "warning")
    one(np.clip(speech() * np.float32(30), -1, 1), "are clipped", "error")


def test_silence_at_both_ends() -> None:
    silence = np.zeros(round(0.8 * RATE), np.float32)
    one(np.concatenate([silence, speech()]), "begins with", "warning")
    report = one(np.concatenate([speech(), silence]), "ends with", "warning")
    assert 0.7 <= report.trailing_silence <= 1.1
    pause = np.zeros(round(4.5 * RATE), np.float32)
    one(np.concatenate([speech(0.8), pause, speech(0.8)]), "are speech", "error")


def test_bandwidth() -> None:
    dull = soxr.resample(soxr.resample(speech(), RATE, 8_000, "VHQ"), 8_000, RATE, "VHQ")
    report = one(dull, "nothing above", "warning")
    assert 3_500 < report.bandwidth < 4_500
    one(soxr.resample(speech(), RATE, 8_000), "recorded at 8000 Hz", "warning", rate=8_000)
    hum = np.sin(2 * np.pi * 100 * np.arange(4 * RATE) / RATE).astype(np.float32) * 0.3
    one(hum, "nothing above", "error")


def test_values_that_are_no_numbers() -> None:
    broken = speech()
    broken[100] = np.nan
    one(broken, "not finite", "error")


def test_a_constant_offset_is_no_sound() -> None:
    one(np.full(4 * RATE, 0.3, np.float32), "nothing but silence", "error")


def test_the_best_window_begins_and_ends_in_pauses() -> None:
    gap = np.zeros(RATE // 2, np.float32)
    bad = np.clip(speech(7.0, seed=1) * np.float32(30), -1, 1)
    wave = np.concatenate([gap, bad, gap, speech(6.8), gap, speech(2.0, seed=2), gap])
    window = best_window(wave, RATE)
    assert window is not None
    start, end = window
    assert 7.4 <= start <= 10.0
    assert end - start >= 5.0
    cut = wave[round(start * RATE) : round(end * RATE)]
    assert inspect(cut, RATE).remarks == ()
    edge = RATE // 10
    assert max(np.abs(cut[:edge]).max(), np.abs(cut[-edge:]).max()) < 0.05


def test_a_short_recording_has_no_window() -> None:
    assert best_window(speech(8.5), RATE) is None


def test_a_long_recording_is_searched_quickly() -> None:
    minutes = np.tile(speech(20.0), 30)
    window = best_window(minutes, RATE)
    assert window is not None
    assert 5 <= window[1] - window[0] <= 9.01


def test_the_bounds_are_the_servers() -> None:
    allowed = (quality.REFERENCE_MIN_SECONDS, quality.REFERENCE_MAX_SECONDS)
    assert allowed == (constants.REFERENCE_MIN_SECONDS, constants.REFERENCE_MAX_SECONDS)
