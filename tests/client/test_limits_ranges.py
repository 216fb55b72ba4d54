"""Ranges of the one table: what lies in them, whatever kind of number it is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gsv_client.limits import RANGES, Range


@pytest.mark.parametrize("allowed", RANGES.values(), ids=RANGES)
def test_a_number_beyond_all_floats_is_just_outside(allowed: Range) -> None:
    """``math.isfinite`` and ``float`` raise OverflowError for such a one."""
    for value in (10**400, -(10**400), 16**5_000):
        assert value not in allowed


@pytest.mark.parametrize("allowed", RANGES.values(), ids=RANGES)
def test_bounds(allowed: Range) -> None:
    assert allowed.high in allowed
    assert (allowed.low in allowed) is not allowed.open_below
    assert math.nextafter(allowed.low, math.inf) in allowed
    assert math.nextafter(allowed.low, -math.inf) not in allowed
    assert math.nextafter(allowed.high, math.inf) not in allowed
    for value in (math.nan, math.inf, -math.inf, np.float32(np.nan), np.float64(np.inf)):
        assert value not in allowed
