"""The adapter between Triton's objects and ours, with a stand-in for what the stub brings."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

OURS = "gsv.serving."


@dataclasses.dataclass
class Tensor:
    """A tensor as it is sent."""

    name: str
    array: np.ndarray

    made = 0

    def __post_init__(self) -> None:
        Tensor.made += 1


@dataclasses.dataclass
class InferenceResponse:
    """A response as it is sent."""

    output_tensors: list[Tensor]


@dataclasses.dataclass
class Spoken:
    """A stage's result."""

    audio: np.ndarray
    sample_rate: int


@pytest.fixture
def adapter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """``gsv.serving.adapter`` upon the stand-in, and gone afterwards."""
    stand_in = ModuleType("triton_python_backend_utils")
    stand_in.Tensor = Tensor  # type: ignore[attr-defined]
    stand_in.InferenceResponse = InferenceResponse  # type: ignore[attr-defined]
    numpy_types = {"TYPE_FP32": np.float32, "TYPE_INT32": np.int32}
    stand_in.triton_string_to_numpy = numpy_types.get  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    before = set(sys.modules)
    yield importlib.import_module(OURS + "adapter")
    for name in {n for n in sys.modules if n.startswith(OURS)} - before:
        del sys.modules[name]


def test_outputs_that_nobody_asked_for_are_not_made(adapter: Any) -> None:
    wire = adapter.read_wire(
        [
            {"name": "AUDIO", "data_type": "TYPE_FP32", "dims": [-1]},
            {"name": "SAMPLE_RATE", "data_type": "TYPE_INT32", "dims": [1]},
        ]
    )
    result = Spoken(np.zeros(3), 48_000)
    Tensor.made = 0
    (rate,) = adapter.write_response(result, wire, ["SAMPLE_RATE"]).output_tensors
    assert Tensor.made == 1
    assert (rate.name, rate.array.tolist(), rate.array.dtype) == ("SAMPLE_RATE", [[48_000]], "i4")
    both = adapter.write_response(result, wire, {"AUDIO", "SAMPLE_RATE"}).output_tensors
    assert [tensor.array.shape for tensor in both] == [(1, 3), (1, 1)]
