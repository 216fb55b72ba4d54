"""Decode as CUDA graphs: captured once for each bucket of rows and length, replayed at each step.

At batch 1 a step is some 350 small kernels, and starting them one by one takes longer than
running them. A graph has fixed shapes and addresses, so rows and lengths are rounded up to buckets;
surplus rows decode into free slots, surplus positions are masked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Decode = Callable[[int, int], Tensor]


class Graph(Protocol):
    """What is used of ``torch.cuda.CUDAGraph``."""

    def replay(self) -> None:
        """Run what was captured."""


# At most a third of a bucket's positions are read in vain, from 512 on.
LENGTH_BUCKETS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)


class GraphedDecode:
    """Calls ``decode(rows, length)``, through graphs unless disabled.

    Args:
        decode: computes logits [rows, V] of the first ``rows`` rows over the first ``length``
            cached positions, from and into tensors that never move.
        slots: most rows.
        max_length: most positions.
        device: where the tensors are; anywhere but on a GPU, ``decode`` itself is called with the
            exact numbers.
    """

    def __init__(self, decode: Decode, slots: int, max_length: int, device: torch.device) -> None:
        self._decode = decode
        self._device = device
        self._disable = device.type != "cuda"
        self.row_buckets = sorted({min(2**i, slots) for i in range(slots.bit_length() + 1)})
        self.length_buckets = [n for n in LENGTH_BUCKETS if n < max_length] + [max_length]
        self._graphs: dict[tuple[int, int], tuple[Graph, Tensor]] = {}
        self._pool: Any = None

    def __call__(self, rows: int, length: int) -> Tensor:
        """Logits float32 [rows, V]; valid until the next call."""
        if self._disable:
            return self._decode(rows, length)
        key = (
            next(bucket for bucket in self.row_buckets if bucket >= rows),
            next(bucket for bucket in self.length_buckets if bucket >= length),
        )
        if key not in self._graphs:
            self._graphs[key] = self._capture(*key)
        graph, logits = self._graphs[key]
        graph.replay()
        return logits[:rows]

    def capture_all(self) -> None:
        """Capture every bucket, the largest first: later ones then fit into its memory pool."""
        if self._disable:
            return
        for rows in reversed(self.row_buckets):
            for length in reversed(self.length_buckets):
                self._graphs[rows, length] = self._capture(rows, length)

    def _capture(self, rows: int, length: int) -> tuple[Graph, Tensor]:
        with torch.cuda.device(self._device):
            # Libraries choose and allocate on the first call, which a capture must not see.
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._decode(rows, length)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads of this process may use their own streams meanwhile
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                logits = self._decode(rows, length)
        self._pool = self._pool or graph.pool()
        return graph, logits
