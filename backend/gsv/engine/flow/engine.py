"""The flow engine: one thread that takes Euler steps of all requests in work until it is stopped.

Requests of different lengths, schedules and progress share the estimator's batches: a request joins
when it arrives and leaves when it is done. Callers submit from any thread (callbacks included), and
every request is answered exactly once, with its frames or with an error, also when the engine is
stopped or breaks.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future

import torch
from torch import Tensor

from gsv.device import end_if_fatal
from gsv.engine.core import EngineThread, Handle, OnWait, ignore_wait
from gsv.engine.flow.model_runner import FlowRunner
from gsv.engine.flow.request import FlowRequest, FlowTask, OnDone, OnError
from gsv.engine.flow.scheduler import FlowScheduler, headroom
from gsv.engine.give_way import GiveWay
from gsv.engine.kernels.cpu import attention as native
from gsv.engine.kernels.cuda import flow as kernels
from gsv.engine.step_queue import StepQueue
from gsv.engine.transfers import Download
from gsv.engine.turns import Turn
from gsv.errors import Cancelled, ConfigurationError, GsvError, InvalidRequest
from gsv.models.adapters import Adapter
from gsv.models.flow import FlowMatching

__all__ = ["FlowEngine", "FlowRequest", "FlowStats", "Handle"]

logger = logging.getLogger(__name__)

# A CPU is busy with one long row; a GPU wants many (about 16 of a full window).
CPU_BATCH_FRAMES = 1_024
CUDA_BATCH_FRAMES = 16_384
# Eight rows of a first chunk and its prompt. An H100 takes 1.2 ms for a step of one, 2.8 of four,
# 5.3 of eight and 9.6 of sixteen: who came later had better wait than make everybody late.
CUDA_FIRST_AUDIO_FRAMES = 5_120
CUDA_ROUND_TO = 64  # frames; keeps the allocator's and the libraries' set of shapes small
WARM_UP_FRAMES = 64


@dataclasses.dataclass
class FlowStats:
    """Counters since the start, and the present load."""

    slots: int = 0
    running: int = 0
    waiting: int = 0
    steps: int = 0  # estimator calls
    rows: int = 0  # rows of all calls; rows / steps is the mean batch
    frames: int = 0  # frames of all rows
    padded_frames: int = 0  # the same with padding
    finished: int = 0
    cancelled: int = 0
    failed: int = 0

    @property
    def fill(self) -> float:
        """Share of the estimated frames that were no padding."""
        return self.frames / self.padded_frames if self.padded_frames else 0.0


class FlowEngine:
    """In-flight batching of flow matching on one device.

    Args:
        flow: the estimator, in evaluation mode and on its device.
        slots: requests in work at once. Beside them there is room for more that have a listener.
        waiting_limit: requests that may wait for a slot; one more gets Overloaded.
        batch_frames: most frames of a batch; 0 chooses for the device.
        on_wait: gets what each request waited for its first step.
        give_way: whether whole answers are to rest.
    """

    def __init__(
        self,
        flow: FlowMatching,
        slots: int = 16,
        waiting_limit: int = 1024,
        batch_frames: int = 0,
        on_wait: OnWait = ignore_wait,
        give_way: GiveWay | None = None,
    ) -> None:
        self._on_wait = on_wait
        on_gpu = flow.device.type != "cpu"
        frames = batch_frames or (CUDA_BATCH_FRAMES if on_gpu else CPU_BATCH_FRAMES)
        _accelerate(flow)
        self._flows = {"": flow}
        self._scheduler = FlowScheduler(
            slots,
            waiting_limit,
            frames,
            headroom=headroom(slots),
            first_audio_frames=CUDA_FIRST_AUDIO_FRAMES if on_gpu else 0,
            company_costs=not on_gpu,
        )
        self._runner = FlowRunner(self._flows, CUDA_ROUND_TO if on_gpu else 1)
        self._stats = FlowStats(slots=slots)
        self._steps: StepQueue[tuple[FlowTask, Download]] = StepQueue(flow.device)
        self._thread = EngineThread("flow", flow.device, self, give_way)
        self._changed = self._thread.changed  # guards the scheduler

    def add_model(self, name: str, flow: FlowMatching) -> None:
        """Serve another estimator of the same shape and device under ``name``."""
        if name in self._flows:
            raise ConfigurationError(f"flow model {name!r} is there already")
        _accelerate(flow)
        self._flows[name] = flow

    def remove_model(self, name: str) -> None:
        """Let an estimator go; InvalidRequest while requests of it wait or run."""
        with self._changed:
            self._refuse_while_used(name, lambda request: request.model == name)
            del self._flows[name]
            self._runner.forget_model(name)

    def add_adapter(self, name: str, adapter: Adapter) -> None:
        """Serve low-rank changes to the first estimator under ``name``; on its device."""
        if name in self._runner.adapters:
            raise ConfigurationError(f"flow adapter {name!r} is there already")
        self._runner.adapters[name] = adapter

    def remove_adapter(self, name: str) -> None:
        """Let an adapter go; InvalidRequest while requests with it wait or run."""
        with self._changed:
            self._refuse_while_used(name, lambda request: request.adapter == name)
            del self._runner.adapters[name]

    def _refuse_while_used(self, name: str, uses: Callable[[FlowRequest], bool]) -> None:
        requests = (task.request for task in (*self._scheduler.waiting, *self._scheduler.running))
        if any(uses(request) for request in requests):
            raise InvalidRequest(f"{name!r} is in use; wait for its requests to end")

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; whoever still waits gets Cancelled."""
        self._thread.stop()

    def submit(self, request: FlowRequest, on_done: OnDone, on_error: OnError) -> Handle:
        """Put a request in line; the callbacks run on the engine's thread and must be quick.

        Raises:
            InvalidRequest, ValueError: the request can't be run.
            Overloaded: the waiting line is full.
            GsvError: the engine has been stopped or is broken.
        """
        if request.model not in self._flows:
            raise ValueError(f"flow model {request.model!r}: allowed are {sorted(self._flows)}")
        if request.adapter and request.adapter not in self._runner.adapters:
            raise ValueError(f"flow adapter {request.adapter!r} is not there")
        flow = self._flows[request.model]
        request.verify(flow.condition_channels, flow.mel_channels)
        task = FlowTask(request, on_done, on_error)
        self._thread.submit(lambda: self._scheduler.add(task))
        return Handle(task.cancel, self._thread.wake)

    def run(self, request: FlowRequest) -> Tensor:
        """The new frames [mel, T - P] of ``request``, waited for; not from a callback."""
        self._thread.require_started()
        future: Future[Tensor] = Future()
        self.submit(request, future.set_result, future.set_exception)
        return future.result()

    def warm_up(self) -> None:
        """Capture graphs and run a short request: the first real one finds all allocated."""
        self._runner.warm_up()
        flow = self._flows[""]
        condition = torch.zeros(flow.condition_channels, WARM_UP_FRAMES)
        prompt = torch.zeros(flow.mel_channels, WARM_UP_FRAMES // 2)
        # Callers wait for a model that comes back: it mustn't give way to them.
        self.run(FlowRequest(condition, prompt, steps=1, turn=Turn(first_audio=True)))

    def stats(self) -> FlowStats:
        """A copy of the counters."""
        with self._changed:
            running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
            return dataclasses.replace(self._stats, running=running, waiting=waiting)

    def has_work(self) -> bool:
        """Whether there is a step to take or to see the end of; called with the lock held."""
        return self._scheduler.busy or len(self._steps) > 0

    def can_rest(self) -> bool:
        """Whether no listener waits for any chunk; called with the lock held."""
        return not self._scheduler.urgent

    def take_turn(self) -> None:
        """Drop cancelled requests, admit new ones, step one batch, answer those that are done."""
        while len(self._steps) > self._steps.most:
            self._land()
        with self._changed:
            dropped = self._scheduler.drop_cancelled()
            self._scheduler.admit()
            selected = self._scheduler.select()
        for task in dropped:
            self._runner.release(task)
            self._stats.cancelled += 1
            self._fail(task, Cancelled("cancelled by its caller"))
        batch = [task for task in selected if self._prepared(task)]
        if batch:
            self._step(batch)
        elif self._steps:
            self._land()

    def abandon(self, error: GsvError) -> None:
        """See the steps in flight to their end and answer everybody who is left with ``error``."""
        with self._changed:
            left = self._scheduler.drain()
        self._land_all(error)
        for task in left:
            self._runner.release(task)
            self._fail(task, error)

    def _step(self, batch: list[FlowTask]) -> None:
        """Queue one Euler step of ``batch``; on a CPU it is over afterwards."""
        begin = self._steps.mark()
        try:
            self._runner.step(batch)
        except Exception as error:  # whatever it is, this batch alone fails
            for task in batch:
                self._end(task, error)
            return
        with self._changed:
            self._scheduler.advance(batch)
        self._count(batch)
        results = [
            (task, download)
            for task in batch
            if task.finished and (download := self._result(task)) is not None
        ]
        self._steps.add(begin, sum(task.request.frames for task in batch), results)
        if not self._steps.most:
            self._land()

    def _land(self) -> None:
        """Wait for the oldest step's end, and answer the requests whose last one it was."""
        step = self._steps.land()
        with self._changed:
            self._scheduler.measured(step.units, step.seconds)
        for task, download in step.results:
            self._answer(task, download)

    def _land_all(self, error: GsvError) -> None:
        """See the steps in flight to their end; where the device fails, their requests fail."""
        try:
            while self._steps:
                self._land()
        except Exception as broken:  # whatever it is, every caller gets an answer
            logger.exception("the flow engine's last steps failed")
            for task, _ in self._steps.drain():
                self._fail(task, broken if isinstance(broken, GsvError) else error)

    def _prepared(self, task: FlowTask) -> bool:
        """Prepare a request before its first step: new ones hold up others one at a time."""
        if task.step > 0:
            return True
        self._on_wait(time.monotonic() - task.submitted)
        try:
            self._runner.admit(task)
        except Exception as error:  # whatever it is, this request alone fails
            self._end(task, error)
            return False
        return True

    def _result(self, task: FlowTask) -> Download | None:
        """Free the slot of a request that has taken its last step; its frames come later."""
        try:
            download = self._runner.result(task)
        except Exception as error:  # whatever it is, this request alone fails
            self._end(task, error)
            return None
        with self._changed:
            self._scheduler.remove(task)
        self._runner.release(task)
        return download

    def _answer(self, task: FlowTask, download: Download) -> None:
        mel = download.wait()
        if not torch.isfinite(mel).all():
            error = GsvError("the flow's frames are not finite; try dtype bfloat16 or float32")
            self._failed(task, error)
            return
        self._stats.finished += 1
        try:
            task.done(mel)
        except Exception:  # the caller's fault must not end the engine
            logger.exception("a caller's callback failed")

    def _end(self, task: FlowTask, error: Exception) -> None:
        """Free the slot, and answer with the error."""
        with self._changed:
            self._scheduler.remove(task)
        self._runner.release(task)
        self._failed(task, error)

    def _failed(self, task: FlowTask, error: Exception) -> None:
        self._stats.failed += 1
        end_if_fatal(error)
        logger.error("a mel chunk failed", exc_info=error)
        self._fail(task, error if isinstance(error, GsvError) else _wrapped(error))

    def _fail(self, task: FlowTask, error: BaseException) -> None:
        try:
            task.fail(error)
        except Exception:  # the caller's fault must not end the engine
            logger.exception("a caller's error callback failed")

    def _count(self, batch: list[FlowTask]) -> None:
        rows = len(batch)
        longest = max(task.request.frames for task in batch)
        self._stats.steps += 1
        self._stats.rows += rows
        self._stats.frames += sum(task.request.frames for task in batch)
        self._stats.padded_frames += rows * longest


def _accelerate(flow: FlowMatching) -> None:
    """Use the kernels that serve the device and the type."""
    kernels.accelerate(flow)
    native.accelerate(flow)


def _wrapped(error: Exception) -> GsvError:
    wrapped = GsvError(f"flow matching failed: {error}")
    wrapped.__cause__ = error
    return wrapped
