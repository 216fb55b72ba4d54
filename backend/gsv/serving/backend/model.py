"""What every model of Triton does around its stage: load, read requests, count, log and end."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import triton_python_backend_utils as pb_utils

from gsv.checkpoints.manifest import verify_manifest
from gsv.constants import PUBLIC_PREFIX
from gsv.errors import Cancelled, CheckpointError, InvalidRequest, Overloaded, VoiceError
from gsv.serving.backend.call_board import (
    BoardReader,
    caller_id,
    is_made_again,
    owner_of,
    parent_span,
)
from gsv.serving.backend.heartbeat import Heartbeat, was_ready
from gsv.serving.backend.log_handler import TritonLogHandler
from gsv.serving.backend.memory import (
    collect_garbage_of_requests,
    collect_no_garbage,
    keep_freed_memory,
)
from gsv.serving.backend.metrics import (
    GuardFamilies,
    RequestMetrics,
    TimingHistograms,
    VoiceFamilies,
)
from gsv.serving.backend.priority import lower_priority
from gsv.serving.backend.process_end import leave
from gsv.serving.backend.request import check_parameters, read_request, request_id, wanted_outputs
from gsv.serving.backend.tracing import Span, Tracer, span_of, traced_id
from gsv.serving.backend.wire import Wire, read_wire
from gsv.stages.base import Place
from gsv.stages.sentence_report import GuardCounts
from gsv.voices.metrics import VoiceMetrics, outcome_of

GPU_THREADS = 2  # CPU threads of a process that computes on a GPU; more slow down the others
LOG_REQUESTS = "GSV_LOG_REQUESTS"  # variable: each model logs every request that has ended

collect_no_garbage()  # a stage, and torch with it, is imported after this module

_START, _END = 1, 2  # TRITONSERVER_REQUEST_FLAG_SEQUENCE_START and _END


class Model:
    """What both kinds of model share.

    Attributes:
        stage: the stage's class.
        tagged: only our own models call it; errors go to them with a tag of their kind.
        outputs: the tensors that it answers with.
        metrics: of its requests.
        calls: who still waits for the calls of our own models.
    """

    stage: ClassVar[Any]
    tagged: bool
    outputs: list[Wire]
    metrics: RequestMetrics
    calls: BoardReader

    def initialize(self, args: Mapping[str, str]) -> None:
        """Check the weights' manifest, build the stage on the device that Triton gave, warm up."""
        collect_garbage_of_requests()
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
        self._log.attach()
        self.metrics = RequestMetrics(self._name, args["model_instance_name"])
        self._tracer = Tracer.from_environment(self._name, args["model_instance_name"])
        self._logs_requests = os.environ.get(LOG_REQUESTS, "") not in ("", "0")
        self.tagged = not self._name.startswith(PUBLIC_PREFIX)
        self._fields = {field.name for field in dataclasses.fields(self.stage.request_type)}
        self.calls = BoardReader()
        self._optional_outputs = {
            field.name.upper()
            for field in dataclasses.fields(self.stage.result_type)
            if field.default is not dataclasses.MISSING
        }
        self._inputs = read_wire(config["input"])
        self.outputs = read_wire(config["output"])
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
        place = Place(folder, device, self.calls.first_audio_awaited, was_ready())
        self._stage = self._build(place, settings)
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
        if not on_gpu:
            lower_priority()

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
        del self.metrics, self._voice_families, self._guard_families, self._timings, self._stage
        gc.collect()
        self._log.detach()

    def _read(self, request: Any, span: Span | None = None) -> Any:
        """The stage's request: the tensors, and what Triton says beside them if it wants that.

        Calls that are made for a traced request carry its span in their ids.
        """
        own_id = request_id(request)
        beside = {
            "owner": owner_of(own_id),
            "made_again": is_made_again(own_id),
            "request_id": traced_id(span.traceparent, own_id) if span else own_id,
            "sequence": request.correlation_id(),
            "start": bool(request.flags() & _START),
            "end": bool(request.flags() & _END),
            "outputs": self.wanted(request) & self._optional_outputs,
        }
        if not self.tagged:
            check_parameters(request, self._inputs, self._optional_outputs)
        values = read_request(request, self._inputs)
        if read := getattr(self.stage, "read_request", None):
            return read({**beside, **values})
        wanted = {name: value for name, value in beside.items() if name in self._fields}
        return self.stage.request_type(**wanted, **values)

    def wanted(self, request: Any) -> frozenset[str]:
        """The outputs that the request asks for."""
        if self.tagged:
            return frozenset(request.requested_output_names())
        return wanted_outputs(request, self._optional_outputs)

    def _flush(self) -> None:
        """Tell Triton the metrics; from one thread of the model only."""
        self.metrics.flush()
        if self._timings is not None:
            self._timings.flush()
        if self._voice_families is not None and self._voice_metrics is not None:
            self._voice_families.flush(self._voice_metrics)
        if self._guard_families is not None and self._guard_counts is not None:
            self._guard_families.flush(self._guard_counts)

    def begin_span(self, request: Any) -> Span | None:
        """The request's span, if it is traced; to be called in ``execute``."""
        if self._tracer is None:
            return None
        own_id = request_id(request)
        parent = parent_span(own_id) if self.tagged else span_of(request)
        return self._tracer.begin(parent, caller_id(own_id))

    def ended(
        self, own_id: str, span: Span | None, started: float, error: BaseException | None
    ) -> None:
        """Count, trace and perhaps log a request whose last response has left."""
        outcome, seconds = outcome_of(error), time.monotonic() - started
        self.metrics.observe(outcome, seconds)
        if span is not None:
            span.end(outcome, error)
        if self._logs_requests:
            pb_utils.Logger.log_info(
                f"{self._name}: request id={caller_id(own_id)!r} {outcome} after {seconds:.3f} s"
            )

    def log_failure(self, request: Any, error: BaseException) -> None:
        """Our own faults go to the server's log with the request id; the caller's don't.

        A broken voice is the operator's: logged once, not at every request for it.
        """
        end_if_fatal(error)
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


def end_if_fatal(error: BaseException) -> None:
    """As :func:`gsv.device.end_if_fatal`, where this process has torch at all."""
    if "torch" in sys.modules:
        from gsv.device import end_if_fatal as end

        end(error)
