"""Makes voices/sample/reference.wav again: espeak-ng, resampled, levelled.

    .venv/bin/python tools/make_sample_voice.py

Needs the program espeak-ng (Debian package of that name).
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import soxr

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).resolve().parent.parent / "voices" / "sample"
RATE = 24_000
PEAK = 0.6  # of full scale: far from clipping
EDGE_SECONDS = 0.1
SILENCE = 0.005


def main() -> None:
    """Speak the transcript of voice.toml and write the recording beside it."""
    text = tomllib.loads((FOLDER / "voice.toml").read_text(encoding="utf-8"))["text"]
    command = ["espeak-ng", "-v", "en-us+f3", "-s", "150", "-p", "45", "--stdout", text]
    spoken = subprocess.run(command, capture_output=True, check=True).stdout
    wave, rate = soundfile.read(io.BytesIO(spoken), dtype="float32")
    wave = soxr.resample(wave, rate, RATE)
    loud = np.flatnonzero(np.abs(wave) > SILENCE * np.abs(wave).max())
    edge = np.zeros(int(EDGE_SECONDS * RATE), np.float32)
    wave = np.concatenate([edge, wave[loud[0] : loud[-1] + 1], edge])
    wave *= PEAK / np.abs(wave).max()
    soundfile.write(FOLDER / "reference.wav", wave, RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
