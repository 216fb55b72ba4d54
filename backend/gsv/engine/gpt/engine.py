"""The engine: one thread that runs schedule → run → postprocess until it is stopped.

Callers submit sequences from any thread and are called back with tokens. Each resident model has
a lane of its own. Every sequence is answered to its end, with its last tokens or with one error,
also when the engine is stopped or breaks.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from gsv.device import end_if_fatal, prepare
from gsv.engine.gpt.gpu_model_runner import GpuModelRunner
from gsv.engine.gpt.model_runner import ModelRunner, Noise
from gsv.engine.gpt.scheduler import Scheduler
from gsv.engine.gpt.sequence import OnError, OnTokens, Sequence, SequenceRequest, Status
from gsv.engine.gpt.worker import Counters, Worker
from gsv.engine.noise import exponential_steps
from gsv.errors import Cancelled, ConfigurationError, GsvError, InvalidRequest
from gsv.models.gpt import MAX_POSITIONS, SemanticGPT

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Handle:
    """A submitted sequence, for its caller."""

    _sequence: Sequence
    _wake: Callable[[], None]

    def cancel(self) -> None:
        """Give up: the slot is free within one step and the error callback gets Cancelled.

        Without effect on a sequence that is over. May be called from any thread.
        """
        self._sequence.cancel()
        self._wake()


@dataclasses.dataclass(frozen=True)
class EngineStats:
    """The present load, and counters since the start."""

    models: int
    slots: int  # of one model
    running: int
    waiting: int
    counters: Counters

    @property
    def batch(self) -> float:
        """Mean number of rows of a decoding step."""
        return self.counters.rows / max(self.counters.steps, 1)


class Engine:
    """Continuous batching of the semantic GPT.

    Args:
        model: the first checkpoint, named "". Taken over: moved to ``device``, stored in ``dtype``.
        device: where to run.
        dtype: precision of the matrices and the cache: float32 (exact), bfloat16, float16, or int8,
            which is bfloat16 with the matrices of decode rounded to int8 (on a CPU).
        slots: sequences of one model that run at once.
        waiting_limit: sequences of one model that may wait for a slot.
        max_length: most positions of a sequence: phonemes, prompt tokens and new tokens.
        prefill_limit: newcomers per step; by default 1 on a CPU, where a prefill is long against
            a step and gains nothing from company, and 8 on a GPU.
        noise: where the Exp(1) numbers come from; tests replay recorded ones.
        kernel: decode through the compiled kernel where there is one (on a CPU).

    Raises:
        ConfigurationError: a number out of range.
    """

    def __init__(
        self,
        model: SemanticGPT,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        slots: int = 16,
        waiting_limit: int = 64,
        max_length: int = 2560,
        prefill_limit: int | None = None,
        noise: Noise = exponential_steps,
        kernel: bool = True,
    ) -> None:
        self._device = torch.device(device)
        self._dtype = dtype
        self._slots = slots
        self._waiting_limit = waiting_limit
        self._max_length = max_length
        self._prefill_limit = prefill_limit or (1 if self._device.type == "cpu" else 8)
        self._noise = noise
        self._kernel = kernel
        for name, value, lowest, highest in (
            ("slots", slots, 1, 1024),
            ("waiting_limit", waiting_limit, 0, 1_000_000),
            ("max_length", max_length, 2, MAX_POSITIONS),
            ("prefill_limit", self._prefill_limit, 1, slots if prefill_limit else 8),
        ):
            if not lowest <= value <= highest:
                raise ConfigurationError(f"{name}: got {value}; allowed: {lowest} to {highest}")
        self._lock = threading.Condition()
        self._counters = Counters()
        self._workers: dict[str, Worker] = {}
        self._thread: threading.Thread | None = None
        self._ended: GsvError | None = None  # why nothing more can be submitted
        self.add_model("", model)

    def add_model(self, name: str, model: SemanticGPT, slots: int | None = None) -> None:
        """Make another checkpoint resident; taken over as the first one was.

        Args:
            name: by which sequences choose it.
            model: of any shape.
            slots: sequences of it that run at once; by default as many as of the first.
        """
        slots = slots or self._slots
        kind = GpuModelRunner if self._device.type == "cuda" else ModelRunner
        runner = kind(
            model,
            self._device,
            self._dtype,
            slots,
            self._max_length,
            self._noise,
            self._kernel,
        )
        if self._thread is not None:
            runner.warm_up()  # those resident before the start are warmed up by ``warm_up``
        scheduler = Scheduler(slots, self._waiting_limit, self._prefill_limit)
        with self._lock:
            if name in self._workers:
                raise ConfigurationError(f"model {name!r} is resident already")
            self._workers[name] = Worker(scheduler, runner, self._counters, self._lock)

    def remove_model(self, name: str) -> None:
        """Let a checkpoint go; InvalidRequest while sequences of it wait or run."""
        with self._lock:
            if self._worker(name).scheduler.busy:
                raise InvalidRequest(f"model {name!r} is in use; wait for its sequences to end")
            del self._workers[name]

    def warm_up(self) -> None:
        """Run each model once, and capture its graphs on a GPU; before ``start``."""
        for worker in self._workers.values():
            worker.runner.warm_up()

    def start(self) -> None:
        """Start the engine's thread."""
        if self._thread is None and self._ended is None:
            self._thread = threading.Thread(target=self._loop, name="semantic-gpt", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; whoever still waits gets Cancelled."""
        with self._lock:
            self._ended = self._ended or GsvError("the semantic GPT engine has been stopped")
            self._lock.notify_all()
        if self._thread is None:
            self._abandon(Status.CANCELLED, Cancelled("the semantic GPT engine has been stopped"))
        elif self._thread is not threading.current_thread():
            self._thread.join()

    def submit(self, request: SequenceRequest, on_tokens: OnTokens, on_error: OnError) -> Handle:
        """Put a sentence in line.

        Args:
            request: the sentence.
            on_tokens: gets int32 tokens and whether they are the last ones; the last call may
                bring none.
            on_error: gets the error that ended the sentence, after which nothing follows.
                Both are called on the engine's thread and must not block.

        Raises:
            InvalidRequest: the model can't read the request.
            Overloaded: the line is full.
            GsvError: the engine has been stopped or is broken.
        """
        with self._lock:
            worker = self._worker(request.model)
        request.verify(worker.runner.config, self._max_length)
        sequence = Sequence(request, on_tokens, on_error)
        with self._lock:
            if self._ended is not None:
                raise self._ended
            worker.scheduler.add(sequence)
            self._lock.notify_all()
        return Handle(sequence, self.wake)

    def generate(self, request: SequenceRequest) -> NDArray[np.int32]:
        """Submit and wait; int32 [m] without EOS. Raises what ``submit`` raises or delivers."""
        if self._thread is None:
            raise GsvError("the semantic GPT engine has not been started")
        answers: queue.SimpleQueue[tuple[NDArray[np.int32], bool] | BaseException]
        answers = queue.SimpleQueue()
        handle = self.submit(request, lambda *answer: answers.put(answer), answers.put)
        chunks = []
        try:
            while True:
                answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                chunks.append(answer[0])
                if answer[1]:
                    return np.concatenate(chunks)
        finally:
            handle.cancel()  # in case the wait was interrupted

    def wake(self) -> None:
        """Look again at who wants tokens; from any thread."""
        with self._lock:
            self._lock.notify_all()

    def stats(self) -> EngineStats:
        """A snapshot."""
        with self._lock:
            schedulers = [worker.scheduler for worker in self._workers.values()]
            return EngineStats(
                models=len(schedulers),
                slots=self._slots,
                running=sum(len(s.running) for s in schedulers),
                waiting=sum(len(s.waiting) for s in schedulers),
                counters=dataclasses.replace(self._counters),
            )

    def _worker(self, name: str) -> Worker:
        if name not in self._workers:
            known = sorted(self._workers)
            raise InvalidRequest(f"model {name!r} is not resident; resident are {known}")
        return self._workers[name]

    def _loop(self) -> None:
        try:
            prepare(self._device)
            while (workers := self._wait_for_work()) is not None:
                for worker in workers:
                    worker.step()
                del workers, worker  # one that is removed while all rest takes its memory along
        except BaseException as error:
            # A fault of ours, or no memory left. Nobody may wait for a thread that is gone.
            end_if_fatal(error)
            logger.exception("the semantic GPT engine broke")
            with self._lock:
                self._ended = GsvError(f"the semantic GPT engine broke: {error!r}")
                self._ended.__cause__ = error
            self._abandon(Status.FAILED, self._ended)
        else:
            self._abandon(Status.CANCELLED, Cancelled("the semantic GPT engine has been stopped"))

    def _wait_for_work(self) -> list[Worker] | None:
        """The lanes with work, as soon as there are any; None when it is time to stop.

        A lane rests while all its readers have enough: a machine that is shared with the flow then
        makes audio of what they have, first. One that is hungry takes the others along, which costs
        next to nothing.
        """
        with self._lock:
            while self._ended is None:
                workers = [worker for worker in self._workers.values() if worker.busy]
                if workers:
                    return workers
                self._lock.wait()
        return None

    def _abandon(self, status: Status, error: BaseException) -> None:
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.abandon(status, error)
