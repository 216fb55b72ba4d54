"""Calls from one model to another inside the server (business logic scripting)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gsv.serving.backend.cancel_board import BoardToken, CancelBoard
from gsv.serving.backend.error_codes import from_message
from gsv.serving.backend.wire import ModelWire, Wire, read_config
from gsv.stages.calls import Answer, StageCall

_START, _END = 1, 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END


class BlsClient:
    """Models of the same server, as :class:`gsv.stages.calls.CallModel`.

    Args:
        repository: the model repository, whose ``config.pbtxt`` files say what each model reads.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._wires: dict[str, ModelWire] = {}
        self._board = CancelBoard()

    def __call__(self, call: StageCall[Answer], token: BoardToken) -> Answer:
        """Make the call and wait for its answer."""
        sequence = {}
        if call.sequence is not None:
            flags = _START * call.sequence.start | _END * call.sequence.end
            sequence = {"correlation_id": call.sequence.id, "flags": flags}
        wire = self._wire(call.model)
        asked = {
            field.name
            for field in dataclasses.fields(call.answer)  # type: ignore[arg-type]
            if field.default is dataclasses.MISSING or field.name in call.also
        }
        request = pb_utils.InferenceRequest(
            model_name=call.model,
            inputs=_tensors(call.request, wire.inputs),
            requested_output_names=[w.name for w in wire.outputs if w.field in asked],
            request_id=token.request_id,
            preferred_memory=_in_main_memory(),
            **sequence,
        )
        response = request.exec()
        if response.has_error():
            raise from_message(response.error().message())
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        values = {w.field: _value(tensors[w.name], w) for w in wire.outputs if w.name in tensors}
        return call.answer(**values)

    def token(self, request_id: str) -> BoardToken:
        """A name for one caller's calls; Overloaded when there are too many callers."""
        return self._board.token(request_id)

    def close(self) -> None:
        """Take the board away."""
        self._board.close()

    def _wire(self, model: str) -> ModelWire:
        if model not in self._wires:
            self._wires[model] = read_config(self._repository / model / "config.pbtxt")
        return self._wires[model]


def _tensors(request: Any, inputs: list[Wire]) -> list[Any]:
    """The request's fields that a model reads; those that are None are left out."""
    values = [(getattr(request, wire.field, None), wire) for wire in inputs]
    return [to_tensor(value, wire) for value, wire in values if value is not None]


def to_tensor(value: Any, wire: Wire) -> Any:
    """A Triton tensor of the declared type, with the leading 1, of a plain value or array."""
    if isinstance(value, str):
        value = value.encode("utf-8")
    array = np.asarray(value, dtype=wire.numpy_type)
    shaped = array.reshape(1, 1) if wire.scalar else array[None]
    return pb_utils.Tensor(wire.name, np.ascontiguousarray(shaped))


def _value(array: Any, wire: Wire) -> Any:
    """What an output holds, without the leading 1; a copy, which outlives the response."""
    if not wire.scalar:
        return array[0].copy()
    value = array.reshape(-1)[0]
    return value.decode("utf-8") if isinstance(value, bytes) else value.item()


def _in_main_memory() -> Any:
    """Where answers go: a GPU's memory would open a CUDA context in the calling process."""
    return pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
