"""What the C library does with the memory that tensors leave behind."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_KEPT = 32 << 20  # bytes of one tensor
_MOST_KEPT = 2 * _LARGEST_KEPT  # bytes that stay with the process while nothing uses them


def keep_freed_memory() -> None:
    """Let the next tensor have the memory of the last one, instead of fresh pages.

    glibc gives every block above 128 KiB back to the kernel at once until it has seen larger ones
    freed, and a page costs more to get than to fill: with small networks that is a tenth of the
    time of flow and vocoder. Large networks bring glibc to these values by themselves. Without
    glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _MOST_KEPT)
