"""Which jobs take the next Euler step together. No tensors here.

Jobs wait in order of arrival for one of the slots; from then on each is at its own step of its own
schedule, and every step is taken by a batch that is chosen anew.
"""

from __future__ import annotations

import math
from collections import deque

from gsv.engine.flow.request import FlowRun
from gsv.errors import Overloaded

_URGENT, _PRESSING, _OTHER = 2, 1, 0
_PACE_SHARE = 0.1  # of the newest step in the mean pace


class FlowScheduler:
    """Who waits to hear goes first, then who runs dry soon, then the highest response ratio.

    A step has a leader. Urgent jobs come first, and those that have waited ``patience`` times the
    work they have left. Jobs whose listener has less to play than ``haste`` times that work come
    next, by their deadlines (Liu and Layland, 1973). All others by their wait against their work
    (P. B. Hansen, 1971): short ones don't queue behind long ones, and a long one's turn comes too.
    The leader is joined by the jobs nearest in length, as many as the limits allow; where one batch
    holds them all, every job moves at every step.

    Args:
        slots: jobs in work at once; their tensors are kept.
        waiting_limit: jobs that may wait beyond those for which a slot is free.
        batch_frames: most frames of a batch, padding included; a longer job goes alone.
        max_padding: largest share of a row that may be padding.
        patience: wait against work left from which on a job is as urgent as the urgent ones.
        haste: time left against work left from which on a deadline counts.
    """

    def __init__(
        self,
        slots: int,
        waiting_limit: int,
        batch_frames: int,
        max_padding: float = 0.25,
        patience: float = 10.0,
        haste: float = 10.0,
    ) -> None:
        self.slots = slots
        self.waiting_limit = waiting_limit
        self.batch_frames = batch_frames
        self.max_padding = max_padding
        self.patience = patience
        self.haste = haste
        self.waiting: deque[FlowRun] = deque()
        self.running: list[FlowRun] = []
        self._clock = 0  # frames estimated since the start
        self._pace = 0.0  # seconds that one takes, of late; 0 is not known yet

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    def add(self, run: FlowRun) -> None:
        """Put a job in line; Overloaded when the line is full."""
        free = self.slots - len(self.running)
        if len(self.waiting) >= self.waiting_limit + free:
            raise Overloaded(
                f"{len(self.running)} mel chunks are in work and {len(self.waiting)} are waiting, "
                f"which is the limit (waiting_limit {self.waiting_limit}); try again later"
            )
        run.arrival = self._clock
        run.deadline = self._deadline(run.job.buffered)
        self.waiting.append(run)

    def admit(self) -> None:
        """Move newcomers from the line to the free slots: by rank, by deadline, by arrival."""
        free = min(self.slots - len(self.running), len(self.waiting))
        if free <= 0:
            return
        line = sorted(self.waiting, key=self._place_in_line)
        self.running += line[:free]
        admitted = set(line[:free])
        self.waiting = deque(run for run in self.waiting if run not in admitted)

    def select(self) -> list[FlowRun]:
        """The jobs of the next step; empty when none is in work."""
        if not self.running:
            return []
        leader = max(self.running, key=self._urgency)
        batch, longest = {leader}, leader.job.frames
        fitting = (r for r in self.running if r.job.model == leader.job.model and r is not leader)
        for run in sorted(fitting, key=lambda run: abs(run.job.frames - leader.job.frames)):
            length = max(longest, run.job.frames)
            shortest = min(run.job.frames, *(r.job.frames for r in batch))
            if shortest < length * (1 - self.max_padding):
                break  # all others are further away still
            if length * (len(batch) + 1) > self.batch_frames:
                continue
            batch.add(run)
            longest = length
        # In the slots' order, so that the same jobs make the same batch again.
        return [run for run in self.running if run in batch]

    def _deadline(self, seconds: float) -> float:
        """The clock in ``seconds``, at the present pace."""
        if math.isinf(seconds):
            return math.inf
        return self._clock + (seconds / self._pace if self._pace else 0.0)

    def _rank(self, run: FlowRun) -> int:
        if run.job.urgent or self._wait(run) > self.patience:
            return _URGENT
        in_haste = run.deadline - self._clock < self.haste * run.remaining
        return _PRESSING if in_haste else _OTHER

    def _wait(self, run: FlowRun) -> float:
        return (self._clock - run.arrival) / run.remaining

    def _place_in_line(self, run: FlowRun) -> tuple[int, float]:
        rank = self._rank(run)
        return -rank, run.deadline if rank == _PRESSING else 0.0

    def _urgency(self, run: FlowRun) -> tuple[int, float, int]:
        rank = self._rank(run)
        within = -run.deadline if rank == _PRESSING else self._wait(run)
        return rank, within, -run.remaining

    def advance(self, batch: list[FlowRun], seconds: float = 0.0) -> None:
        """Count one step of ``batch``, and the time that it took if that is known already."""
        frames = sum(run.job.frames for run in batch)
        self._clock += frames
        for run in batch:
            run.step += 1
        self.measured(frames, seconds)

    def measured(self, frames: int, seconds: float) -> None:
        """Learn that a step of so many frames took so long; 0 is not known."""
        if seconds > 0:
            pace = seconds / frames
            self._pace += (pace - self._pace) * _PACE_SHARE if self._pace else pace

    def drop_cancelled(self) -> list[FlowRun]:
        """Take out every cancelled job, in work or waiting."""
        dropped = [run for run in (*self.waiting, *self.running) if run.cancelled]
        if dropped:
            self.waiting = deque(run for run in self.waiting if not run.cancelled)
            self.running = [run for run in self.running if not run.cancelled]
        return dropped

    def remove(self, run: FlowRun) -> None:
        """Free the slot of a job that is over."""
        self.running.remove(run)

    def drain(self) -> list[FlowRun]:
        """Take out everything."""
        drained = [*self.running, *self.waiting]
        self.running, self.waiting = [], deque()
        return drained
