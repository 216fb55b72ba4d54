"""Triton's two kinds of models around our stages: a batch at a time, and a running batch.

``BatchedModel`` answers a batch of requests in ``execute``; ``StreamingModel`` hands each request
to a stage with a running batch of its own and returns at once. Both read the wire's names and
types from ``config.pbtxt``, so a ``model.py`` only names its stage.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import triton_python_backend_utils as pb_utils

from gsv.errors import Cancelled, Overloaded, TimedOut
from gsv.serving.backend.bls_client import BlsClient
from gsv.serving.backend.caller import Caller
from gsv.serving.backend.callers_file import CallersFile
from gsv.serving.backend.error_codes import to_triton_error
from gsv.serving.backend.metrics import LoadMetrics
from gsv.serving.backend.model import Model, end_if_fatal
from gsv.serving.backend.request import request_id, timeout_of, write_response
from gsv.stages.base import AsyncStage, BatchStage, Place

CANCEL_CHECK_SECONDS = 0.02
IDLE_CHECK_SECONDS = 5.0  # between looks for removed voices while there are no requests
LOG_AGAIN_SECONDS = 60.0  # after which a part of the watch that goes on failing is logged again


class BatchedModel(Model):
    """Triton model around a :class:`~gsv.stages.base.BatchStage`."""

    stage: ClassVar[type[BatchStage]]

    def initialize(self, args: Mapping[str, str]) -> None:
        """As for every model."""
        super().initialize(args)
        self._parts = Parts(self._name)

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order; an error stays with the request that caused it."""
        started = time.monotonic()
        self.metrics.begin(len(requests))
        spans = [self.begin_span(request) for request in requests]
        answers: list[Any] = [None] * len(requests)
        parsed: list[tuple[int, Any]] = []
        for index, request in enumerate(requests):
            try:
                self.calls.take(request_id(request))
                left = self.calls.watch(request_id(request))
                if left is not None and left():
                    raise Cancelled("the caller went away")
                parsed.append((index, self._read(request)))
            except Exception as error:  # whatever it is, the request at fault gets it
                answers[index] = error
        if parsed:
            for (index, _), answer in zip(parsed, self._run([p for _, p in parsed]), strict=True):
                answers[index] = answer
        responses = [self._respond(r, a) for r, a in zip(requests, answers, strict=True)]
        for request, span, answer in zip(requests, spans, answers, strict=True):
            failure = answer if isinstance(answer, BaseException) else None
            self.ended(request_id(request), span, started, failure)
        self._parts.run("metrics", self._flush)  # the answers are made, and leave in any case
        return responses

    def _run(self, parsed: list[Any]) -> list[Any]:
        try:
            return list(self._stage.run_batch(parsed))
        except Exception as error:  # whatever it is, the request at fault gets it
            end_if_fatal(error)
            # A fault of ours must not name an innocent request: each of the batch runs once more
            # by itself, so that only the one at fault fails.
            if len(parsed) == 1:
                return [error]
            return [answer for one in parsed for answer in self._run([one])]

    def _respond(self, request: Any, answer: Any) -> Any:
        if isinstance(answer, BaseException):
            self.log_failure(request, answer)
            return pb_utils.InferenceResponse(error=to_triton_error(answer, tagged=self.tagged))
        return write_response(answer, self.outputs, request.requested_output_names())


class StreamingModel(Model):
    """Triton model around a :class:`~gsv.stages.base.AsyncStage`.

    Decoupled models send any number of responses; others exactly one, through the same sender, so
    that ``execute`` returns at once and new requests join while older ones are still computed.
    """

    stage: ClassVar[type[AsyncStage]]

    def initialize(self, args: Mapping[str, str]) -> None:
        """As for every model, and start the watch for callers that went away."""
        super().initialize(args)
        self._load = (
            LoadMetrics(self._name, args["model_instance_name"])
            if self._stage.load() is not None
            else None
        )
        # Connections are ended for the sake of public models only.
        self._callers_file = CallersFile("" if self.tagged else None)
        self._callers: set[Caller] = set()
        self._changes = 0  # of it
        self._changed = threading.Condition()
        self._closing = False
        self._watch = threading.Thread(target=self._watch_callers, name="cancel-watch", daemon=True)
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand every request to the stage; answers leave through its sender."""
        for request in requests:
            caller = Caller(self, request, self._forget)
            if caller.has_left():
                caller.fail(Cancelled("the caller went away"))
                continue
            if not self.tagged and self._heart.stopping():
                caller.fail(Overloaded("the server is stopping; try again later"))
                continue
            with self._changed:
                self._callers.add(caller)
                self._changes += 1
                self._changed.notify()
            try:
                if not self.tagged:  # a call of another model ends with its caller
                    caller.timeout = timeout_of(request)
                caller.cancel = self._stage.submit(self._read(request, caller.span), caller)
            except Exception as error:  # whatever it is, its caller gets it
                caller.fail(error)

    def _close(self) -> None:
        """Stop the watch, then the stage."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._watch.join()
        self._callers_file.close()
        super()._close()
        del self._load

    def _check(self, caller: Caller) -> None:
        """Call a caller's work off if nobody waits for it any more."""
        if caller.is_cancelled():
            self._call_off(caller)
            return
        try:
            caller.check_time()
        except TimedOut as error:
            caller.fail(error)  # first: work that is called off ends its caller as one that left
            self._call_off(caller)

    def _call_off(self, caller: Caller) -> None:
        caller.called_off = True
        try:
            if caller.cancel is not None:
                caller.cancel()
        except Exception as error:  # the watch must go on for all other callers
            self.log_failure(caller, error)

    def _forget(self, caller: Caller) -> None:
        with self._changed:
            self._callers.discard(caller)
            self._changes += 1
            self._changed.notify()

    def _watch_callers(self) -> None:
        try:
            self._keep_watch()
        finally:
            if not self._closing:  # a bug, and the process is of no use without its watch
                self._heart.stop()

    def _keep_watch(self) -> None:
        # Triton tells of a cancellation only when asked, so while anybody waits, ask.
        parts = Parts(self._name)
        busy, told, untold = False, 0, False
        while True:
            with self._changed:
                if self._closing:
                    return
                idle = None if self._voice_metrics is None else IDLE_CHECK_SECONDS
                # A caller that ended during the last flush notified nobody, so don't wait then.
                if self._changes == told:
                    soon = self._callers or busy or untold
                    self._changed.wait(CANCEL_CHECK_SECONDS if soon else idle)
                told = self._changes
                callers = list(self._callers)
            parts.run("metrics", self._flush)
            asked = (caller.asked for caller in callers)  # mostly it is too soon to need them
            untold = parts.run("callers file", self._callers_file.write, asked)
            for caller in callers:
                if caller.cancel is not None and not caller.called_off:
                    parts.run("check of a caller", self._check, caller)
            if sweep := getattr(self._stage, "sweep", None):
                parts.run("sweep", sweep)
            busy = parts.run("load", self._show_load)

    def _show_load(self) -> bool:
        """Tell how much the stage has to do; returns whether that is anything."""
        load = self._stage.load()
        if self._load is None or load is None:
            return False
        self._load.show(load)
        return bool(load.running + load.waiting)


class Parts:
    """Runs what a model does beside its requests; whatever fails there, the rest is done.

    Args:
        model: its name, for the log.
        clock: seconds.
    """

    def __init__(self, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._model, self._clock = model, clock
        self._logged: dict[str, float] = {}  # when a failure of that part was last logged

    def run(self, part: str, work: Callable[..., Any], *given: Any) -> Any:
        """What the work returns; None if it fails, which is logged once a minute."""
        try:
            return work(*given)
        except Exception as error:  # all callers are to be served
            now = self._clock()
            if now - self._logged.get(part, -math.inf) >= LOG_AGAIN_SECONDS:
                self._logged[part] = now
                pb_utils.Logger.log_error(f"{self._model}: {part}: {type(error).__name__}: {error}")
            return None


class BlsModel(StreamingModel):
    """A :class:`StreamingModel` whose stage calls other models of the server."""

    stage: ClassVar[type[Any]]  # an AsyncStage that also takes a gsv.stages.calls.CallModel

    def _build(self, place: Place, settings: Any) -> Any:
        self._models = BlsClient(place.repository)
        return self.stage(place, settings, self._models)

    def _close(self) -> None:
        """As for every model, and take the board of our calls away."""
        super()._close()
        self._models.close()
