"""Noise has addresses: windows equal the whole, keys are independent, moments are right."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gsv.engine.noise import exponential_steps, normal_frames

# A change here changes what every seed says: never without a note in the changelog.
PINNED_EXPONENTIAL = [1.801438808441162, 0.1661771982908249, 0.5584732294082642]
PINNED_NORMAL = [-1.324519157409668, -1.587961196899414, -0.3397487699985504]


@pytest.mark.parametrize("draw", [exponential_steps, normal_frames])
@pytest.mark.parametrize("width", [1, 7, 100, 1025])
def test_any_window_equals_that_part_of_the_whole(draw, width):
    whole = draw(seed := 2**63 - 1, 3, 0, 40, width)
    assert whole.shape == (40, width)
    assert whole.dtype == np.float32
    for first, count in [(0, 1), (1, 39), (17, 5), (39, 1), (12, 0)]:
        window = draw(seed, 3, first, count, width)
        np.testing.assert_array_equal(window, whole[first : first + count])


def test_moments_of_the_normal():
    values = normal_frames(7, 0, 0, 20_000, 100).astype(np.float64)
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert abs(values.std() - 1) < 0.003
    assert abs((values**3).mean()) < 0.01
    assert abs((values**4).mean() - 3) < 0.03
    assert np.abs(values).max() > 4.5
    # Both halves of a Box-Muller pair share a radius: they must not share a sign or a size.
    pairs = np.corrcoef(values[:, :50].ravel(), values[:, 50:].ravel())[0, 1]
    assert abs(pairs) < 0.005


def test_moments_of_the_exponential():
    values = exponential_steps(7, 0, 0, 2_000, 1025).astype(np.float64)
    assert values.min() > 0
    assert abs(values.mean() - 1) < 0.004
    assert abs(values.std() - 1) < 0.006
    assert abs(np.median(values) - np.log(2)) < 0.003


@pytest.mark.parametrize("draw", [exponential_steps, normal_frames])
def test_keys_are_independent(draw):
    keys = [(0, 0), (1, 0), (0, 1), (2**32, 0), (2**63 - 1, 0), (1, 1), (2**63 - 1, 2**32 - 1)]
    draws = [draw(seed, sentence, 0, 100, 100).ravel() for seed, sentence in keys]
    for one, other in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05
        assert not np.intersect1d(one[:1000], other[:1000]).size > 5


def test_streams_of_one_sentence_are_independent():
    exponential = exponential_steps(5, 2, 0, 50, 100)
    normal = normal_frames(5, 2, 0, 50, 100)
    assert abs(np.corrcoef(exponential.ravel(), normal.ravel())[0, 1]) < 0.05


def test_values_are_pinned():
    np.testing.assert_allclose(
        exponential_steps(42, 1, 5, 1, 1025)[0, :3], PINNED_EXPONENTIAL, rtol=1e-6
    )
    np.testing.assert_allclose(normal_frames(42, 1, 5, 1, 100)[0, :3], PINNED_NORMAL, rtol=1e-6)


def test_addresses_out_of_range_are_refused():
    with pytest.raises(ValueError, match="seed -1"):
        normal_frames(-1, 0, 0, 1, 100)
    with pytest.raises(ValueError, match="sentence 4294967296"):
        normal_frames(0, 2**32, 0, 1, 100)
    with pytest.raises(ValueError, match="rows -1"):
        exponential_steps(0, 0, -1, 1, 1025)
