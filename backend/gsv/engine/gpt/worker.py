"""One model's share of the engine: a scheduler and a runner, stepped by the engine's thread."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence as Rows

from gsv.device import end_if_fatal
from gsv.engine.core import OnWait, ignore_wait
from gsv.engine.gpt.model_runner import ModelRunner, PendingOutput
from gsv.engine.gpt.scheduler import Scheduler
from gsv.engine.gpt.sequence import SamplerOutput, Sequence, Status
from gsv.errors import Cancelled, GsvError

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Counters:
    """What has happened since the start."""

    steps: int = 0  # decoding steps
    rows: int = 0  # rows of all decoding steps; rows / steps is the mean batch
    prefills: int = 0  # sequences prefilled
    tokens: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class Worker:
    """Steps the sequences of one model; everything here happens on the engine's thread.

    Args:
        scheduler: who runs.
        runner: the tensors.
        counters: shared by the engine's workers.
        lock: guards the scheduler, whose waiting line callers change.
        on_wait: gets what each sequence waited for a slot.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        counters: Counters,
        lock: threading.Condition,
        on_wait: OnWait = ignore_wait,
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._counters = counters
        self._lock = lock
        self._on_wait = on_wait
        self._queued: deque[PendingOutput] = deque()  # outputs of steps that are not read yet

    @property
    def busy(self) -> bool:
        """Whether a step is wanted, or one is under way; call it under the lock."""
        return bool(self._queued) or self.scheduler.has_demand

    @property
    def can_rest(self) -> bool:
        """Whether no listener waits for any sentence; call it under the lock."""
        return not self._queued and not self.scheduler.urgent

    def step(self) -> None:
        """Drop cancelled sequences, prefill new ones, decode one token of all.

        Where the runner runs ahead, this step is queued before the last one's tokens are read: the
        device has its next work while Python looks at what it has done. A sequence that ends takes
        part in one step too many, which nobody hears of.
        """
        started, rows = time.monotonic(), 0
        with self._lock:
            cancelled = self.scheduler.drop_cancelled()
        self._settle(cancelled)
        with self._lock:
            has_demand = self.scheduler.has_demand
        ahead = int(has_demand and self.runner.runs_ahead)
        if has_demand:
            self._admit(ahead)
            rows = self._decode()
        self._collect(ahead)
        with self._lock:
            self.scheduler.advance(rows, time.monotonic() - started)

    def abandon(self, error: BaseException) -> None:
        """End everybody with an error; their rows are overwritten by whoever comes next."""
        self._queued.clear()
        with self._lock:
            everybody = self.scheduler.clear()
        status = Status.CANCELLED if isinstance(error, Cancelled) else Status.FAILED
        for sequence in everybody:
            sequence.end(status, error)
            self._hand_on(sequence)

    def _admit(self, ahead: int) -> None:
        """Give new sequences rows and read their prompts."""
        with self._lock:
            self.scheduler.begin_step()
            admitted, first, moves = self.scheduler.admit()
        now = time.monotonic()
        for sequence in admitted:
            self._on_wait(now - sequence.submitted)
        for move in moves:
            self.runner.move(move)
        if admitted:
            self._prefill(admitted, first)
            self._collect(ahead)
            self._settle(admitted)  # those that failed

    def _prefill(self, admitted: Rows[Sequence], first: int) -> None:
        try:
            self._queued.append(self.runner.prefill(admitted, first))
            self._counters.prefills += len(admitted)
        except Exception as error:  # whatever it is, the one at fault fails
            if len(admitted) == 1:
                self._fail(admitted, "prefill", error)
                return
            # Each alone, so that only the one at fault fails.
            for row, sequence in enumerate(admitted, start=first):
                self._prefill([sequence], row)

    def _decode(self) -> int:
        """A step of the rows whose turn it is; how many they are."""
        with self._lock:
            rows = self.scheduler.next_rows()
        if not rows:
            return 0
        try:
            self._queued.append(self.runner.decode(rows))
            self._counters.steps += 1
            self._counters.rows += len(rows)
        except Exception as error:  # whatever it is, this batch alone fails
            self._fail(rows, "decoding", error)
            self._settle(rows)
        return len(rows)

    def _collect(self, left: int) -> None:
        """Read the oldest outputs until ``left`` are queued."""
        while len(self._queued) > left:
            drawing = self._queued.popleft()
            try:
                drawn = drawing.read()
            except Exception as error:  # whatever it is, this batch alone fails
                self._fail(drawing.sequences, "step", error)
            else:
                self._record(drawing.sequences, drawn)
            self._settle(drawing.sequences)

    def _record(self, sequences: Rows[Sequence], drawn: Rows[SamplerOutput]) -> None:
        for sequence, one in zip(sequences, drawn, strict=True):
            before = len(sequence.tokens)
            sequence.take(one)
            self._counters.tokens += len(sequence.tokens) - before

    def _fail(self, sequences: Rows[Sequence], action: str, cause: Exception) -> None:
        end_if_fatal(cause)
        logger.error("%s of %d sequences failed", action, len(sequences), exc_info=cause)
        error = GsvError(f"the semantic GPT's {action} failed: {cause}")
        error.__cause__ = cause
        for sequence in sequences:
            sequence.end(Status.FAILED, error)

    def _settle(self, sequences: Rows[Sequence]) -> None:
        """Free the rows of those that are over and hand on what is due, in this order.

        Whoever hears of an end then finds the slot free.
        """
        self._free_rows()
        for sequence in sequences:
            self._hand_on(sequence)
        self._free_rows()  # of those whose consumer raised

    def _free_rows(self) -> None:
        with self._lock:
            moves = self.scheduler.retire()
        for move in moves:
            self.runner.move(move)

    def _hand_on(self, sequence: Sequence) -> None:
        if sequence.answered:
            return
        self._counters.finished += sequence.status is Status.FINISHED
        self._counters.cancelled += sequence.status is Status.CANCELLED
        self._counters.failed += sequence.status is Status.FAILED
        try:
            sequence.deliver()
        except Exception as error:  # the consumer's fault must not end the engine
            # The consumer is at fault and not the engine: it is told once and not called again.
            logger.exception("a consumer of tokens raised; its sequence ends")
            self._counters.failed += sequence.status is Status.RUNNING
            sequence.end(Status.FAILED, error)
