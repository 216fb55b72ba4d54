"""The guard against bad speech: draws a sentence again when its judge finds trouble.

It stands between the engine and whoever reads a sentence's tokens. What is drawn, judged and sent
depends on the request and its seed alone: not on other requests, on chunks, or on how fast anybody
reads. So the same request and seed give the same retries and the same tokens.

A whole sentence is drawn again from its beginning, with a seed derived from the request's. Of a
stream, tokens leave as soon as none of them can turn out to be trouble. Before the first ones have
left, a sentence begins anew; afterwards the trouble is cut off and drawn again from the last good
token on. Nothing is sent twice.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gsv.engine.gpt.judge import Judge, Limits, Signal, Verdict
from gsv.engine.gpt.sequence import OnError, OnTokens, PlaceInLine, SequenceRequest
from gsv.errors import InvalidRequest

DEFAULT_RETRIES = 2
MOST_RETRIES = 10
_PORTION = 16  # tokens of a whole sentence that are judged at once
_SEEDS = 2**63
# Multipliers of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
# generators"): equal seeds of two attempts are as likely as with random ones.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 2**64 - 1


class Cancellable(Protocol):
    """What a submitted sequence can be given up with."""

    def cancel(self) -> None:
        """Give up; from any thread."""
        ...


# Engine.submit, or what stands for it.
Submit = Callable[[SequenceRequest, OnTokens, OnError], Cancellable]


def derived_seed(seed: int, attempt: int) -> int:
    """The seed of a sentence's attempt: the request's own for the first one, 0.

    >>> derived_seed(7, 0), derived_seed(7, 1) != derived_seed(7, 2)
    (7, True)
    """
    if attempt == 0:
        return seed
    mixed = (seed + attempt * _GOLDEN) & _WORD
    mixed = ((mixed ^ (mixed >> 30)) * _MIX_1) & _WORD
    mixed = ((mixed ^ (mixed >> 27)) * _MIX_2) & _WORD
    return (mixed ^ (mixed >> 31)) % _SEEDS


@dataclasses.dataclass(frozen=True)
class Guard:
    """How a sentence is guarded.

    Attributes:
        limits: what is normal for it.
        retries: how often it may be drawn again.
        first: of a stream, tokens of the sentence that leave together at first, such as the first
            chunk needs; None holds all back until the sentence is over.
        attempt: which attempt is the first one here; above 0 where a sentence is taken up again
            from the tokens that another engine has sent, its ``prefix_tokens``.
    """

    limits: Limits
    retries: int = DEFAULT_RETRIES
    first: int | None = None
    attempt: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.retries <= MOST_RETRIES:
            raise InvalidRequest.value("retries", self.retries, f"0 to {MOST_RETRIES}")
        if self.first is not None and self.first < 1:
            raise InvalidRequest.value("first", self.first, "1 or more, or None")
        if not 0 <= self.attempt <= self.retries:
            raise InvalidRequest.value("attempt", self.attempt, f"0 to {self.retries}")


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One drawing of a sentence.

    Attributes:
        seed: that its noise had.
        begun_from: tokens of earlier attempts that it went on from.
        tokens: int32 [n], all from the sentence's beginning that were read.
        verdict: what was found in them.
    """

    seed: int
    begun_from: int
    tokens: NDArray[np.int32]
    verdict: Verdict

    @property
    def good(self) -> NDArray[np.int32]:
        """Its tokens before the trouble."""
        return self.tokens[: self.verdict.good]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a guarded sentence went.

    Attributes:
        attempts: in order.
        kept: index of the one that was kept.
        tokens: that were delivered.
    """

    attempts: tuple[Attempt, ...]
    kept: int
    tokens: int

    @property
    def retries(self) -> tuple[Signal, ...]:
        """Why it was drawn again, once for each time."""
        return tuple(attempt.verdict.signals[0] for attempt in self.attempts[:-1])

    @property
    def signals(self) -> tuple[Signal, ...]:
        """What is still wrong with what was kept; a sentence that stayed bad has some."""
        return self.attempts[self.kept].verdict.signals

    @property
    def seed(self) -> int:
        """The seed that the kept attempt had."""
        return self.attempts[self.kept].seed


def best(attempts: Sequence[Attempt], limits: Limits, sent: Sequence[int] = ()) -> int:
    """Index of the attempt to keep.

    The rule: one without signals, the earliest; else the one whose good tokens are nearest in ratio
    to those expected, the earliest of equals. Only attempts that begin with what was ``sent``
    count, and the last one always does.
    """

    def distance(index: int) -> tuple[float, float, int]:
        attempt = attempts[index]
        if not attempt.verdict.signals:
            return (False, 0.0, index)
        ratio = max(attempt.verdict.good, 1) / max(limits.expected, 1.0)
        return (True, abs(math.log(ratio)), index)

    count = len(sent)
    possible = [
        index
        for index, attempt in enumerate(attempts)
        if index == len(attempts) - 1 or attempt.good[:count].tolist() == list(sent)
    ]
    return min(possible, key=distance)


class GuardedSequence:
    """A sentence that the guard watches; for its caller, something to cancel."""

    def __init__(
        self,
        submit: Submit,
        request: SequenceRequest,
        guard: Guard,
        on_tokens: OnTokens,
        on_error: OnError,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._submit = submit
        self._request = dataclasses.replace(request, place=PlaceInLine())
        self._guard = guard
        self._on_tokens = on_tokens
        self._on_error = on_error
        self._on_outcome = on_outcome
        self._attempts: list[Attempt] = []
        self._attempt = guard.attempt
        # All but these two belong to the thread that calls back.
        self._lock = threading.Lock()
        self._current: _Drawing | None = None
        self._cancelled = False
        # Tokens that have left, or would have if each were handed on by itself.
        self._released = request.prefix_tokens.tolist()
        self._delivered = len(self._released)

    def start(self) -> None:
        """Submit the first attempt; raises what ``submit`` raises."""
        self._draw(self._request.prefix_tokens.tolist())

    @property
    def attempt(self) -> int:
        """The attempt whose tokens were handed on last; see :attr:`Guard.attempt`."""
        return self._attempt

    def cancel(self) -> None:
        """Give up: as :meth:`gsv.engine.gpt.engine.Handle.cancel`."""
        with self._lock:
            self._cancelled = True
            current = self._current
        if current is not None:
            current.cancel()

    def _draw(self, prefix: list[int]) -> None:
        """Begin the next attempt after the tokens ``prefix``."""
        request, guard = self._request, self._guard
        self._attempt = guard.attempt + len(self._attempts)
        seed = derived_seed(request.params.seed, self._attempt)
        params = dataclasses.replace(request.params, seed=seed)
        judge = Judge(guard.limits, params.max_tokens)
        judge.read(prefix)
        asked = dataclasses.replace(
            request,
            params=params,
            prefix_tokens=np.array(prefix, np.int32),
            chunk_tokens=_PORTION if guard.first is None else max(request.chunk_tokens, 1),
        )
        drawing = _Drawing(self, seed, prefix, judge)
        with self._lock:
            self._current = drawing
        drawing.handle = self._submit(asked, drawing.on_tokens, drawing.on_error)
        drawing.settle()
        with self._lock:
            cancelled = self._cancelled
        if cancelled:  # before there was a handle
            drawing.handle.cancel()

    def take(self, drawing: _Drawing, last: bool) -> None:
        """New tokens of the present attempt have been judged, or it has ended."""
        if drawing.judge.signal is not None or last:
            self._end_attempt(drawing)
        elif self._guard.first is not None:
            due = len(self._released) - self._delivered
            if due and due >= self._request.chunk_tokens:
                self._deliver(last=False)

    def release(self, drawing: _Drawing) -> None:
        """Let those tokens of an attempt go that can't turn out to be trouble any more."""
        first, count, settled = self._guard.first, len(self._released), drawing.judge.settled
        if first is not None and settled > count and (count or settled >= first):
            self._released += drawing.tokens[count:settled]

    def fail(self, error: BaseException) -> None:
        """The present attempt has failed; so has the sentence."""
        self._on_error(error)

    def _end_attempt(self, drawing: _Drawing) -> None:
        verdict = drawing.judge.end()
        tokens = np.array(drawing.tokens, np.int32)
        attempt = Attempt(drawing.seed, len(drawing.prefix), tokens, verdict)
        self._attempts.append(attempt)
        drawing.give_up()
        if not (verdict.signals and self._may_retry(verdict)):
            self._finish()
            return
        prefix = list(self._released)
        if prefix and verdict.signals[0] is not Signal.TOO_SHORT:
            prefix = attempt.good.tolist()
        if self._delivered < len(self._released) and not self._cancelled:
            self._deliver(last=False)
        try:
            self._draw(prefix)
        except Exception as error:  # the engine has been stopped, or is broken
            self._on_error(error)

    def _may_retry(self, verdict: Verdict) -> bool:
        if self._attempt >= self._guard.retries:
            return False
        if self._request.params.top_k == 1:
            return False  # whatever the seed, it would be drawn the same
        # What has too many tokens already doesn't get better by more.
        full = verdict.signals[0] in (Signal.TOO_LONG, Signal.LIMIT)
        return not (full and self._released)

    def _finish(self) -> None:
        sent = self._released
        kept = best(self._attempts, self._guard.limits, sent)
        good = self._attempts[kept].good.tolist()
        self._released = good if len(good) >= len(sent) else sent
        outcome = Outcome(tuple(self._attempts), kept, len(self._released))
        self._on_outcome(outcome)
        self._deliver(last=True)

    def _deliver(self, *, last: bool) -> None:
        tokens = np.array(self._released[self._delivered :], np.int32)
        self._delivered = len(self._released)
        self._on_tokens(tokens, last)


class _Drawing:
    """An attempt under way: what the engine calls back, until it is given up."""

    def __init__(self, owner: GuardedSequence, seed: int, prefix: list[int], judge: Judge) -> None:
        self.seed = seed
        self.prefix = prefix
        self.judge = judge
        self.tokens = list(prefix)
        self.handle: Cancellable | None = None
        self._owner = owner
        self._over = False  # nobody listens to it any more
        self._ended = False  # by itself

    def on_tokens(self, tokens: NDArray[np.int32], last: bool) -> None:
        if self._over:
            return
        self._ended = last
        for token in tokens.tolist():
            self.tokens.append(token)
            if self.judge.read((token,)) is not None:
                break
            self._owner.release(self)
        self._owner.take(self, last)

    def on_error(self, error: BaseException) -> None:
        if not self._over:
            self._over = True
            self._owner.fail(error)

    def give_up(self) -> None:
        """Listen no more, and let the engine have its slot."""
        self._over = True
        self.settle()

    def settle(self) -> None:
        """Cancel in the engine what was given up; a handle may come after the first tokens."""
        if self._over and not self._ended and self.handle is not None:
            self.handle.cancel()

    def cancel(self) -> None:
        """As the caller asks."""
        if self.handle is not None:
            self.handle.cancel()


def submit_guarded(
    submit: Submit,
    request: SequenceRequest,
    guard: Guard,
    on_tokens: OnTokens,
    on_error: OnError,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> GuardedSequence:
    """Submit a sentence that is judged while it is drawn, and drawn again if need be.

    Args:
        submit: ``Engine.submit``.
        request: as for ``submit``; with a ``guard`` that holds the whole sentence back,
            ``chunk_tokens`` says nothing.
        guard: how to guard it.
        on_tokens, on_error: as for ``submit``. Cut-off tokens are never handed on.
        on_outcome: gets the outcome, just before the last tokens; all three are called on the
            engine's thread and must not block.

    Returns:
        What cancels the sentence.

    Raises:
        Whatever ``submit`` raises.
    """
    sequence = GuardedSequence(submit, request, guard, on_tokens, on_error, on_outcome)
    sequence.start()
    return sequence
