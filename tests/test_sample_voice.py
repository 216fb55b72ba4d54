"""The bundled voice is what a reference must be, and says how it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from gsv.constants import REFERENCE_MAX_SECONDS, REFERENCE_MIN_SECONDS
from gsv.voices import load_voice

FOLDER = Path(__file__).resolve().parent.parent / "voices" / "sample"


def test_sample_voice() -> None:
    voice = load_voice(FOLDER)
    assert voice.language == "en"
    info = soundfile.info(voice.reference)
    assert (info.channels, info.subtype, info.format) == (1, "PCM_16", "WAV")
    assert 24_000 <= info.samplerate <= 48_000
    assert REFERENCE_MIN_SECONDS <= info.duration <= REFERENCE_MAX_SECONDS
    wave, _ = soundfile.read(voice.reference)
    assert np.abs(wave).max() < 0.9
    assert np.sqrt(np.mean(wave**2)) > 0.02
    assert voice.reference.stat().st_size < 500_000


def test_its_origin_is_told() -> None:
    assert "eSpeak NG" in (FOLDER / "voice.toml").read_text(encoding="utf-8")
