"""Which jobs take the next Euler step together. No tensors here.

Jobs wait in order of arrival for one of the slots; from then on each is at its own step of its own
schedule, and every step is taken by a batch that is chosen anew.
"""

from __future__ import annotations

from collections import deque

from gsv.engine.flow_job import FlowRun
from gsv.errors import Overloaded


class FlowScheduler:
    """Highest response ratio first, in company of those of about its length.

    The leader of a step is the job whose wait is longest against the work it has left (P. B.
    Hansen, 1971): short ones don't queue behind long ones, and a long one's turn comes too. Urgent
    jobs go before all others, but for those that have waited ``patience`` times their work. It is
    joined by the jobs nearest in length, as many as the limits allow; where one batch holds them
    all, every job moves at every step.

    Args:
        slots: jobs in work at once; their tensors are kept.
        waiting_limit: jobs that may wait beyond those for which a slot is free.
        batch_frames: most frames of a batch, padding included; a longer job goes alone.
        max_padding: largest share of a row that may be padding.
        patience: wait against work left from which on a job is as urgent as the urgent ones.
    """

    def __init__(
        self,
        slots: int,
        waiting_limit: int,
        batch_frames: int,
        max_padding: float = 0.25,
        patience: float = 10.0,
    ) -> None:
        self.slots = slots
        self.waiting_limit = waiting_limit
        self.batch_frames = batch_frames
        self.max_padding = max_padding
        self.patience = patience
        self.waiting: deque[FlowRun] = deque()
        self.running: list[FlowRun] = []
        self._clock = 0  # frames estimated since the start

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
        self.waiting.append(run)

    def admit(self) -> None:
        """Move newcomers from the line to the free slots, the urgent ones first."""
        free = min(self.slots - len(self.running), len(self.waiting))
        if free <= 0:
            return
        line = sorted(self.waiting, key=lambda run: not run.job.urgent)
        self.running += line[:free]
        admitted = set(line[:free])
        self.waiting = deque(run for run in self.waiting if run not in admitted)

    def select(self) -> list[FlowRun]:
        """The jobs of the next step; empty when none is in work."""
        if not self.running:
            return []
        leader = max(self.running, key=self._urgency)
        batch, longest, rows = {leader}, leader.job.frames, leader.rows
        fitting = (r for r in self.running if r.job.model == leader.job.model and r is not leader)
        for run in sorted(fitting, key=lambda run: abs(run.job.frames - leader.job.frames)):
            length = max(longest, run.job.frames)
            shortest = min(run.job.frames, *(r.job.frames for r in batch))
            if shortest < length * (1 - self.max_padding):
                break  # all others are further away still
            if length * (rows + run.rows) > self.batch_frames:
                continue
            batch.add(run)
            longest, rows = length, rows + run.rows
        # In the slots' order, so that the same jobs make the same batch again.
        return [run for run in self.running if run in batch]

    def _urgency(self, run: FlowRun) -> tuple[bool, float, int]:
        wait = (self._clock - run.arrival) / run.remaining
        return run.job.urgent or wait > self.patience, wait, -run.remaining

    def advance(self, batch: list[FlowRun]) -> None:
        """Count one step of ``batch``."""
        for run in batch:
            run.step += 1
            self._clock += run.rows * run.job.frames

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
