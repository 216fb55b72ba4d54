"""Voice folders for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 24_000
SAMPLE = Path(__file__).resolve().parents[2] / "voices" / "sample" / "reference.wav"


def speech(seconds: float = 4.0, rate: int = RATE, seed: int = 0) -> NDArray[np.float32]:
    """Something like speech: voiced syllables with pauses, and a wide-band hiss in them."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voiced = sum(np.sin(k * phase) / k for k in range(1, 30) if k * 140 < rate / 2)
    noise = rng.standard_normal(len(time)) * 0.15
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * time) + 0.6, 0, 1)
    wave = 0.15 * envelope * (voiced + noise) + 1e-4 * rng.standard_normal(len(time))
    return wave.astype(np.float32)


def write_wave(path: Path, seconds: float = 4.0, seed: int = 0, rate: int = RATE) -> Path:
    """A recording of synthetic speech."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech(seconds, rate, seed), rate, subtype="PCM_16")
    return path


def make_voice(folder: Path, extra: str = "", *, seed: int = 0, **values: str) -> Path:
    """A whole voice; ``extra`` is more TOML."""
    write_wave(folder / "reference.wav", seed=seed)
    entries = {"reference": "reference.wav", "text": "Some words.", "language": "en", **values}
    lines = [f"{key} = '{value}'" for key, value in entries.items()]
    (folder / "voice.toml").write_text("\n".join([*lines, extra]), encoding="utf-8")
    return folder
