"""Reads what ``corpus.py`` stored, without bringing waves and mels into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
HELD_OUT = 50  # last utterances of each teacher, which no step learns from


class Rows:
    """Rows of different lengths, one after another in flat arrays."""

    def __init__(self, parts: Sequence[tuple[Array, Array]]) -> None:
        """Flat arrays, each with the borders of its rows."""
        self._parts = parts
        self._at = [(p, r) for p, (_, borders) in enumerate(parts) for r in range(len(borders) - 1)]

    def __len__(self) -> int:
        return len(self._at)

    def __getitem__(self, index: int) -> Array:
        part, row = self._at[index]
        flat, borders = self._parts[part]
        found: Array = flat[borders[row] : borders[row + 1]]
        return found

    def lengths(self) -> Array:
        """Of every row."""
        return np.concatenate([np.diff(borders) for _, borders in self._parts])


class Corpus:
    """Utterances: ``texts``, ``teachers`` (a number each), ``waves`` (int16, 32 kHz), ``mels``
    [T, 100] (float16, normalised), ``phonemes`` and their ``ends`` (in 0.1 ms)."""

    def __init__(self, stems: Sequence[tuple[int, Path]]) -> None:
        """Parts, each with the number of its teacher."""
        if not stems:
            raise FileNotFoundError("no part of the corpus is there; run corpus.py first")
        rows = [np.load(_beside(stem, "rows.npz")) for _, stem in stems]
        self.texts: list[str] = [str(text) for part in rows for text in part["texts"]]
        self.teachers: Array = np.concatenate([
            np.full(len(part["texts"]), number)
            for (number, _), part in zip(stems, rows, strict=True)
        ])  # fmt: skip
        self.waves = self._rows(stems, "waves", [part["wave_borders"] for part in rows])
        self.mels = self._rows(stems, "mels", [part["mel_borders"] for part in rows])
        self.phonemes = Rows([(part["phonemes"], part["phoneme_borders"]) for part in rows])
        self.ends = Rows([(part["ends"], part["phoneme_borders"]) for part in rows])
        self.stems = [stem for _, stem in stems]
        self.sizes = [len(part["texts"]) for part in rows]

    @staticmethod
    def _rows(stems: Sequence[tuple[int, Path]], kind: str, borders: Sequence[Array]) -> Rows:
        flats = [np.load(_beside(stem, f"{kind}.npy"), mmap_mode="r") for _, stem in stems]
        return Rows(list(zip(flats, borders, strict=True)))

    @classmethod
    def parts(cls, folder: Path, names: Sequence[str]) -> Corpus:
        """``<folder>/<name>`` for the judged sentences, ``<folder>/<name>/*`` for the corpus."""
        return cls([(n, stem) for n, name in enumerate(names) for stem in _stems(folder, name)])

    def __len__(self) -> int:
        return len(self.texts)

    def learned(self) -> Array:
        """Places of the utterances that are for learning; the others are held out."""
        parts = [np.flatnonzero(self.teachers == t)[:-HELD_OUT] for t in set(self.teachers)]
        return np.sort(np.concatenate(parts))


def _stems(folder: Path, name: str) -> Iterator[Path]:
    if _beside(folder / name, "rows.npz").is_file():
        yield folder / name
        return
    for path in sorted((folder / name).glob("*.rows.npz")):
        yield path.with_name(path.name.removesuffix(".rows.npz"))


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}.{ending}")
