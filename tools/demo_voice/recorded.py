"""Training steps as CUDA graphs: small networks keep a GPU waiting for the processor's launches."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

_PLAIN_STEPS = 2  # of each shape before it is recorded: libraries choose their kernels meanwhile

Batch = TypeVar("Batch")  # a dataclass of tensors and of plain values
Parts = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Drawn(Generic[Batch]):
    """Losses of a batch that is drawn apart from them, so that the rest can be a graph.

    ``losses`` reads nothing from the device and uploads nothing; it runs again without Python for
    every batch whose tensors have the same shapes and whose other values are equal.
    """

    draw: Callable[[], Batch]
    losses: Callable[[Batch], Parts]

    def __call__(self) -> Parts:
        return self.losses(self.draw())


class Recorder:
    """Takes steps, from the third of a shape on as a graph.

    All of it, and whatever reads what a step made, runs in :meth:`stream`; the graphs share their
    memory, for one runs at a time.
    """

    def __init__(self, learn: Callable[[Parts], None], device: torch.device) -> None:
        """``learn`` is what follows the losses: gradients, and the optimizer's step."""
        self._learn = learn
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[Any, _Graph] = {}
        self._seen: Counter[Any] = Counter()
        self._log = logging.getLogger(__name__)

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """The stream that steps run on, after all that was begun before."""
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            yield
        torch.cuda.synchronize()

    def take(self, drawn: Drawn[Any]) -> Parts:
        """One step; the losses that it had, valid until the next one."""
        batch = drawn.draw()
        key = _key(batch)
        if key in self._graphs:
            return self._graphs[key].take(batch)
        parts = drawn.losses(batch)
        self._learn(parts)
        self._seen[key] += 1
        if self._seen[key] == _PLAIN_STEPS:
            self._record(key, batch, drawn.losses)
        return parts

    def _record(self, key: Any, batch: Any, losses: Callable[[Any], Parts]) -> None:
        held = _mapped(batch, torch.clone)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph, self._pool, self._stream, capture_error_mode="thread_local"
            ):
                parts = losses(held)
                self._learn(parts)
        except RuntimeError as error:  # this shape goes on as it is
            self._log.warning("a step of %s was not recorded: %s", key, error)
            return
        self._graphs[key] = _Graph(graph, held, {name: v.detach() for name, v in parts.items()})
        self._log.info("%d kinds of steps are recorded", len(self._graphs))


@dataclasses.dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    held: Any  # the batch that it reads
    parts: Parts

    def take(self, batch: Any) -> Parts:
        for name, value in _tensors(batch).items():
            getattr(self.held, name).copy_(value, non_blocking=True)
        self.graph.replay()
        return self.parts


def _tensors(batch: Any) -> dict[str, Tensor]:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _mapped(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    found = {name: function(value) for name, value in _tensors(batch).items()}
    return dataclasses.replace(batch, **found)


def _key(batch: Any) -> Any:
    """What a graph depends on: shapes of tensors, and all other values."""
    values = ((field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch))
    return tuple(
        (name, tuple(value.shape) if isinstance(value, Tensor) else value) for name, value in values
    )
