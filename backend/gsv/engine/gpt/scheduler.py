"""Who runs: the waiting line, the running rows, and which of them take the next step. No tensors.

The row of a running sequence is its place in ``running``. Rows in use stay together at the front,
those of sequences with a listener before those of whole answers, so that a step may leave out whole
answers. Rows that change their place are handed to the runner as moves.
"""

from __future__ import annotations

from typing import NamedTuple

from gsv.engine.gpt.sequence import Sequence, Status
from gsv.engine.newcomers import check_room
from gsv.engine.turns import Turns
from gsv.errors import Cancelled

# While a listener waits for first audio, whole answers take part in one of so many steps.
FOCUS = 16
# And after so many such steps one of those that wait is admitted: its prefill may take as long as
# all of these.
HOLD_STEPS = 64


def headroom(slots: int) -> int:
    """Rows for sequences with a listener, beside the ``slots`` that anybody may take."""
    return max(1, slots // 4)


class SlotMove(NamedTuple):
    """The row ``source`` takes the place of ``target`` and is free afterwards.

    Equal rows only free the row.
    """

    source: int
    target: int
    length: int  # positions that the moved row has in the cache


class Admission(NamedTuple):
    """New sequences and their rows, which are ``first`` and those that follow."""

    sequences: list[Sequence]
    first: int
    moves: list[SlotMove]  # to be made before, in order


class Scheduler:
    """Admits sequences to rows by :class:`~gsv.engine.turns.Turns`; who runs keeps its row.

    Args:
        slots: sequences that run at once.
        waiting_limit: sequences that may wait beyond those for which a slot is free.
        prefill_limit: sequences admitted in one step; the running ones wait for their prefill.
        headroom: rows more, for sequences with a listener.
        rows_cost: whether a step takes longer with more rows, so that whole answers step more
            seldom while a listener waits for first audio.
    """

    def __init__(
        self,
        slots: int,
        waiting_limit: int,
        prefill_limit: int,
        headroom: int = 0,
        *,
        rows_cost: bool = False,
    ) -> None:
        self.slots = slots
        self.waiting_limit = waiting_limit
        self.prefill_limit = prefill_limit
        self.headroom = headroom
        self.rows_cost = rows_cost
        self.turns: Turns[Sequence] = Turns()
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.listeners = 0  # of the running ones, the first so many
        self._focused = 0  # steps in a row that whole answers were held back for first audio

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

    @property
    def urgent(self) -> bool:
        """Whether a listener waits for tokens, somebody has left, or a sentence is made again."""
        return any(
            s.cancelled or s.turn.made_again or (s.has_listener and not s.request.is_buffered())
            for s in (*self.running, *self.waiting)
        )

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in line; Overloaded when the line is full.

        It is full of newcomers: a sentence that is drawn again keeps its place there, and one of an
        answer that has begun gets one in any case and takes nobody's.
        """
        place = sequence.request.place
        before = None if place is None else place.ticket
        if before is None and not sequence.request.accepted:
            accepted = (waiting.request.accepted for waiting in self.waiting)
            check_room(accepted, len(self.running), self.slots, self.waiting_limit, "sentences")
        self.turns.enter(sequence, before)
        if place is not None:
            place.ticket = sequence.ticket
        self.waiting.append(sequence)

    def drop_cancelled(self) -> list[Sequence]:
        """End every cancelled sequence; those that waited leave the line at once."""
        dropped = [s for s in (*self.waiting, *self.running) if s.cancelled]
        for sequence in dropped:
            if sequence.status is Status.WAITING:
                self.waiting.remove(sequence)
                self.turns.leave(sequence)
            sequence.end(Status.CANCELLED, Cancelled("cancelled by its caller"))
        return dropped

    def begin_step(self) -> None:
        """Look who needs the step that comes: whether a listener waits for first audio."""
        awaited = any(s.awaits_first_audio for s in (*self.running, *self.waiting))
        self._focused = self._focused + 1 if awaited else 0

    def admit(self) -> Admission:
        """Move waiting sequences to rows: the one whose turn it is, and others of its kind.

        All of them have a listener, or none has.
        """
        admitted: list[Sequence] = []
        while len(admitted) < self.prefill_limit and (able := self._admissible(admitted)):
            sequence = self.turns.pick(able)
            self.waiting.remove(sequence)
            sequence.status = Status.RUNNING
            admitted.append(sequence)
        if not admitted:
            return Admission([], len(self.running), [])
        if not admitted[0].has_listener:
            self._focused = 0  # the next first audio doesn't wait for a second prefill
            self.running += admitted
            return Admission(admitted, len(self.running) - len(admitted), [])
        return self._admit_listeners(admitted)

    def next_rows(self) -> list[Sequence]:
        """Those that take the next step: all rows, or the first ones."""
        held = self.rows_cost and self._focused % FOCUS != 0
        if held and any(s.awaits_first_audio for s in self.running):
            return self.running[: self.listeners]
        return list(self.running)

    def advance(self, rows: int, seconds: float) -> None:
        """Count a step of so many rows, and how long it took."""
        self.turns.advance(rows, seconds)

    def retire(self) -> list[SlotMove]:
        """Free the rows of all sequences that are over; the moves are to be made in order."""
        moves = []
        for row in reversed(range(len(self.running))):
            if self.running[row].status is not Status.RUNNING:
                self.turns.leave(self.running[row])
                moves += self._free(row)
        return moves

    def clear(self) -> list[Sequence]:
        """Forget and return everybody."""
        everybody = [*self.running, *self.waiting]
        for sequence in everybody:
            self.turns.leave(sequence)
        self.running.clear()
        self.waiting.clear()
        self.listeners = 0
        return everybody

    def _admissible(self, admitted: list[Sequence]) -> list[Sequence]:
        """Those of the line who may join ``admitted``, or be the first."""
        taken = len(self.running) + len(admitted)
        if taken >= self.slots + self.headroom:
            return []
        if admitted and not admitted[0].has_listener and self._focused:
            return []  # one at a time while a listener waits
        whole = sum(not s.has_listener for s in (*self.running, *admitted))
        room_for_whole = whole < self.slots and (not self._focused or self._focused >= HOLD_STEPS)
        return [
            s
            for s in self.waiting
            if (s.has_listener or room_for_whole)
            and (not admitted or s.has_listener == admitted[0].has_listener)
        ]

    def _admit_listeners(self, admitted: list[Sequence]) -> Admission:
        """Rows behind the last listener's; the whole answers that are there move to the end."""
        first, end, count = self.listeners, len(self.running), len(admitted)
        displaced = self.running[first : first + count]
        target = end + count - len(displaced)
        moves = [
            SlotMove(first + n, target + n, sequence.length) for n, sequence in enumerate(displaced)
        ]
        kept = self.running[first + count :]
        self.running = [*self.running[:first], *admitted, *kept, *displaced]
        self.listeners += count
        return Admission(admitted, first, moves)

    def _free(self, row: int) -> list[SlotMove]:
        """Take a sequence out: the last of its kind takes its row, and the last row that one's."""
        holes = [row]
        if row < self.listeners:
            self.listeners -= 1
            holes.append(self.listeners)
        holes.append(len(self.running) - 1)
        moves = []
        for target, source in zip(holes, holes[1:], strict=False):
            if source != target:
                self.running[target] = self.running[source]
                moves.append(SlotMove(source, target, self.running[source].length))
        last = self.running.pop()
        return moves or [SlotMove(row, row, last.length)]
