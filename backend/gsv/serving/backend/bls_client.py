"""Calls from one model to another inside the server (business logic scripting)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gsv.serving.backend.error_codes import from_message
from gsv.stages.base import Tensors
from gsv.stages.calls import CANCELLABLE, placeholders

_NUMPY_TYPES: dict[type, Any] = {bool: np.bool_, int: np.int32, float: np.float32}
CANCEL_PREFIX = "cancel:"  # before the job in the id of a request that only cancels

_INT64_TENSORS = {"SEED"}


class BlsClient:
    """Models of the same server, as :class:`gsv.stages.calls.CallModel`."""

    def __call__(
        self, model: str, tensors: Tensors, outputs: Sequence[str], *, job: str = ""
    ) -> Tensors:
        """Call ``model`` and return its response."""
        request = pb_utils.InferenceRequest(
            model_name=model,
            inputs=[to_tensor(name, value) for name, value in tensors.items()],
            requested_output_names=list(outputs),
            request_id=job,
            preferred_memory=_in_main_memory(),
        )
        response = request.exec()
        if response.has_error():
            raise from_message(response.error().message())
        return {t.name(): t.as_numpy()[0].copy() for t in response.output_tensors()}

    def cancel(self, model: str, job: str) -> None:
        """Send ``model`` a request that only says, by its id, which calls to drop.

        A call from one model to another is not cancelled with its parent, and Triton offers no
        other way to tell the child. A model that can't be told ends by itself, soon.
        """
        if model not in CANCELLABLE:
            return
        pb_utils.InferenceRequest(
            model_name=model,
            inputs=[to_tensor(n, v) for n, v in placeholders(model).items()],
            requested_output_names=list(CANCELLABLE[model].outputs),
            request_id=CANCEL_PREFIX + job,
            preferred_memory=_in_main_memory(),
        ).exec()


def to_tensor(name: str, value: Any) -> Any:
    """A Triton tensor with the leading 1 of a plain value, text or array."""
    if isinstance(value, str):
        return pb_utils.Tensor(name, np.array([[value.encode("utf-8")]], dtype=np.object_))
    if isinstance(value, (bool, int, float)):
        kind = np.int64 if name in _INT64_TENSORS else _NUMPY_TYPES[type(value)]
        return pb_utils.Tensor(name, np.array([[value]], dtype=kind))
    return pb_utils.Tensor(name, np.ascontiguousarray(value[None]))


def _in_main_memory() -> Any:
    """Where answers go: a GPU's memory would open a CUDA context in the calling process."""
    return pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
