"""Calls from one model to another inside the server (business logic scripting)."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gsv.errors import Cancelled, Unreachable
from gsv.serving.backend.call_board import BoardCall, BoardToken, CallBoard
from gsv.serving.backend.error_codes import from_message
from gsv.serving.backend.wire import ModelWire, Wire, read_config
from gsv.stages.calls import Answer, StageCall

logger = logging.getLogger(__name__)

_START, _END = 1, 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END

LOOK_SECONDS = 0.25  # between looks at a call that has not been answered
GRACE_SECONDS = 0.5  # for an answer that was on its way when its process died
# A stage notices within a step that its caller has left; one that doesn't may be stopped or hang.
CANCELLED_SECONDS = 30.0


class BlsClient:
    """Models of the same server, as :class:`gsv.stages.calls.CallModel`.

    Args:
        repository: the model repository, whose ``config.pbtxt`` files say what each model reads.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._wires: dict[str, ModelWire] = {}
        self._board = CallBoard()
        self._threads = _CallThreads()
        self._lost = 0  # calls that were given up, each with a thread that waits for ever

    def __call__(self, call: StageCall[Answer], token: BoardToken) -> Answer:
        """Make the call and wait for its answer.

        Raises:
            Unreachable: the model can't answer, or the process that worked on the call died.
            Cancelled: the caller has left, and the stage has not noticed for long.
            GsvError: what the model raised.
        """
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
        placed = self._board.call(token, made_again=call.made_again)
        try:
            request = pb_utils.InferenceRequest(
                model_name=call.model,
                inputs=_tensors(call.request, wire.inputs),
                requested_output_names=[w.name for w in wire.outputs if w.field in asked],
                request_id=placed.request_id,
                preferred_memory=_in_main_memory(),
                **sequence,
            )
            answer = self._threads.submit(request.exec)
        except BaseException:  # whatever it is, the cell is free again
            placed.release()
            raise
        try:
            response = self._response(call.model, answer, placed, token)
            begun = placed.handler_died()
        finally:  # the cell of a call that was given up is taken until Triton answers it
            answer.add_done_callback(lambda _: placed.release())
        if response.has_error():
            error = from_message(response.error().message())
            if isinstance(error, Unreachable):
                error.begun = begun
            raise error
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        values = {w.field: _value(tensors[w.name], w) for w in wire.outputs if w.name in tensors}
        return call.answer(**values)

    def token(self, request_id: str) -> BoardToken:
        """A name for one caller's calls; Overloaded when there are too many callers."""
        return self._board.token(request_id)

    def close(self) -> None:
        """Take the board away."""
        self._board.close()

    def _response(
        self,
        model: str,
        answer: concurrent.futures.Future[Any],
        placed: BoardCall,
        token: BoardToken,
    ) -> Any:
        """Triton's answer, unless there never will be one.

        ``exec`` can't be interrupted, so it waits on a thread of its own, which is left behind
        with a call whose process died.
        """
        cancelled = 0.0
        while True:
            with contextlib.suppress(concurrent.futures.TimeoutError):
                return answer.result(LOOK_SECONDS)
            if placed.handler_died():
                with contextlib.suppress(concurrent.futures.TimeoutError):
                    return answer.result(GRACE_SECONDS)
                self._give_up(model, "the process that worked on it died")
                error = Unreachable(f"{model}: the process that worked on the request died")
                error.begun = True
                raise error
            cancelled += LOOK_SECONDS * token.cancelled
            if cancelled > CANCELLED_SECONDS:
                self._give_up(model, f"it was called off {CANCELLED_SECONDS:g} s ago")
                raise Cancelled("the caller went away")

    def _give_up(self, model: str, why: str) -> None:
        self._lost += 1
        logger.warning("a call of %s is given up: %s (%d so far)", model, why, self._lost)

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


class _CallThreads:
    """Threads that wait for calls, as many as there are calls; idle ones are used again.

    They don't keep the process from ending, as those of a ThreadPoolExecutor do: one that waits for
    an answer that never comes must not.
    """

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[_Job]] = []
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
        """Run ``work`` at once."""
        job: _Job = work, concurrent.futures.Future()
        with self._lock:
            jobs = self._idle.pop() if self._idle else None
        if jobs is None:
            jobs = queue.SimpleQueue()
            threading.Thread(target=self._run, args=(jobs,), name="call", daemon=True).start()
        jobs.put(job)
        return job[1]

    def _run(self, jobs: queue.SimpleQueue[_Job]) -> None:
        while True:
            work, future = jobs.get()
            try:
                future.set_result(work())
            except BaseException as error:  # whoever asked for the answer gets it
                future.set_exception(error)
            del work, future
            with self._lock:
                self._idle.append(jobs)


_Job = tuple[Callable[[], Any], concurrent.futures.Future[Any]]
