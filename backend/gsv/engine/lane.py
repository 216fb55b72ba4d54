"""One resident model's share of the engine: a scheduler and a runner, stepped by one thread."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Sequence as Rows

from gsv.device import end_if_fatal
from gsv.engine.runner import Runner
from gsv.engine.scheduler import Scheduler
from gsv.engine.sequence import Drawn, Sequence, Status
from gsv.errors import GsvError

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


class Lane:
    """Steps the sequences of one model; everything here happens on the engine's thread.

    Args:
        scheduler: who runs.
        runner: the tensors.
        counters: shared by the engine's lanes.
        lock: guards the scheduler, whose waiting line callers change.
    """

    def __init__(
        self, scheduler: Scheduler, runner: Runner, counters: Counters, lock: threading.Condition
    ) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._counters = counters
        self._lock = lock

    def step(self) -> None:
        """Let the cancelled go, prefill newcomers, decode one token of everybody."""
        with self._lock:
            cancelled = self.scheduler.drop_cancelled()
        self._settle(cancelled)
        with self._lock:
            newcomers = self.scheduler.admit()
        if newcomers:
            self._prefill(newcomers, len(self.scheduler.running) - len(newcomers))
            self._settle(newcomers)
        if running := list(self.scheduler.running):
            self._decode(running)
            self._settle(running)

    def abandon(self, status: Status, error: BaseException) -> None:
        """End everybody with an error; the rows are not used again."""
        with self._lock:
            everybody = self.scheduler.clear()
        for sequence in everybody:
            sequence.end(status, error)
            self._hand_on(sequence)

    def _prefill(self, newcomers: Rows[Sequence], first: int) -> None:
        try:
            drawn = self.runner.prefill(newcomers, first)
        except Exception as error:
            end_if_fatal(error)
            if len(newcomers) == 1:
                _fail(newcomers, "prefill", error)
                return
            # Each alone, so that only the one at fault fails.
            for row, sequence in enumerate(newcomers, start=first):
                self._prefill([sequence], row)
        else:
            self._counters.prefills += len(newcomers)
            self._record(newcomers, drawn)

    def _decode(self, running: Rows[Sequence]) -> None:
        try:
            drawn = self.runner.decode(running)
        except Exception as error:
            _fail(running, "decoding", error)
        else:
            self._counters.steps += 1
            self._counters.rows += len(running)
            self._record(running, drawn)

    def _record(self, sequences: Rows[Sequence], drawn: Rows[Drawn]) -> None:
        for sequence, one in zip(sequences, drawn, strict=True):
            sequence.take(one)
            self._counters.tokens += one.healthy and not one.ended

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
        self._counters.finished += sequence.status is Status.FINISHED
        self._counters.cancelled += sequence.status is Status.CANCELLED
        self._counters.failed += sequence.status is Status.FAILED
        try:
            sequence.deliver()
        except Exception as error:
            # The consumer is at fault and not the engine: it is told once and not called again.
            logger.exception("a consumer of tokens raised; its sequence ends")
            self._counters.failed += sequence.status is Status.RUNNING
            sequence.end(Status.FAILED, error)


def _fail(sequences: Rows[Sequence], action: str, cause: Exception) -> None:
    end_if_fatal(cause)
    logger.error("%s of %d sequences failed", action, len(sequences), exc_info=cause)
    error = GsvError(f"the semantic GPT's {action} failed: {cause}")
    error.__cause__ = cause
    for sequence in sequences:
        sequence.end(Status.FAILED, error)
