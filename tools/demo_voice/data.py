"""Reads what ``corpus.py`` stored, without bringing waves and mels into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv.constants import MEL_CHANNELS

Array = NDArray[Any]
HELD_OUT = 50  # last utterances of each teacher, which no step learns from
_SOUNDLESS = {"waves": np.zeros(0, np.int16), "mels": np.zeros((0, MEL_CHANNELS), np.float16)}


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

    def starts(self) -> Array:
        """Of every row, in :meth:`joined`."""
        sizes = np.cumsum([0, *(len(flat) for flat, _ in self._parts)])
        found = zip(self._parts, sizes[:-1], strict=True)
        return np.concatenate([first + borders[:-1] for (_, borders), first in found])

    def joined(self, device: torch.device) -> Tensor:
        """All rows in one flat tensor on ``device``."""
        return torch.cat([torch.from_numpy(np.array(flat)).to(device) for flat, _ in self._parts])


class Cutter:
    """Cuts spans of rows: from the files, or on a GPU from its memory, where all rows are kept."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self._flat = rows.joined(device) if device.type == "cuda" else None
        self._starts = rows.starts()

    def spans(self, rows: Array, firsts: Array, size: int) -> Tensor:
        """[B, size, ...] float32 on the device, each from its place ``firsts`` on."""
        if self._flat is None:
            cut = [self._rows[int(r)][f : f + size] for r, f in zip(rows, firsts, strict=True)]
            return torch.from_numpy(np.stack(cut).astype(np.float32)).to(self._device)
        begin = torch.from_numpy(self._starts[rows] + firsts).to(self._device)
        return self._flat[begin[:, None] + torch.arange(size, device=self._device)].float()


class Corpus:
    """Utterances: ``texts``, ``teachers`` (a number each), ``waves`` (int16, 32 kHz), ``mels``
    [T, 100] (float16, normalised), ``phonemes`` and their ``ends`` (in 0.1 ms).

    Waves and mels are empty in parts of which only the rows are there."""

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
        self.waves = _sounds(stems, "waves", [part["wave_borders"] for part in rows])
        self.mels = _sounds(stems, "mels", [part["mel_borders"] for part in rows])
        self.phonemes = Rows([(part["phonemes"], part["phoneme_borders"]) for part in rows])
        self.ends = Rows([(part["ends"], part["phoneme_borders"]) for part in rows])
        self.stems = [stem for _, stem in stems]
        self.sizes = [len(part["texts"]) for part in rows]

    @classmethod
    def parts(cls, folder: Path, names: Sequence[str]) -> Corpus:
        """``<folder>/<name>`` for the judged sentences, ``<folder>/<name>/*`` for the corpus."""
        return cls([(n, stem) for n, name in enumerate(names) for stem in _stems(folder, name)])

    def __len__(self) -> int:
        return len(self.texts)

    def learned(self) -> Array:
        """Places of the utterances with sound that are for learning."""
        return np.sort(np.concatenate([places[:-HELD_OUT] for places in self._with_sound()]))

    def held_out(self) -> Array:
        """Places of those that no step learns the sound of."""
        return np.sort(np.concatenate([places[-HELD_OUT:] for places in self._with_sound()]))

    def _with_sound(self) -> list[Array]:
        """By teacher."""
        there = self.mels.lengths() > 0
        numbers = np.unique(self.teachers)
        return [np.flatnonzero((self.teachers == number) & there) for number in numbers]


def _sounds(stems: Sequence[tuple[int, Path]], kind: str, borders: Sequence[Array]) -> Rows:
    parts = []
    for (_, stem), own in zip(stems, borders, strict=True):
        file = _beside(stem, f"{kind}.npy")
        if file.is_file():
            parts.append((np.load(file, mmap_mode="r"), own))
        else:
            parts.append((_SOUNDLESS[kind], np.zeros_like(own)))
    return Rows(parts)


def _stems(folder: Path, name: str) -> Iterator[Path]:
    if _beside(folder / name, "rows.npz").is_file():
        yield folder / name
        return
    for path in sorted((folder / name).glob("*.rows.npz")):
        yield path.with_name(path.name.removesuffix(".rows.npz"))


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}.{ending}")
