"""Spoiled copies of sentences, and how a measure is judged by them."""

from __future__ import annotations

import numpy as np
import pytest

from gsv.bench.coverage import KINDS, MOST_FALSE, Figures, judge, spoil

TOKENS = np.arange(40, dtype=np.int32)
BORDERS = np.arange(0, 41, 4, dtype=np.float64)  # ten phonemes of four tokens


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("swallowed 2", [*range(16), *range(24, 40)]),
        ("repeated 4", [*range(28), *range(12, 40)]),
        ("no end", [*range(28)]),
    ],
)
def test_spoiled_copies(kind: str, expected: list[int]) -> None:
    assert kind in KINDS
    assert spoil(kind, TOKENS, BORDERS).tolist() == expected


def test_a_measure_that_tells_them_apart_has_full_marks() -> None:
    assert judge([1.0, 2.0, 3.0], [4.0, 5.0]) == Figures(4.0, 1.0, 1.0, 0.0)


def test_false_alarms_stay_rare() -> None:
    good = np.linspace(0, 1, 1000).tolist()
    found = judge(good, [0.995, 0.5, 0.2, 0.1])
    assert found.false_alarms <= MOST_FALSE
    assert found.recall == 0.25
    assert 0.9 < found.precision < 1
    assert judge([1.0], [1.0]).recall == 0.0
