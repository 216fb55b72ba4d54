"""The engine: one thread that runs schedule → run → postprocess until it is stopped.

Callers submit sequences from any thread and are called back with tokens. Each loaded model has a
worker of its own. Every sequence is answered to its end, with its last tokens or with one error,
also when the engine is stopped or breaks.
"""

from __future__ import annotations

import dataclasses
import queue

import numpy as np
import torch
from numpy.typing import NDArray

from gsv.engine.core import EngineThread, Handle, OnWait, ignore_wait
from gsv.engine.give_way import GiveWay
from gsv.engine.gpt.gpu_model_runner import GpuModelRunner
from gsv.engine.gpt.model_runner import ModelRunner, Noise
from gsv.engine.gpt.scheduler import Scheduler, headroom
from gsv.engine.gpt.sequence import OnError, OnTokens, Sequence, SequenceRequest
from gsv.engine.gpt.worker import Counters, Worker
from gsv.engine.noise import exponential_steps
from gsv.errors import ConfigurationError, GsvError, InvalidRequest
from gsv.models.gpt import MAX_POSITIONS, SemanticGPT

__all__ = ["Engine", "EngineStats", "Handle"]


@dataclasses.dataclass(frozen=True)
class EngineStats:
    """The present load, and counters since the start."""

    models: int
    slots: int  # of one model, without those that listeners have beside them
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
        slots: sequences of one model that run at once. Beside them there are rows that only
            sequences with a listener take, so that none of these waits for a whole answer to end.
        waiting_limit: sequences of one model that may wait for a slot.
        max_length: most positions of a sequence: phonemes, prompt tokens and new tokens.
        prefill_limit: prompts read per step; by default 1 on a CPU, where a prefill is long against
            a step and gains nothing from company, and 8 on a GPU.
        noise: where the Exp(1) numbers come from; tests replay recorded ones.
        kernel: decode through the compiled kernel where there is one (on a CPU).
        on_wait: gets what each sequence waited for a slot.
        give_way: whether whole answers are to rest.

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
        on_wait: OnWait = ignore_wait,
        give_way: GiveWay | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._dtype = dtype
        self._slots = slots
        self._waiting_limit = waiting_limit
        self._max_length = max_length
        self._prefill_limit = prefill_limit or (1 if self._device.type == "cpu" else 8)
        self._noise = noise
        self._kernel = kernel
        self._on_wait = on_wait
        for name, value, lowest, highest in (
            ("slots", slots, 1, 1024),
            ("waiting_limit", waiting_limit, 0, 1_000_000),
            ("max_length", max_length, 2, MAX_POSITIONS),
            ("prefill_limit", self._prefill_limit, 1, slots if prefill_limit else 8),
        ):
            if not lowest <= value <= highest:
                raise ConfigurationError(f"{name}: got {value}; allowed: {lowest} to {highest}")
        self._thread = EngineThread("semantic GPT", self._device, self, give_way)
        self._lock = self._thread.changed
        self._counters = Counters()
        self._workers: dict[str, Worker] = {}
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
            slots + headroom(slots),
            self._max_length,
            self._noise,
            self._kernel,
        )
        if self._thread.started:
            runner.warm_up()  # those resident before the start are warmed up by ``warm_up``
        scheduler = Scheduler(
            slots,
            self._waiting_limit,
            self._prefill_limit,
            headroom=headroom(slots),
            rows_cost=self._device.type == "cpu",
        )
        with self._lock:
            if name in self._workers:
                raise ConfigurationError(f"model {name!r} is resident already")
            self._workers[name] = Worker(
                scheduler, runner, self._counters, self._lock, self._on_wait
            )

    def remove_model(self, name: str) -> None:
        """Let a checkpoint go; InvalidRequest while sequences of it wait or run."""
        with self._lock:
            if self._worker(name).scheduler.busy:
                raise InvalidRequest(f"model {name!r} is in use; wait for its sequences to end")
            del self._workers[name]

    def model_of(self, name: str) -> SemanticGPT:
        """A resident checkpoint, on its device, to be read and not changed; InvalidRequest if it is
        not there."""
        with self._lock:
            return self._worker(name).runner.model

    def warm_up(self) -> None:
        """Run each model once, and capture its graphs on a GPU; before ``start``."""
        for worker in self._workers.values():
            worker.runner.warm_up()

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; whoever still waits gets Cancelled."""
        self._thread.stop()

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
        self._thread.submit(lambda: worker.scheduler.add(sequence))
        return Handle(sequence.cancel, self.wake)

    def generate(self, request: SequenceRequest) -> NDArray[np.int32]:
        """Submit and wait; int32 [m] without EOS. Raises what ``submit`` raises or delivers."""
        self._thread.require_started()
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
        self._thread.wake()

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

    def has_work(self) -> bool:
        """Whether any model's step is wanted; called with the lock held.

        A model rests while all its readers have tokens in hand: a machine that is shared with the
        flow then makes audio of what they have, first. One reader that wants more takes the others
        along, which costs next to nothing.
        """
        return any(worker.busy for worker in self._workers.values())

    def can_rest(self) -> bool:
        """Whether no listener waits for tokens of any model; called with the lock held."""
        return all(worker.can_rest for worker in self._workers.values())

    def take_turn(self) -> None:
        """A step of every model that wants one; on the engine's thread."""
        with self._lock:
            workers = [worker for worker in self._workers.values() if worker.busy]
        for worker in workers:
            worker.step()

    def abandon(self, error: GsvError) -> None:
        """End everybody with ``error``; called when nothing runs any more."""
        with self._lock:
            workers = list(self._workers.values())
        for worker in workers:
            worker.abandon(error)
