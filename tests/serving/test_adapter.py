"""The adapter between Triton's objects and ours, with a stand-in for what the stub brings."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
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


def test_what_the_package_logs_goes_to_the_servers_log(adapter: Any) -> None:
    written: list[tuple[str, str]] = []
    server_log = SimpleNamespace(
        log_info=lambda text: written.append(("info", text)),
        log_warn=lambda text: written.append(("warn", text)),
        log_error=lambda text: written.append(("error", text)),
    )
    adapter.pb_utils.Logger = server_log
    for level in (logging.INFO, logging.WARNING, logging.CRITICAL):
        record = logging.LogRecord("gsv.x", level, "", 1, "%d slots", (3,), None)
        adapter.ServerLog().emit(record)
    assert written == [("info", "3 slots"), ("warn", "3 slots"), ("error", "3 slots")]


class OneStage:
    """A stage that fails once all GPU work does."""

    request_type = staticmethod(lambda: None)

    def run_batch(self, requests: list[Any]) -> list[Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_batch_that_breaks_the_gpu_ends_the_process(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[BaseException] = []
    monkeypatch.setattr(adapter, "end_if_fatal", ended.append)
    model = adapter.BatchedModel()
    model._stage = OneStage()
    (answer,) = model._run([object()])
    assert ended == [answer]
