"""Sentences in one array, and checks of what a caller sends in it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.errors import InvalidRequest


def check_counts(tensor: str, counts: NDArray[np.int32], total: int, of: str) -> None:
    """InvalidRequest unless ``counts`` add up to ``total``, the length of tensor ``of``."""
    if counts.ndim != 1 or (counts < 0).any() or int(counts.sum()) != total:
        raise InvalidRequest.value(
            tensor, counts.tolist(), f"counts that add up to the {total} entries of {of}"
        )


def split_by_counts(array: NDArray[Any], counts: NDArray[np.int32]) -> list[NDArray[Any]]:
    """Cut the last axis into consecutive pieces of the given lengths."""
    return np.split(array, np.cumsum(counts)[:-1], axis=-1)


def check_ids(tensor: str, ids: NDArray[np.int32], limit: int) -> None:
    """InvalidRequest unless every entry is from 0 to ``limit - 1``."""
    if ids.ndim != 1 or (len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit):
        raise InvalidRequest.value(tensor, ids.tolist()[:8], f"one row of ids 0 to {limit - 1}")
