"""Steps as graphs: what a graph depends on, and what it reads. Capturing itself needs a GPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import recorded
import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Batch:
    values: Tensor
    fooling: bool


def batch(size: int = 3, fooling: bool = False, fill: float = 1.0) -> Batch:
    return Batch(torch.full((size,), fill), fooling)


def test_a_graph_serves_batches_of_its_shapes_and_plain_values() -> None:
    key = recorded._key(batch())
    assert recorded._key(batch(fill=7.0)) == key
    assert recorded._key(batch(4)) != key
    assert recorded._key(batch(fooling=True)) != key


def test_a_graph_reads_what_the_batch_holds() -> None:
    class Doubling:
        """Stands for a captured graph: works on the tensors that were there when it was made."""

        def replay(self) -> None:
            parts["loss"].copy_(2 * held.values.sum())

    held: Batch = recorded._mapped(batch(), torch.clone)
    parts = {"loss": torch.zeros(())}
    graph: Any = Doubling()
    step = recorded._Graph(graph, held, parts)
    assert step.take(batch(fill=5.0))["loss"] == 30.0
    assert held.values.tolist() == [5.0, 5.0, 5.0]


def test_elsewhere_a_drawn_step_is_called_as_it_is() -> None:
    drawn = recorded.Drawn(lambda: batch(fill=2.0), lambda one: {"loss": one.values.sum()})
    assert drawn()["loss"] == 6.0
