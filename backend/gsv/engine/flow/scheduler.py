"""Which requests take the next Euler step together. No tensors here.

Requests wait in order of arrival for one of the slots; from then on each is at its own step of its
own schedule, and every step is taken by a batch that is chosen anew.
"""

from __future__ import annotations

import math
from collections import deque

from gsv.engine.flow.request import FlowTask
from gsv.errors import Overloaded

_URGENT, _PRESSING, _OTHER = 2, 1, 0
_PACE_SHARE = 0.1  # of the newest step in the mean pace


class FlowScheduler:
    """Who waits to hear goes first, then who runs dry soon, then the highest response ratio.

    A step has a leader. Urgent requests come first, and those that have waited ``aging`` times the
    work they have left. Requests whose listener has less to play than ``deadline_slack`` times that
    work come next, by their deadlines (Liu and Layland, 1973). All others by their wait against
    their work (P. B. Hansen, 1971): short ones don't queue behind long ones, and a long one's turn
    comes too. The leader is joined by the requests nearest in length, as many as the limits allow;
    where one batch holds them all, every request moves at every step.

    Args:
        slots: requests in work at once; their tensors are kept.
        waiting_limit: requests that may wait beyond those for which a slot is free.
        batch_frames: most frames of a batch, padding included; a longer request goes alone.
        max_padding: largest share of a row that may be padding.
        aging: wait against work left from which on a request is as urgent as the urgent ones.
        deadline_slack: time left against work left from which on a deadline counts.
    """

    def __init__(
        self,
        slots: int,
        waiting_limit: int,
        batch_frames: int,
        max_padding: float = 0.25,
        aging: float = 10.0,
        deadline_slack: float = 10.0,
    ) -> None:
        self.slots = slots
        self.waiting_limit = waiting_limit
        self.batch_frames = batch_frames
        self.max_padding = max_padding
        self.aging = aging
        self.deadline_slack = deadline_slack
        self.waiting: deque[FlowTask] = deque()
        self.running: list[FlowTask] = []
        self._clock = 0  # frames estimated since the start
        self._seconds_per_frame = 0.0  # seconds that one takes, of late; 0 is not known yet

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    def add(self, task: FlowTask) -> None:
        """Put a request in line; Overloaded when the line is full."""
        free = self.slots - len(self.running)
        if len(self.waiting) >= self.waiting_limit + free:
            raise Overloaded(
                f"{len(self.running)} mel chunks are in work and {len(self.waiting)} are waiting, "
                f"which is the limit (waiting_limit {self.waiting_limit}); try again later"
            )
        task.arrival = self._clock
        task.deadline = self._deadline(task.request.buffered)
        self.waiting.append(task)

    def admit(self) -> None:
        """Move newcomers from the line to the free slots: by rank, by deadline, by arrival."""
        free = min(self.slots - len(self.running), len(self.waiting))
        if free <= 0:
            return
        line = sorted(self.waiting, key=self._place_in_line)
        self.running += line[:free]
        admitted = set(line[:free])
        self.waiting = deque(task for task in self.waiting if task not in admitted)

    def select(self) -> list[FlowTask]:
        """The requests of the next step; empty when none is in work."""
        if not self.running:
            return []
        leader = max(self.running, key=self._urgency)
        batch, longest = {leader}, leader.request.frames
        fitting = (
            r for r in self.running if r.request.model == leader.request.model and r is not leader
        )
        for task in sorted(
            fitting, key=lambda task: abs(task.request.frames - leader.request.frames)
        ):
            length = max(longest, task.request.frames)
            shortest = min(task.request.frames, *(r.request.frames for r in batch))
            if shortest < length * (1 - self.max_padding):
                break  # all others are further away still
            if length * (len(batch) + 1) > self.batch_frames:
                continue
            batch.add(task)
            longest = length
        # In the slots' order, so that the same requests make the same batch again.
        return [task for task in self.running if task in batch]

    def _deadline(self, seconds: float) -> float:
        """The clock in ``seconds``, at the present pace."""
        if math.isinf(seconds):
            return math.inf
        return self._clock + (seconds / self._seconds_per_frame if self._seconds_per_frame else 0.0)

    def _rank(self, task: FlowTask) -> int:
        if task.request.urgent or self._wait(task) > self.aging:
            return _URGENT
        in_haste = task.deadline - self._clock < self.deadline_slack * task.remaining
        return _PRESSING if in_haste else _OTHER

    def _wait(self, task: FlowTask) -> float:
        return (self._clock - task.arrival) / task.remaining

    def _place_in_line(self, task: FlowTask) -> tuple[int, float]:
        rank = self._rank(task)
        return -rank, task.deadline if rank == _PRESSING else 0.0

    def _urgency(self, task: FlowTask) -> tuple[int, float, int]:
        rank = self._rank(task)
        within = -task.deadline if rank == _PRESSING else self._wait(task)
        return rank, within, -task.remaining

    def advance(self, batch: list[FlowTask], seconds: float = 0.0) -> None:
        """Count one step of ``batch``, and the time that it took if that is known already."""
        frames = sum(task.request.frames for task in batch)
        self._clock += frames
        for task in batch:
            task.step += 1
        self.measured(frames, seconds)

    def measured(self, frames: int, seconds: float) -> None:
        """Learn that a step of so many frames took so long; 0 is not known."""
        if seconds > 0:
            pace = seconds / frames
            self._seconds_per_frame += (
                (pace - self._seconds_per_frame) * _PACE_SHARE if self._seconds_per_frame else pace
            )

    def drop_cancelled(self) -> list[FlowTask]:
        """Take out every cancelled request, in work or waiting."""
        dropped = [task for task in (*self.waiting, *self.running) if task.cancelled]
        if dropped:
            self.waiting = deque(task for task in self.waiting if not task.cancelled)
            self.running = [task for task in self.running if not task.cancelled]
        return dropped

    def remove(self, task: FlowTask) -> None:
        """Free the slot of a request that is over."""
        self.running.remove(task)

    def drain(self) -> list[FlowTask]:
        """Take out everything."""
        drained = [*self.running, *self.waiting]
        self.running, self.waiting = [], deque()
        return drained
