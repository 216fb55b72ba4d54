"""The estimator as CUDA graphs: captured once for each small shape, replayed at each step.

An estimate is some six hundred kernels. For one or a few rows a GPU runs them faster than they can
be started one by one; larger batches keep it busy by themselves.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsv.models.adapters import BatchAdapters
from gsv.models.dit import DiT

logger = logging.getLogger(__name__)

_MOST_ROWS = 4
_MOST_GRAPHS = 64  # shapes kept; lengths come in steps, so there are not many more


@dataclass(frozen=True)
class _Captured:
    """One shape: the graph, the tensors it reads and the one it writes."""

    graph: Any
    inputs: list[Tensor | None]
    made: Tensor


class GraphedEstimator:
    """Calls an estimator, through graphs unless disabled.

    Args:
        estimator: on its device.
        disable: call the estimator itself (on a CPU).
    """

    def __init__(self, estimator: DiT, disable: bool) -> None:
        self._estimator = estimator
        self._disable = disable
        self._graphs: OrderedDict[tuple[int, int, bool], _Captured] = OrderedDict()
        self._pool: Any = None

    def __call__(
        self,
        noisy: Tensor,
        inputs: Tensor,
        modulation: Tensor,
        lengths: Tensor | None,
        adapters: BatchAdapters | None = None,
    ) -> Tensor:
        """As :class:`DiT`; valid until the next call."""
        rows, frames, _ = noisy.shape
        if self._disable or adapters is not None or rows > _MOST_ROWS:
            made: Tensor = self._estimator(noisy, inputs, modulation, lengths, adapters)
            return made
        key, given = (rows, frames, lengths is None), (noisy, inputs, modulation, lengths)
        if key not in self._graphs:
            try:
                self._graphs[key] = self._capture(given)
            except RuntimeError as error:
                logger.warning("flow steps run without CUDA graphs: %s", error)
                self._disable = True
                return self(*given)
            if len(self._graphs) > _MOST_GRAPHS:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        captured = self._graphs[key]
        for target, source in zip(captured.inputs, given, strict=True):
            if target is not None and source is not None:
                target.copy_(source)
        captured.graph.replay()
        return captured.made

    def _capture(self, given: tuple[Tensor | None, ...]) -> _Captured:
        inputs = [None if tensor is None else tensor.clone() for tensor in given]
        with torch.cuda.device(self._estimator.inverse_frequencies.device):
            # Libraries choose and allocate on the first call, which a capture must not see.
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._estimator(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads of this process may use their own streams meanwhile. The
            # graphs share their memory, since each one's answer is used before the next replay.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                made: Tensor = self._estimator(*inputs)
        self._pool = self._pool or graph.pool()
        return _Captured(graph, inputs, made)
