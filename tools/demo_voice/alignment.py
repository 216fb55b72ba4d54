"""Ends of the frontend's phonemes, from the ends of a teacher's phones.

Both sides are cut at their pauses and marks; in between, the cheapest path of matches tells which
phone is which. A text that the two sides read differently has no alignment.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from teachers import PAUSE

MARKS = frozenset(".,?!")
_VOWELS = frozenset([
    "AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW",
])  # fmt: skip
_NAMES = {"AX": "AH", "AXR": "ER", "HV": "HH"}
_LONELY = 0.8  # price of a phone that only one side has
_WORST = 0.45  # price a phone above which the sides read different words


def align(
    phones: Sequence[str], ends: Sequence[float], symbols: Sequence[str]
) -> list[float] | None:
    """Ends in seconds of the symbols of one sentence, marks included; None if the sides differ.

    Args:
        phones: of the teacher, with a pause at the beginning and at the end.
        ends: of the phones, in seconds.
        symbols: of the frontend; the last one is a mark.
    """
    theirs = _phrases([phone == PAUSE for phone in phones])
    ours = _phrases([symbol in MARKS for symbol in symbols])
    if len(theirs) != len(ours) or phones[0] != PAUSE or phones[-1] != PAUSE:
        return None
    made = [0.0] * len(symbols)
    for i in range(ours[0][0]):  # a mark that the frontend puts before a short text
        made[i] = ends[0]
    for phrase, (given, wanted) in enumerate(zip(theirs, ours, strict=True)):
        part = _phrase(phones[slice(*given)], ends[slice(*given)], ends[given[0] - 1],
                       symbols[slice(*wanted)])  # fmt: skip
        if part is None:
            return None
        made[slice(*wanted)] = part
        # The mark takes the pause behind the phrase.
        after = theirs[phrase + 1][0] if phrase + 1 < len(theirs) else len(phones)
        last = ours[phrase + 1][0] if phrase + 1 < len(ours) else len(symbols)
        for i in range(wanted[1], last):
            made[i] = ends[after - 1]
    return made


def _phrases(silent: Sequence[bool]) -> list[tuple[int, int]]:
    """First and last + 1 of each run of places that aren't silent."""
    found = []
    at = 0
    for quiet, group in itertools.groupby(silent):
        size = len(list(group))
        if not quiet:
            found.append((at, at + size))
        at += size
    return found


def _phrase(
    theirs: Sequence[str], ends: Sequence[float], start: float, ours: Sequence[str]
) -> list[float] | None:
    names = [_NAMES.get(phone.upper(), phone.upper()) for phone in theirs]
    plain = [symbol.rstrip("012") for symbol in ours]
    if names == plain:
        return list(ends)
    path, price = _cheapest(names, plain)
    if price > _WORST * len(plain):
        return None
    begins = [start, *ends[:-1]]
    spans = np.full((len(plain), 2), (np.inf, -np.inf))
    for i, j in path:
        span = spans[max(j, 0)]
        at = max(i, 0)
        span[0], span[1] = min(span[0], begins[at]), max(span[1], ends[at])
    # Phonemes that fell on the same phones share them evenly.
    made: list[float] = []
    for (low, high), group in itertools.groupby(map(tuple, spans)):
        count = len(list(group))
        made += [low + (high - low) * (k + 1) / count for k in range(count)]
    return list(np.maximum.accumulate(made))


def _cheapest(theirs: Sequence[str], ours: Sequence[str]) -> tuple[list[tuple[int, int]], float]:
    """Pairs of places on the cheapest path, and what it costs; -1 is before the first place."""
    rows, columns = len(theirs) + 1, len(ours) + 1
    cost: NDArray[np.float64] = np.full((rows, columns), np.inf)
    cost[0, 0] = 0.0
    came: dict[tuple[int, int], tuple[int, int]] = {}
    for i, j in itertools.product(range(rows), range(columns)):
        for di, dj in ((1, 1), (1, 0), (0, 1)):
            if i < di or j < dj:
                continue
            step = _unlike(theirs[i - 1], ours[j - 1]) if di and dj else _LONELY
            if cost[i - di, j - dj] + step < cost[i, j]:
                cost[i, j], came[i, j] = cost[i - di, j - dj] + step, (i - di, j - dj)
    path = []
    at = (rows - 1, columns - 1)
    while at != (0, 0):
        path.append((at[0] - 1, at[1] - 1))
        at = came[at]
    return path[::-1], float(cost[-1, -1])


def _unlike(one: str, other: str) -> float:
    if one == other:
        return 0.0
    vowels = (one in _VOWELS) + (other in _VOWELS)
    return {0: 1.0, 1: 1.5, 2: 0.5}[vowels]
