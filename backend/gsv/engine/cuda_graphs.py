"""Calls that are captured as CUDA graphs while a model warms up and replayed afterwards.

A GPU runs a step's small kernels faster than they can be started one by one. Capturing stops
everybody on the device and takes up to a second, so it happens in warm-up or not at all: a call
that was not captured runs as it is.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch

logger = logging.getLogger(__name__)

# At most a third of a bucket's positions are read in vain, from 512 on.
LENGTH_BUCKETS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)
_CAPTURING = threading.Lock()  # PyTorch knows one capture at a time in a process


class CapturedCalls:
    """Calls by key, of functions that read and write tensors which never move.

    Args:
        device: where the functions run; anywhere but on a GPU nothing is captured.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, Any] = {}
        self._pool: Any = None
        self._stream: Any = None  # one for all: libraries keep a workspace for each stream

    def __len__(self) -> int:
        return len(self._graphs)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._graphs

    def __call__(self, key: Hashable, call: Callable[[], object]) -> None:
        """Replay what was captured under ``key``, else call."""
        graph = self._graphs.get(key)
        if graph is None:
            call()
        else:
            graph.replay()

    def capture(self, key: Hashable, call: Callable[[], object]) -> None:
        """Capture ``call`` under ``key``; capture the largest first, whose memory others share.

        Without memory for one graph, that call alone runs as it is.
        """
        if self._device.type != "cuda":
            return
        with _CAPTURING, _without_collector(), torch.cuda.device(self._device):
            try:
                self._graphs[key] = self._capture(call)
            except torch.cuda.OutOfMemoryError as error:
                logger.warning("no memory for the CUDA graph of %s: %s", key, error)

    def _capture(self, call: Callable[[], object]) -> Any:
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        # Libraries choose and allocate on the first call, which a capture must not see.
        with torch.cuda.stream(stream):
            call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of this process may use their own streams meanwhile
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            call()
        self._pool = self._pool or graph.pool()
        return graph


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python's collector may come upon graphs of a model that is gone: CUDA refuses to destroy one
    in a thread that captures, and the capture is lost."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def bucket(size: int, buckets: list[int]) -> int:
    """The smallest of ``buckets``, which ascend, that holds ``size``."""
    return next(limit for limit in buckets if limit >= size)


def row_buckets(slots: int) -> list[int]:
    """Powers of two up to ``slots``, and ``slots``."""
    return sorted({min(2**i, slots) for i in range(slots.bit_length() + 1)})


def length_buckets(max_length: int) -> list[int]:
    """Numbers of positions up to ``max_length``, and that."""
    return [n for n in LENGTH_BUCKETS if n < max_length] + [max_length]
