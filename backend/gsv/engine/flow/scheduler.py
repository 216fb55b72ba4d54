"""Which requests take the next Euler step together. No tensors here.

Requests wait for a slot. From then on each follows its own schedule, and the batch of every step is
chosen again.
"""

from __future__ import annotations

from gsv.engine.flow.request import FlowTask
from gsv.engine.newcomers import check_room
from gsv.engine.turns import TurnClass, Turns


def headroom(slots: int) -> int:
    """Slots for requests with a listener, beside the ``slots`` that anybody may take."""
    return max(1, slots // 4)


class FlowScheduler:
    """A step has a leader, whose turn it is by :class:`~gsv.engine.turns.Turns`, and company.

    The leader is joined by the requests nearest in length, as many as the limits allow; where one
    batch holds them all, every request moves at every step. A leader for whose first audio a
    listener waits is joined by few, those who wait for theirs before others: served side by side,
    all would be heard when the last one is. Only who will hear silence soon joins in any case. The
    clock counts frames of all steps.

    Args:
        slots: requests in work at once; their tensors are kept.
        waiting_limit: requests that may wait beyond those for which a slot is free.
        batch_frames: most frames of a batch, padding included; a longer request goes alone.
        max_padding: largest share of a row that may be padding.
        headroom: slots more, for requests with a listener.
        first_audio_frames: most frames of a batch whose leader's first audio is waited for, without
            those whose deadline is near; 0 is ``batch_frames``.
        company_costs: whether a step takes longer with more rows, so that no whole answer joins a
            leader for which a listener waits.
    """

    def __init__(
        self,
        slots: int,
        waiting_limit: int,
        batch_frames: int,
        max_padding: float = 0.25,
        headroom: int = 0,
        first_audio_frames: int = 0,
        *,
        company_costs: bool = False,
    ) -> None:
        self.slots = slots
        self.waiting_limit = waiting_limit
        self.batch_frames = batch_frames
        self.max_padding = max_padding
        self.headroom = headroom
        self.first_audio_frames = min(first_audio_frames or batch_frames, batch_frames)
        self.company_costs = company_costs
        self.turns: Turns[FlowTask] = Turns()
        self.waiting: list[FlowTask] = []
        self.running: list[FlowTask] = []

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running)

    @property
    def urgent(self) -> bool:
        """Whether a listener waits for any of it, or somebody has left."""
        return any(
            task.cancelled or self.turns.urgent(task) for task in (*self.running, *self.waiting)
        )

    def add(self, task: FlowTask) -> None:
        """Put a request in line; Overloaded for a newcomer when the line is full of newcomers."""
        if not task.request.accepted:
            accepted = (waiting.request.accepted for waiting in self.waiting)
            check_room(accepted, len(self.running), self.slots, self.waiting_limit, "mel chunks")
        self.turns.enter(task)
        self.waiting.append(task)

    def admit(self) -> None:
        """Move new requests from the waiting line to the free slots."""
        while able := self._admissible():
            task = self.turns.pick(able, "slot")
            self.waiting.remove(task)
            self.running.append(task)

    def select(self) -> list[FlowTask]:
        """The requests of the next step; empty when none is in work."""
        if not self.running:
            return []
        leader = self.turns.pick(self.running, "step")
        batch, longest = {leader}, leader.request.frames
        for task in self._company(leader):
            length = max(longest, task.request.frames)
            shortest = min(task.request.frames, *(other.request.frames for other in batch))
            padding = 1 - shortest / length
            if padding > self.max_padding or length * (len(batch) + 1) > self._room(leader, task):
                continue
            batch.add(task)
            longest = length
        # In the slots' order, so that the same requests make the same batch again.
        return [task for task in self.running if task in batch]

    def advance(self, batch: list[FlowTask], seconds: float = 0.0) -> None:
        """Count one step of ``batch``, and the time that it took if that is known already."""
        for task in batch:
            task.step += 1
        self.turns.advance(sum(task.request.frames for task in batch), seconds)

    def measured(self, frames: float, seconds: float) -> None:
        """Learn that a step of so many frames took so long."""
        self.turns.clock.measured(frames, seconds)

    def drop_cancelled(self) -> list[FlowTask]:
        """Take out every cancelled request, in work or waiting."""
        dropped = [task for task in (*self.waiting, *self.running) if task.cancelled]
        for task in dropped:
            self.remove(task)
        return dropped

    def remove(self, task: FlowTask) -> None:
        """Take out a request that is over."""
        (self.running if task in self.running else self.waiting).remove(task)
        self.turns.leave(task)

    def drain(self) -> list[FlowTask]:
        """Take out everything."""
        drained = [*self.running, *self.waiting]
        for task in drained:
            self.remove(task)
        return drained

    def _admissible(self) -> list[FlowTask]:
        """Those of the line for which there is a slot."""
        if len(self.running) >= self.slots + self.headroom:
            return []
        whole = sum(not task.turn.has_listener for task in self.running)
        return [task for task in self.waiting if task.turn.has_listener or whole < self.slots]

    def _company(self, leader: FlowTask) -> list[FlowTask]:
        """Those that may step with the leader, whatever their length: the first ones first."""
        waits = leader.turn.first_audio
        alone = self.company_costs and leader.turn.has_listener
        company = [
            task
            for task in self.running
            if task is not leader
            and task.request.model == leader.request.model
            and (task.turn.has_listener or not alone)
        ]
        return sorted(
            company,
            key=lambda task: (self.turns.class_of(task) if waits else 0, _distance(task, leader)),
        )

    def _room(self, leader: FlowTask, task: FlowTask) -> int:
        """Frames of a batch that ``task`` may still join."""
        urgent = self.turns.class_of(task) is TurnClass.DEADLINE  # its listener would hear silence
        return (
            self.first_audio_frames if leader.turn.first_audio and not urgent else self.batch_frames
        )


def _distance(task: FlowTask, leader: FlowTask) -> int:
    return abs(task.request.frames - leader.request.frames)
