"""Teachers that need no synthesizer: every phone is a tone or noise of its own, on a melody."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import corpus
import numpy as np
import pytest
from numpy.typing import NDArray
from teachers import Teacher

from gsv.constants import REFERENCE_RATE

RATE = REFERENCE_RATE
PHONE_SECONDS = 0.08
TEXTS = tuple(
    f"{who} {did} {what}."
    for who in ("The boy", "My mother", "Our neighbor", "The farmer", "She")
    for did in ("saw", "bought", "painted", "found")
    for what in ("a green door", "the old boat", "some bread", "a small bird", "two black horses")
)


class ToyTeacher:
    """Reads as the product's frontend does, so that every text has an alignment."""

    def __init__(self, base: float) -> None:
        self._base = base
        self._reader = corpus.Reader()

    def __call__(self, texts: Sequence[str]) -> list[corpus.Spoken]:
        return [self._speak(text) for text in texts]

    def _speak(self, text: str) -> corpus.Spoken:
        reading = self._reader.read(text)
        assert reading is not None
        names = ["pau", *(s.rstrip("012").lower() for s in reading.symbols[:-1]), "pau", "pau"]
        ends = np.cumsum([0.2, *[PHONE_SECONDS] * (len(names) - 3), 0.3, 0.1])
        wave = np.zeros(round(ends[-1] * RATE), np.float32)
        for number, (name, end) in enumerate(zip(names, ends, strict=True)):
            if name != "pau":
                pitch = self._base * 2 ** (0.3 * np.sin(number / 3))
                first = round((end - PHONE_SECONDS) * RATE)
                wave[first : round(end * RATE)] = _sound(name, pitch)
        return corpus.Spoken(wave, tuple(names), tuple(ends.tolist()))


def _sound(name: str, pitch: float) -> NDArray[np.float32]:
    """Harmonics, whose loudness is the phone's own."""
    loudness = np.random.default_rng(zlib.crc32(name.encode())).random(12)
    times = np.arange(round(PHONE_SECONDS * RATE)) / RATE
    waves = [a * np.sin(2 * np.pi * pitch * (n + 1) * times) for n, a in enumerate(loudness)]
    return (0.1 * np.sum(waves, axis=0)).astype(np.float32)


def make_run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A run of two toy teachers: corpus, codebook and tokens."""
    import codes
    import places
    import teachers

    monkeypatch.setattr(places, "RUN", folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = {"slt": Teacher("slt", ToyTeacher(200.0)), "rms": Teacher("rms", ToyTeacher(110.0))}
    monkeypatch.setattr(teachers, "TEACHERS", made)
    monkeypatch.setattr(corpus, "TEACHERS", made)
    monkeypatch.setattr("data.HELD_OUT", 4)
    reader = corpus.Reader()
    for name in made:
        corpus.speak(folder / "judged" / name, name, TEXTS[-3:], reader)
        for part in range(2):
            stem = folder / "corpus" / name / f"{part:04}"
            corpus.speak(stem, name, TEXTS[part * 20 : part * 20 + 20], reader)
    main = codes.main.callback
    assert main is not None
    main(1)
    return folder
