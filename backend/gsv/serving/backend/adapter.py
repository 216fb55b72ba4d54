"""The only place where Triton's objects meet ours: tensors in, stage, tensors out, errors mapped.

``BatchedModel`` answers a batch of requests in ``execute``; ``StreamingModel`` hands each request
to a stage with a running batch of its own and returns at once. Both read the wire's names and
types from ``config.pbtxt``, so a ``model.py`` only names its stage.
"""

from __future__ import annotations

import dataclasses
import difflib
import gc
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import triton_python_backend_utils as pb_utils

from gsv.checkpoints.manifest import verify_manifest
from gsv.constants import PUBLIC_PREFIX
from gsv.errors import (
    Cancelled,
    CheckpointError,
    GsvError,
    InvalidRequest,
    Overloaded,
    TimedOut,
    VoiceError,
)
from gsv.serving.backend.bls_client import BlsClient, to_tensor
from gsv.serving.backend.call_board import BoardReader, caller_id, owner_of, parent_span
from gsv.serving.backend.error_codes import to_triton_error
from gsv.serving.backend.heartbeat import Heartbeat
from gsv.serving.backend.memory import keep_freed_memory
from gsv.serving.backend.metrics import (
    GuardFamilies,
    LoadMetrics,
    RequestMetrics,
    TimingHistograms,
    VoiceFamilies,
)
from gsv.serving.backend.process_end import leave
from gsv.serving.backend.tracing import Span, Tracer, span_of, traced_id
from gsv.serving.backend.wire import Wire, read_wire
from gsv.stages.base import AsyncStage, BatchStage, Place
from gsv.stages.sentence_report import GuardCounts
from gsv.voices.metrics import VoiceMetrics, outcome_of

CANCEL_CHECK_SECONDS = 0.02
IDLE_CHECK_SECONDS = 5.0  # between looks for removed voices while there are no requests
GPU_THREADS = 2  # CPU threads of a process that computes on a GPU; more slow down the others
TIMEOUT = "timeout"  # the one request parameter that is Triton's and that models see
LOG_REQUESTS = "GSV_LOG_REQUESTS"  # variable: each model logs every request that has ended

_START, _END = 1, 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END

_package_log = logging.getLogger("gsv")


def read_request(request: Any, wire: list[Wire]) -> dict[str, Any]:
    """The request's tensors by lower-case name, without the leading 1; absent ones are left out.

    Arrays are copied: a request's memory is gone once ``execute`` has returned.

    Raises:
        InvalidRequest: a tensor is not what it should be, or is not there. (Triton compares the
            number of inputs only.)
    """
    values: dict[str, Any] = {}
    _check_names("input", [tensor.name() for tensor in request.inputs()], wire)
    for declared in wire:
        tensor = pb_utils.get_input_tensor_by_name(request, declared.name)
        if tensor is not None:
            values[declared.field] = _read_tensor(tensor, declared)
        elif not declared.optional:
            raise InvalidRequest(f"{declared.name}: is missing; it is a required input")
    return values


def check_parameters(request: Any, wire: list[Wire], optional: Iterable[str] = ()) -> None:
    """InvalidRequest for a request parameter that nobody reads, such as a misspelt input.

    Triton's ``generate`` makes a parameter of every field that is not an input.

    Args:
        wire: the model's inputs.
        optional: names of outputs, which may be parameters; see :func:`wanted_outputs`.
    """
    optional = set(optional)
    given = _parameters(request)
    names = [name for name in given if name != TIMEOUT and name.upper() not in optional]
    _check_names("input or request parameter", names, wire, optional)


def timeout_of(request: Any) -> float:
    """Seconds that the caller gives the request; 0 without a limit.

    Triton's ``timeout`` in microseconds: of ``infer`` an option that Triton knows, of ``generate``
    a parameter like any other (2.51).

    Raises:
        InvalidRequest: it is no number, or a negative one.
    """
    given = _parameters(request).get(TIMEOUT, request.timeout())
    try:
        microseconds = int(given)
    except (TypeError, ValueError):
        microseconds = -1
    if microseconds < 0:
        raise InvalidRequest.value(TIMEOUT, given, "microseconds, 0 (no limit) or more")
    return microseconds / 1e6


def _check_names(
    kind: str, given: Iterable[str], wire: list[Wire], beside: Iterable[str] = ()
) -> None:
    known = [*(declared.name for declared in wire), *beside]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name.upper(), known, n=1)
            meant = f"; the nearest is {near[0]}" if near else ""
            raise InvalidRequest(f"{name}: no such {kind}{meant}; allowed: {', '.join(known)}")


def _read_tensor(tensor: Any, declared: Wire) -> Any:
    array = tensor.as_numpy()
    if array.ndim < 1 or array.shape[0] != 1:
        raise InvalidRequest(
            f"{declared.name}: got shape {list(array.shape)}; allowed: a first dimension of 1, "
            "one utterance a request; Triton batches across requests"
        )
    if not declared.scalar:
        return array[0].copy()
    value = array.reshape(-1)[0]
    if not isinstance(value, bytes):
        return value.item()
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{declared.name}: got bytes that are not UTF-8 (at byte {error.start}); "
            "allowed: UTF-8 text without lone surrogates"
        ) from error


def write_response(result: Any, wire: list[Wire], requested: Collection[str]) -> Any:
    """An inference response with the ``requested`` fields of ``result``, each with the leading 1.

    Fields that were not requested must not become tensors: up to 24.11 a response sender drops them
    without holding Python's lock, which corrupts its memory (python_backend #390).
    """
    values = ((getattr(result, w.field), w) for w in wire if w.name in requested)
    return pb_utils.InferenceResponse(
        output_tensors=[to_tensor(value, w) for value, w in values if value is not None]
    )


def wanted_outputs(request: Any, optional: Collection[str]) -> frozenset[str]:
    """The outputs that a request asks for.

    Triton's ``generate`` asks for all, and has no way to ask for fewer: there, and anywhere else, a
    request parameter of an ``optional`` output's name, in upper or lower case (which perf_analyzer
    makes of it), that is false leaves that one out.

    Raises:
        InvalidRequest: such a parameter is neither true nor false.
    """
    wanted = set(request.requested_output_names())
    if not wanted.isdisjoint(optional):
        for name, value in _parameters(request).items():
            if name.upper() not in optional:
                continue
            if not isinstance(value, bool):
                raise InvalidRequest.value(name, value, "true or false, as a request parameter")
            if not value:
                wanted.discard(name.upper())
    return frozenset(wanted)


def _parameters(request: Any) -> dict[str, Any]:
    given = request.parameters()
    return json.loads(given) if given else {}


class TritonLogHandler(logging.Handler):
    """Hands what this package logs to the server's log, with the model's name before it."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter(f"{model}: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, at the server's level that is nearest."""
        try:
            text = self.format(record)
            if record.levelno >= logging.ERROR:
                pb_utils.Logger.log_error(text)
            elif record.levelno >= logging.WARNING:
                pb_utils.Logger.log_warn(text)
            else:
                pb_utils.Logger.log_info(text)
        except Exception:  # as logging asks of a handler: never raise
            self.handleError(record)


def _set_up_torch(device: str, threads: int) -> None:
    """What holds for every network of this process; ``threads`` 0 keeps torch's choice."""
    import torch

    from gsv.device import end_on_fatal, prepare

    # By default oneDNN keeps its code for 1024 operations of one shape, some 1.5 MB each, and
    # sentences have hundreds of lengths. 256 are as fast, with recurring lengths too; 128 are not.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    prepare(device)
    end_on_fatal()
    if threads:
        torch.set_num_threads(threads)


def _end_if_fatal(error: BaseException) -> None:
    """As :func:`gsv.device.end_if_fatal`, where this process has torch at all."""
    if "torch" in sys.modules:
        from gsv.device import end_if_fatal

        end_if_fatal(error)


class _Model:
    """What both kinds of model do at load and unload."""

    stage: ClassVar[Any]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Check the weights' manifest, build the stage on the device that Triton gave, warm up."""
        try:
            self._load_stage(args)
        except BaseException:  # the server gets it, and calls no finalize then
            vars(self).clear()  # metrics above all, see _close
            gc.collect()
            raise

    def _load_stage(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._name = args["model_name"]
        self._log = TritonLogHandler(self._name)
        _package_log.addHandler(self._log)
        _package_log.setLevel(logging.INFO)
        _package_log.propagate = False
        self._metrics = RequestMetrics(self._name, args["model_instance_name"])
        self._tracer = Tracer.from_environment(self._name, args["model_instance_name"])
        self._logs_requests = os.environ.get(LOG_REQUESTS, "") not in ("", "0")
        self._tagged = not self._name.startswith(PUBLIC_PREFIX)
        self._fields = {field.name for field in dataclasses.fields(self.stage.request_type)}
        self._calls = BoardReader()
        self._optional_outputs = {
            field.name.upper()
            for field in dataclasses.fields(self.stage.result_type)
            if field.default is not dataclasses.MISSING
        }
        self._inputs = read_wire(config["input"])
        self._outputs = read_wire(config["output"])
        folder = Path(args["model_repository"]) / args["model_version"]
        verify_manifest(folder)
        parameters = {
            key: value["string_value"]
            for key, value in config["parameters"].items()
            if key == key.lower()  # upper-case ones are the Python backend's own
        }
        on_gpu = args["model_instance_kind"] == "GPU"
        device = f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu"
        settings = self.stage.settings_type.parse(parameters)
        has_network = "torch" in sys.modules
        if has_network:
            _set_up_torch(device, settings.threads or (GPU_THREADS if on_gpu else 0))
        self._stage = self._build(Place(folder, device), settings)
        if has_network:
            keep_freed_memory()  # after loading, whose memory may go back to the kernel
        self._stage.warm_up()
        # A stage that knows voices counts what happens in them.
        self._voice_metrics: VoiceMetrics | None = getattr(self._stage, "voice_metrics", None)
        self._voice_families = VoiceFamilies(self._name, device) if self._voice_metrics else None
        self._guard_counts: GuardCounts | None = getattr(self._stage, "guard_counts", None)
        self._guard_families = (
            GuardFamilies(self._name, args["model_instance_name"]) if self._guard_counts else None
        )
        timings = getattr(self._stage, "timings", None)
        instance = args["model_instance_name"]
        self._timings = TimingHistograms(timings, self._name, instance) if timings else None
        self._logged = ""
        self._heart = Heartbeat().start()  # after loading, which may hold Python's lock for long

    def _build(self, place: Place, settings: Any) -> Any:
        return self.stage(place, settings)

    def finalize(self) -> None:
        """Close the stage and end the process."""
        try:
            self._close()
        except Exception as error:  # the process is to end all the same
            pb_utils.Logger.log_error(f"model not closed: {type(error).__name__}: {error}")
        leave()

    def _close(self) -> None:
        """End the stage's threads, and let go of what lives in the server.

        Metrics, requests and responses notify the server when they are freed. One that is freed
        after its model crashes the process. Kept errors hold requests in reference cycles through
        their tracebacks, so garbage is collected here.
        """
        self._heart.close()
        self._stage.close()
        if self._tracer is not None:
            self._tracer.close()
        del self._metrics, self._voice_families, self._guard_families, self._timings, self._stage
        gc.collect()
        _package_log.removeHandler(self._log)
        _package_log.propagate = True

    def _read(self, request: Any, span: Span | None = None) -> Any:
        """The stage's request: the tensors, and what Triton says beside them if it wants that.

        Calls that are made for a traced request carry its span in their ids.
        """
        own_id = request_id(request)
        beside = {
            "owner": owner_of(own_id),
            "request_id": traced_id(span.traceparent, own_id) if span else own_id,
            "sequence": request.correlation_id(),
            "start": bool(request.flags() & _START),
            "end": bool(request.flags() & _END),
            "outputs": self._wanted(request) & self._optional_outputs,
        }
        if not self._tagged:
            check_parameters(request, self._inputs, self._optional_outputs)
        values = read_request(request, self._inputs)
        if read := getattr(self.stage, "read_request", None):
            return read({**beside, **values})
        wanted = {name: value for name, value in beside.items() if name in self._fields}
        return self.stage.request_type(**wanted, **values)

    def _wanted(self, request: Any) -> frozenset[str]:
        """The outputs that the request asks for."""
        if self._tagged:
            return frozenset(request.requested_output_names())
        return wanted_outputs(request, self._optional_outputs)

    def _flush(self) -> None:
        """Tell Triton the metrics; from one thread of the model only."""
        self._metrics.flush()
        if self._timings is not None:
            self._timings.flush()
        if self._voice_families is not None and self._voice_metrics is not None:
            self._voice_families.flush(self._voice_metrics)
        if self._guard_families is not None and self._guard_counts is not None:
            self._guard_families.flush(self._guard_counts)

    def _begin_span(self, request: Any) -> Span | None:
        """The request's span, if it is traced; to be called in ``execute``."""
        if self._tracer is None:
            return None
        own_id = request_id(request)
        parent = parent_span(own_id) if self._tagged else span_of(request)
        return self._tracer.begin(parent, caller_id(own_id))

    def _ended(
        self, own_id: str, span: Span | None, started: float, error: BaseException | None
    ) -> None:
        """Count, trace and perhaps log a request whose last response has left."""
        outcome, seconds = outcome_of(error), time.monotonic() - started
        self._metrics.observe(outcome, seconds)
        if span is not None:
            span.end(outcome, error)
        if self._logs_requests:
            pb_utils.Logger.log_info(
                f"{self._name}: request id={caller_id(own_id)!r} {outcome} after {seconds:.3f} s"
            )

    def _log_failure(self, request: Any, error: BaseException) -> None:
        """Our own faults go to the server's log with the request id; the caller's don't.

        A broken voice is the operator's: logged once, not at every request for it.
        """
        _end_if_fatal(error)
        if isinstance(error, (InvalidRequest, Overloaded, Cancelled)):
            return
        if isinstance(error, (VoiceError, CheckpointError)):
            if str(error) != self._logged:
                pb_utils.Logger.log_warn(f"{self._name}: {error}")
            self._logged = str(error)
        else:
            pb_utils.Logger.log_error(
                f"{self._name}: request id={caller_id(request_id(request))!r} failed: "
                f"{type(error).__name__}: {error}"
            )


def request_id(request: Any) -> str:
    """The caller's request id, or an empty string."""
    return str(request.request_id())


class BatchedModel(_Model):
    """Triton model around a :class:`~gsv.stages.base.BatchStage`."""

    stage: ClassVar[type[BatchStage]]

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order; an error stays with the request that caused it."""
        started = time.monotonic()
        self._metrics.begin(len(requests))
        spans = [self._begin_span(request) for request in requests]
        answers: list[Any] = [None] * len(requests)
        parsed: list[tuple[int, Any]] = []
        for index, request in enumerate(requests):
            try:
                self._calls.take(request_id(request))
                left = self._calls.watch(request_id(request))
                if left is not None and left():
                    raise Cancelled("the caller went away")
                parsed.append((index, self._read(request)))
            except GsvError as error:
                answers[index] = error
        if parsed:
            for (index, _), answer in zip(parsed, self._run([p for _, p in parsed]), strict=True):
                answers[index] = answer
        responses = [self._respond(r, a) for r, a in zip(requests, answers, strict=True)]
        for request, span, answer in zip(requests, spans, answers, strict=True):
            failure = answer if isinstance(answer, BaseException) else None
            self._ended(request_id(request), span, started, failure)
        self._flush()
        return responses

    def _run(self, parsed: list[Any]) -> list[Any]:
        try:
            return list(self._stage.run_batch(parsed))
        except Exception as error:  # whatever it is, the request at fault gets it
            _end_if_fatal(error)
            # A fault of ours must not name an innocent request: each of the batch runs once more
            # by itself, so that only the one at fault fails.
            if len(parsed) == 1:
                return [error]
            return [answer for one in parsed for answer in self._run([one])]

    def _respond(self, request: Any, answer: Any) -> Any:
        if isinstance(answer, BaseException):
            self._log_failure(request, answer)
            return pb_utils.InferenceResponse(error=to_triton_error(answer, tagged=self._tagged))
        return write_response(answer, self._outputs, request.requested_output_names())


class _Caller:
    """One caller of a running batch: its sender, and the function that cancels its work."""

    def __init__(self, model: StreamingModel, request: Any) -> None:
        self._model = model
        self._request_id = request_id(request)
        try:
            self._requested = model._wanted(request)
        except InvalidRequest:  # which is what the request will be answered with
            self._requested = frozenset()
        self._sender = request.get_response_sender()
        self._lock = threading.Lock()
        self._open = True
        self._started = time.monotonic()
        self.span = model._begin_span(request)
        model._metrics.begin()
        self._error: BaseException | None = None
        self.cancel: Callable[[], None] | None = None
        self.called_off = False
        # Set for calls from another model of this server, whose call board tells when nobody waits.
        self._left = model._calls.watch(self._request_id)
        model._calls.take(self._request_id)
        self.timeout = 0.0  # seconds; 0 is without a limit

    def check_time(self) -> None:
        """TimedOut when the time that the caller has given is over (Triton's ``timeout``)."""
        if self.timeout and time.monotonic() - self._started > self.timeout:
            raise TimedOut(
                f"timeout: the request's {self.timeout:g} s are over; give it more time, or ask "
                "for less text at once"
            )

    def has_left(self) -> bool:
        """Whether the model that calls has said that nobody waits."""
        return self._left is not None and self._left()

    def is_cancelled(self) -> bool:
        """Whether the caller has gone; of another model's call also after its answer."""
        if self._left is not None:
            return self._left()
        with self._lock:
            return self._open and bool(self._sender.is_cancelled())

    def send(self, result: Any, *, final: bool) -> None:
        """Send one response; the last one closes the sender."""
        self._send(write_response(result, self._model._outputs, self._requested), final=final)

    def finish(self) -> None:
        """End a decoupled answer with an empty last message."""
        self._send(None, final=True)

    def fail(self, error: BaseException) -> None:
        """End the caller's stream with an error."""
        self._model._log_failure(self, error)
        self._error = error
        answer = to_triton_error(error, tagged=self._model._tagged)
        self._send(pb_utils.InferenceResponse(error=answer), final=True)

    def request_id(self) -> str:
        """The caller's request id, for the log."""
        return self._request_id

    def _send(self, response: Any, *, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        with self._lock:
            if not self._open:
                return
            self._open = not final
            sender = self._sender
            if final:
                # A stage may keep this object until after the server's memory is gone.
                self._sender = None
            if response is None:
                sender.send(flags=flags)
            else:
                sender.send(response, flags=flags)
        if final:
            self._model._ended(self._request_id, self.span, self._started, self._error)
            self._model._forget(self)


class StreamingModel(_Model):
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
        self._callers: set[_Caller] = set()
        self._changes = 0  # of it
        self._changed = threading.Condition()
        self._closing = False
        self._watch = threading.Thread(target=self._watch_callers, name="cancel-watch", daemon=True)
        self._watch.start()

    def execute(self, requests: list[Any]) -> None:
        """Hand every request to the stage; answers leave through its sender."""
        for request in requests:
            caller = _Caller(self, request)
            if caller.has_left():
                caller.fail(Cancelled("the caller went away"))
                continue
            if not self._tagged and self._heart.stopping():
                caller.fail(Overloaded("the server is stopping; try again later"))
                continue
            with self._changed:
                self._callers.add(caller)
                self._changes += 1
                self._changed.notify()
            try:
                if not self._tagged:  # a call of another model ends with its caller
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
        super()._close()
        del self._load

    def _check(self, caller: _Caller) -> None:
        """Call a caller's work off if nobody waits for it any more."""
        if caller.is_cancelled():
            self._call_off(caller)
            return
        try:
            caller.check_time()
        except TimedOut as error:
            self._call_off(caller)
            caller.fail(error)

    def _call_off(self, caller: _Caller) -> None:
        caller.called_off = True
        try:
            if caller.cancel is not None:
                caller.cancel()
        except Exception as error:  # the watch must go on for all other callers
            self._log_failure(caller, error)

    def _forget(self, caller: _Caller) -> None:
        with self._changed:
            self._callers.discard(caller)
            self._changes += 1
            self._changed.notify()

    def _watch_callers(self) -> None:
        # Triton tells of a cancellation only when asked, so while anybody waits, ask.
        busy, told = False, 0
        while True:
            with self._changed:
                if self._closing:
                    return
                idle = None if self._voice_metrics is None else IDLE_CHECK_SECONDS
                # A caller that ended during the last flush notified nobody, so don't wait then.
                if self._changes == told:
                    self._changed.wait(CANCEL_CHECK_SECONDS if self._callers or busy else idle)
                told = self._changes
                callers = list(self._callers)
            self._flush()
            for caller in callers:
                if caller.cancel is not None and not caller.called_off:
                    self._check(caller)
            if sweep := getattr(self._stage, "sweep", None):
                sweep()
            load = self._stage.load()
            if self._load is not None and load is not None:
                self._load.show(load)
                busy = load.running + load.waiting > 0


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
