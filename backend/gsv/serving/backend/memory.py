"""Settings of the C library's allocator: what becomes of memory that tensors have freed."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_KEPT = 32 << 20  # bytes of one tensor
_MOST_KEPT = 2 * _LARGEST_KEPT  # free bytes at a heap's end that the process keeps


def keep_freed_memory() -> None:
    """Let new tensors reuse the memory of freed ones, instead of fresh pages from the kernel.

    At first glibc returns each freed block above 128 KiB to the kernel; once larger ones have been
    freed it raises that limit. Getting a page costs more than filling it: small networks would
    spend a tenth of the time of flow and vocoder on it. Large networks raise glibc's limits to
    these values by themselves. Without glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
