"""Decoding, the peak guard, integers, and joining."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from gsv import audio


def test_all_channels_are_mixed(tmp_path: Path) -> None:
    samples = np.array([[0.5, -0.25, 0.125], [0.0, 0.25, 0.5]], np.float32)
    soundfile.write(tmp_path / "three.wav", samples, 22050, subtype="FLOAT")
    wave, rate = audio.read_wave(tmp_path / "three.wav")
    assert (rate, wave.dtype) == (22050, np.float32)
    np.testing.assert_allclose(wave, [0.125, 0.25])


def test_reads_open_files(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.flac", np.zeros(100, np.float32), 16000)
    wave, rate = audio.read_wave(io.BytesIO((tmp_path / "one.flac").read_bytes()))
    assert (len(wave), rate) == (100, 16000)


def test_errors_of_decoding(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing.wav"):
        audio.read_wave(tmp_path / "missing.wav")
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(ValueError, match="not a readable sound file"):
        audio.read_wave(tmp_path / "text.wav")


@pytest.mark.parametrize(("peak", "expected"), [(0.5, 0.5), (1.0, 1.0), (1.6, 1.0), (5.0, 2.5)])
def test_peak_guard(peak: float, expected: float) -> None:
    wave = np.array([0.1, -peak], np.float32)
    guarded = audio.peak_guard(wave)
    assert np.abs(guarded).max() == pytest.approx(expected)
    assert wave[1] == np.float32(-peak), "the given wave must stay as it is"


def test_integers_are_clipped_and_truncated() -> None:
    wave = np.array([1.0, -1.0, 2.0, 0.99999, 1.9 / 32768, -1.9 / 32768], np.float32)
    assert audio.to_pcm16(wave).tolist() == [32767, -32768, 32767, 32767, 1, -1]


def test_silence_is_counted_at_the_output_rate() -> None:
    assert len(audio.silence(0.3, 48000)) == 14400
