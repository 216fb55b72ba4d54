"""How a model's process handles memory: freed tensors, and Python's collector while it loads."""

from __future__ import annotations

import ctypes
import gc

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


def collect_no_garbage() -> None:
    """Stop Python's collector of garbage, until :func:`collect_garbage_of_requests`.

    For the imports of a starting process: what they make stays for good, and looking through it
    again and again takes a fifth of the time that ``import torch`` takes.
    """
    gc.disable()


def collect_garbage_of_requests() -> None:
    """Let Python collect garbage again, except among what has been made so far."""
    gc.freeze()
    gc.enable()
