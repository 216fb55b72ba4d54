"""Who runs: a bounded waiting line in order of arrival, and the running rows. No tensors here.

The row of a running sequence is its place in ``running``. When one leaves, the last one takes its
place, so that the rows in use stay together at the front; such moves are handed to the runner.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gsv.engine.gpt.sequence import Sequence, Status
from gsv.errors import Cancelled, Overloaded


class SlotMove(NamedTuple):
    """The row ``source`` takes the place of ``target`` and is free afterwards.

    Equal rows only free the row.
    """

    source: int
    target: int
    length: int  # positions that the moved row has in the cache


class Scheduler:
    """First come, first served, into ``slots`` rows.

    Args:
        slots: sequences that run at once.
        waiting_limit: sequences that may wait beyond those for which a slot is free.
        prefill_limit: newcomers admitted in one step; the running ones wait for their prefill.
    """

    def __init__(self, slots: int, waiting_limit: int, prefill_limit: int) -> None:
        self.slots = slots
        self.waiting_limit = waiting_limit
        self.prefill_limit = prefill_limit
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def has_demand(self) -> bool:
        """Whether a step is wanted: somebody waits, has left, or has not enough tokens in hand."""
        running = self.running
        return bool(self.waiting) or any(
            s.cancelled or not s.request.is_buffered() for s in running
        )

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in line; Overloaded when the line is full."""
        free = self.slots - len(self.running)
        if len(self.waiting) >= self.waiting_limit + free:
            raise Overloaded(
                f"{len(self.running)} sentences are running and {len(self.waiting)} are waiting, "
                f"which is the limit (waiting_limit {self.waiting_limit}); try again later"
            )
        self.waiting.append(sequence)

    def drop_cancelled(self) -> list[Sequence]:
        """End every cancelled sequence; those that waited leave the line at once."""
        dropped = [s for s in (*self.waiting, *self.running) if s.cancelled]
        for sequence in dropped:
            sequence.end(Status.CANCELLED, Cancelled("cancelled by its caller"))
        if dropped:
            self.waiting = deque(s for s in self.waiting if s.status is Status.WAITING)
        return dropped

    def admit(self) -> list[Sequence]:
        """Move newcomers from the line to the rows after the running ones."""
        count = min(self.slots - len(self.running), self.prefill_limit, len(self.waiting))
        admitted = [self.waiting.popleft() for _ in range(count)]
        for sequence in admitted:
            sequence.status = Status.RUNNING
        self.running += admitted
        return admitted

    def retire(self) -> list[SlotMove]:
        """Free the rows of all sequences that are over; the moves are to be made in order."""
        moves = []
        for row in reversed(range(len(self.running))):
            if self.running[row].status is not Status.RUNNING:
                last = self.running.pop()
                if row < len(self.running):
                    self.running[row] = last
                moves.append(SlotMove(len(self.running), row, last.length))
        return moves

    def clear(self) -> list[Sequence]:
        """Forget and return everybody."""
        everybody = [*self.running, *self.waiting]
        self.running.clear()
        self.waiting.clear()
        return everybody
