"""Whose turn it is: one policy for everything that shares a device with others.

Work belongs to one of three classes. The first sound of an answer that a listener waits for comes
first, then audio that a listener needs soon, by earliest deadline (Liu and Layland, 1973), then
everything else: whole answers, and audio that a listener needs later. Within a class the owners,
which are the callers' requests, share alike: by the finish times of weighted fair queueing
(Demers, Keshav and Shenker, 1989). A request of sixty sentences doesn't stand before one of one
sentence, and short work doesn't queue behind long work.

Nobody starves: work that has waited ``AGING`` times as long as it takes is passed over by at most
``PATIENCE - 1`` more picks before the oldest such work is picked. Aged work with n older ones
beside it is therefore picked within ``PATIENCE * (n + 1)`` picks.

No tensors here, no threads and no wall clock: a :class:`WorkClock` counts units of work.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import Counter
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

AGING = 10.0  # wait against work left from which on work may be picked before its class's turn
DEADLINE_SLACK = 10.0  # time until a deadline against work left below which the deadline counts
PATIENCE = 8  # of so many picks one goes to the oldest work that has aged, if there is any
_PACE_SHARE = 0.1  # weight of the newest measurement in the mean of seconds per unit


class TurnTaking(Protocol):
    """A request to a stage whose work takes turns; see :mod:`gsv.stages.messages`."""

    @property
    def owner(self) -> str: ...
    @property
    def listener_waits(self) -> int: ...
    @property
    def listener_seconds(self) -> float: ...
    @property
    def made_again(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a piece of work tells about who waits for it.

    Attributes:
        owner: the caller's request that it belongs to; "" is an owner of its own.
        first_audio: a listener waits for the first sound of the answer.
        buffered: seconds until a listener who hears the answer already has nothing left to play;
            infinite where nobody listens.
        made_again: the process died that worked on it before: it has waited once already, and
            goes first within its class.
    """

    owner: str = ""
    first_audio: bool = False
    buffered: float = math.inf
    made_again: bool = False

    @classmethod
    def of(cls, request: TurnTaking) -> Turn:
        """What a stage's request says of itself."""
        waits, seconds = bool(request.listener_waits), request.listener_seconds
        return cls(request.owner, waits, seconds, request.made_again)

    @property
    def has_listener(self) -> bool:
        """Whether somebody listens while the answer is made."""
        return self.first_audio or math.isfinite(self.buffered)


WHOLE_ANSWER = Turn()  # of nobody in particular


class TurnClass(enum.IntEnum):
    """The lower, the sooner."""

    FIRST_AUDIO = 0
    DEADLINE = 1
    WHOLE_ANSWER = 2


@dataclasses.dataclass(frozen=True)
class Ticket:
    """How a piece of work stands in line; times are units of the clock.

    Attributes:
        number: of arrival.
        arrived: the clock when it came.
        deadline: the clock when its listener has nothing left to play; infinite without one.
        finish: the virtual time at which it would be done if all owners shared the device alike.
    """

    number: int
    arrived: float
    deadline: float
    finish: float


class Work(Protocol):
    """What takes turns: a sentence, a chunk of mel, a request to the vocoder."""

    ticket: Ticket | None  # given by ``Turns.enter``

    @property
    def turn(self) -> Turn:
        """Who waits for it."""
        ...

    @property
    def remaining(self) -> float:
        """Units of work that are left, above 0 until it is done; an estimate will do."""
        ...


class WorkClock:
    """Time as work done, and how long a unit takes of late.

    Attributes:
        now: units done since the start.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._seconds_per_unit = 0.0  # 0 is not known yet

    def advance(self, units: float) -> None:
        """Count work that was done."""
        self.now += units

    def measured(self, units: float, seconds: float) -> None:
        """Learn that so many units took so long; 0 s is not known."""
        if seconds <= 0 or units <= 0:
            return
        pace = seconds / units
        change = (pace - self._seconds_per_unit) * _PACE_SHARE
        self._seconds_per_unit = self._seconds_per_unit + change if self._seconds_per_unit else pace

    def after(self, seconds: float) -> float:
        """The clock in ``seconds``, at the present seconds per unit; now while that is unknown."""
        if math.isinf(seconds):
            return math.inf
        return self.now + (seconds / self._seconds_per_unit if self._seconds_per_unit else 0.0)


@dataclasses.dataclass
class _Owner:
    """An owner with work that is not done."""

    pieces: int = 0
    finish: float = 0.0  # virtual finish time of its last piece


WorkType = TypeVar("WorkType", bound=Work)


class Turns(Generic[WorkType]):
    """Turns on one device.

    A piece of work enters once, is picked any number of times, and leaves once.

    Args:
        aging, deadline_slack, patience: as the constants of this module.
    """

    def __init__(
        self,
        aging: float = AGING,
        deadline_slack: float = DEADLINE_SLACK,
        patience: int = PATIENCE,
    ) -> None:
        self.aging = aging
        self.deadline_slack = deadline_slack
        self.patience = patience
        self.clock = WorkClock()
        self._owners: dict[object, _Owner] = {}
        self._virtual = 0.0  # work that an owner would have got if all shared alike
        self._entered = 0
        # By decision, picks in a row that went before the oldest aged work.
        self._passed_over: Counter[str] = Counter()

    def enter(self, work: WorkType, before: Ticket | None = None) -> None:
        """Give new work a place in line; with ``before``, the place that it had then."""
        owner = self._owners.setdefault(_owner_of(work), _Owner())
        owner.pieces += 1
        owner.finish = max(self._virtual, owner.finish) + work.remaining
        self._entered += 1
        work.ticket = before or Ticket(
            number=self._entered,
            arrived=self.clock.now,
            deadline=self.clock.after(work.turn.buffered),
            finish=owner.finish,
        )

    def leave(self, work: WorkType) -> None:
        """Forget work that is done or given up."""
        owner = self._owners[_owner_of(work)]
        owner.pieces -= 1
        if not owner.pieces:
            del self._owners[_owner_of(work)]

    def advance(self, units: float, seconds: float = 0.0) -> None:
        """Count work that was done for those who are here, and the time if it is known already."""
        self.clock.advance(units)
        self.clock.measured(units, seconds)
        self._virtual += units / max(1, len(self._owners))

    def pick(self, works: Iterable[WorkType], decision: str = "") -> WorkType:
        """Whose turn it is among ``works``, of which there must be one at least.

        Args:
            works: those that can be picked now.
            decision: what is decided, where an engine decides several things: patience is counted
                for each.
        """
        works = list(works)
        chosen = min(works, key=self.place)
        aged = [work for work in works if self._has_aged(work)]
        if not aged:
            return chosen
        oldest = min(aged, key=_number)
        if self._passed_over[decision] >= self.patience - 1:
            chosen = oldest
        self._passed_over[decision] = 0 if chosen is oldest else self._passed_over[decision] + 1
        return chosen

    def place(self, work: WorkType) -> tuple[int, bool, float, float, int]:
        """Sorts by class, what is made again, deadline where it counts, fair share and arrival."""
        ticket, kind = _ticket(work), self.class_of(work)
        deadline = ticket.deadline if kind is TurnClass.DEADLINE else 0.0
        return kind, not work.turn.made_again, deadline, ticket.finish, ticket.number

    def class_of(self, work: WorkType) -> TurnClass:
        """The class of the work as it stands now: a deadline may be far off, and comes nearer."""
        if work.turn.first_audio:
            return TurnClass.FIRST_AUDIO
        time_left = _ticket(work).deadline - self.clock.now
        if time_left < self.deadline_slack * work.remaining:
            return TurnClass.DEADLINE
        return TurnClass.WHOLE_ANSWER

    def urgent(self, work: WorkType) -> bool:
        """Whether it is not to rest: a listener waits for it, or soon will, or it is made again."""
        return work.turn.made_again or self.class_of(work) is not TurnClass.WHOLE_ANSWER

    def _has_aged(self, work: WorkType) -> bool:
        return self.clock.now - _ticket(work).arrived > self.aging * work.remaining


def _owner_of(work: Work) -> object:
    """Work without a named owner is its own."""
    return work.turn.owner or work


def _ticket(work: Work) -> Ticket:
    if work.ticket is None:
        raise ValueError("work must enter before it takes turns")
    return work.ticket


def _number(work: Work) -> int:
    return _ticket(work).number
