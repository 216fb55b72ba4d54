"""What the running batch and the voices take of a GPU's memory when nobody has chosen."""

from __future__ import annotations

import pytest
import torch

from gsv.config import GPTConfig
from gsv.engine.gpt.cache import KVCache
from gsv.stages import sizing

GIB = 1 << 30
CONFIG = GPTConfig()


def test_a_row_is_what_the_cache_takes() -> None:
    small = GPTConfig(hidden_dim=64, layers=2, heads=4)
    cache = KVCache(small, 3, 300, torch.bfloat16, torch.device("cpu"))
    assert sizing.row_bytes(small, 300, 2) == cache.storage[0].nbytes


@pytest.mark.parametrize(
    ("free", "itemsize", "expected"),
    [(14.5, 2, 19), (22, 2, 29), (78, 2, 64), (14.5, 4, 9), (0.1, 2, 1)],
    ids=["T4", "L4", "H100", "T4 in float32", "next to nothing"],
)
def test_slots_fit_into_a_fifth_of_the_free_memory(
    free: float, itemsize: int, expected: int
) -> None:
    row = sizing.row_bytes(CONFIG, sizing.positions(0, int(free * GIB)), itemsize)
    assert sizing.slots(0, int(free * GIB), row) == expected
    assert expected == 1 or sizing.rows(expected) * row <= free * GIB / 5


def test_a_gpu_has_memory_for_what_requests_need() -> None:
    assert sizing.positions(0, GIB) == 2560
    assert sizing.voices_budget(0, 20 * GIB, 4096) == 3 * GIB


def test_a_cpu_keeps_its_numbers() -> None:
    assert sizing.positions(0, None) == 4000
    assert sizing.slots(0, None, GIB) == 32
    assert sizing.voices_budget(0, None, 4096) == 4096 << 20


@pytest.mark.parametrize("free", [None, GIB])
def test_what_is_chosen_is_taken(free: int | None) -> None:
    assert sizing.positions(3000, free) == 3000
    assert sizing.slots(5, free, GIB) == 5
    assert sizing.voices_budget(7, free, 4096) == 7 << 20
