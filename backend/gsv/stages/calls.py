"""Calls from one stage to others: typed, waited for on a pool's threads, called off together."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Generic, Protocol, TypeVar

from gsv.errors import Cancelled, GsvError, Unreachable
from gsv.reply import Reply
from gsv.stages.waiting_line import LineLimits, WaitingLine

logger = logging.getLogger(__name__)

# For so long a call is made again whose process died; a model is back after 1 to 6 s.
RECOVERY_SECONDS = 40.0
# A call whose process died at work on it is made again only once: the request itself may be what
# kills processes.
DEATHS_AT_WORK = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.2  # seconds between attempts, doubled each time

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True)
class SequenceStep:
    """A call's place in a sequence: all calls of one sequence meet the same instance of a model.

    Attributes:
        id: names the sequence, 1 to 2**64 - 1.
        start, end: whether it is the first call, and the last one.
    """

    id: int
    start: bool
    end: bool

    @classmethod
    def first(cls) -> SequenceStep:
        """The first call of a new sequence, which stays open."""
        return cls(new_sequence(), start=True, end=False)


def new_sequence() -> int:
    """A name for a sequence that no other one of the server has, 1 to 2**64 - 1."""
    return secrets.randbits(64) or 1


@dataclasses.dataclass(frozen=True)
class StageCall(Generic[Answer]):
    """One request to a model, as a class of :mod:`gsv.stages.messages`, and what it answers.

    Attributes:
        also: fields of ``answer`` with a default that are wanted all the same.
        ending: of a call that starts a sequence and needs nothing after it: makes the call that
            ends the sequence of that name. Until then the sequence has a place at its instance,
            so that Triton's batcher gives the next one to another.
        made_again: the process died that worked on it before.
    """

    model: str
    request: Any
    answer: type[Answer]
    sequence: SequenceStep | None = None
    also: tuple[str, ...] = ()
    ending: Callable[[int], StageCall[Any]] | None = None
    made_again: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it needs no call before or after it, so that it may be made again."""
        step = self.sequence
        return step is None or (step.start and (step.end or self.ending is not None))

    def again(self) -> StageCall[Answer]:
        """The same call once more; its old sequence may hold the place of a process that died."""
        sequence = self.sequence
        if sequence is not None:
            sequence = dataclasses.replace(sequence, id=new_sequence())
        return dataclasses.replace(self, sequence=sequence, made_again=True)


class Recovery:
    """When to make a call again whose model's process is gone.

    Args:
        cancelled: ends the waiting; set when the caller leaves.
    """

    def __init__(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled
        self.progress()

    def progress(self) -> None:
        """Something was answered; the next loss is the first one again."""
        self._give_up = 0.0
        self._pause = _FIRST_PAUSE
        self._deaths = 0

    def wait(self, error: GsvError) -> None:
        """Pause before the next attempt, after an error that is raised if there is to be none."""
        now = time.monotonic()
        self._give_up = self._give_up or now + RECOVERY_SECONDS
        self._deaths += getattr(error, "begun", False)
        over = now > self._give_up or self._deaths >= DEATHS_AT_WORK
        if over or self._cancelled.wait(self._pause):
            raise error
        if self._pause == _FIRST_PAUSE:
            logger.info("made again until it is back: %s", error)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class CancelToken(Protocol):
    """A name for all calls on behalf of one caller, by which every stage can be told to stop."""

    def cancel(self) -> None:
        """Cancel all calls of this name; from any thread."""
        ...

    def await_first_audio(self, *, awaited: bool) -> None:
        """Tell every stage of the server whether a listener waits for first audio."""
        ...

    def release(self) -> None:
        """Free the name; no call is under way any more."""
        ...


class CallModel(Protocol):
    """The models of one server; ``serving/backend/bls_client.py`` or ``offline.py``."""

    def __call__(self, call: StageCall[Answer], token: Any) -> Answer:
        """The model's answer; its error comes back as the exception that it was."""
        ...

    def token(self, request_id: str) -> CancelToken:
        """A name for the calls of one caller; ``request_id`` is the caller's own, for logs."""
        ...


class CancelScope:
    """All calls on behalf of one caller; when the caller leaves, every call under way is told."""

    def __init__(
        self,
        call: CallModel,
        request_id: str = "",
        resting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
        beside: Executor | None = None,
    ) -> None:
        """``resting`` is what :meth:`rest` enters: others may work meanwhile.

        ``beside`` has threads for calls at the same time.
        """
        self._call = call
        self._request_id = request_id
        self._resting = resting
        self.beside = beside
        self._token = call.token(request_id)
        self._inner: list[CancelScope] = []
        self._open: list[StageCall[Any]] = []  # calls that end sequences
        self._lock = threading.Lock()
        self.cancelled = threading.Event()

    def __call__(self, call: StageCall[Answer]) -> Answer:
        """As :class:`CallModel`; Cancelled once the caller has left.

        A call that depends on no earlier one is made again when its process dies: the same request
        has the same answer, noise included.
        """
        recovery = Recovery(self.cancelled)
        while True:
            if self.cancelled.is_set():
                raise Cancelled("the caller went away")
            ending = _ending(call)
            try:
                return self._call(call, self._token)
            except Unreachable as error:
                ending = None  # nobody may be there to be told
                if not call.is_whole:
                    raise
                recovery.wait(error)
                call = call.again()
            finally:
                if ending is not None:
                    with self._lock:
                        self._open.append(ending)

    def last(self, call: StageCall[Answer]) -> Answer:
        """A call that ends something, made also after the caller has left."""
        return self._call(call, self._token)

    @contextlib.contextmanager
    def awaiting_first_audio(self) -> Iterator[Callable[[], None]]:
        """Tell every stage that the caller waits for first audio, until what is yielded is called,
        or the block is left."""
        self._token.await_first_audio(awaited=True)
        try:
            yield lambda: self._token.await_first_audio(awaited=False)
        finally:
            self._token.await_first_audio(awaited=False)

    def rest(self, seconds: float) -> None:
        """Do nothing for so long, in nobody's way; Cancelled when the caller leaves."""
        with self._resting():
            if self.cancelled.wait(seconds):
                raise Cancelled("the caller went away")

    def inner(self) -> CancelScope:
        """A scope for one attempt: it can be cancelled alone, and is cancelled with this one."""
        scope = CancelScope(self._call, self._request_id, self._resting, self.beside)
        with self._lock:
            self._inner.append(scope)
            if self.cancelled.is_set():
                scope.cancel()
        return scope

    def cancel(self) -> None:
        """Call off everything under way; later calls raise Cancelled."""
        with self._lock:
            self.cancelled.set()
            inner = list(self._inner)
        for scope in inner:
            scope.cancel()
        self._token.cancel()

    def close(self) -> None:
        """End open sequences and release the names; nothing is under way any more."""
        with self._lock:
            inner, self._inner = self._inner, []
            endings, self._open = self._open, []
        for scope in inner:
            scope.close()
        for ending in endings:
            try:
                self.last(ending)
            except Exception as error:  # whatever it is, the rest is to be released
                # The caller has left, or its request failed before it had a place. Otherwise the
                # place is freed when the sequence has been idle for long enough.
                logger.debug("sequence %s was not ended: %s", ending.sequence, error)
        self._token.release()


def _ending(call: StageCall[Any]) -> StageCall[Any] | None:
    if call.ending is None or call.sequence is None:
        return None
    return call.ending(call.sequence.id)


@dataclasses.dataclass(eq=False)
class _Work:
    """One caller's work, as it waits or runs."""

    run: Callable[[CancelScope], None]
    scope: CancelScope
    reply: Reply
    characters: int


class CallPool:
    """Threads for work that waits on calls; refuses at once what the line cannot take.

    Args:
        name: of the threads.
        call: the other models.
        limits: of what is in work and waits; who rests counts among those that wait.
    """

    def __init__(self, name: str, call: CallModel, limits: LineLimits) -> None:
        self._call = call
        self._places = limits.running
        # Who rests keeps its thread.
        self._pool = ThreadPoolExecutor(limits.running + limits.waiting, thread_name_prefix=name)
        # Threads for a second call at the same time. They are kept, for to start one takes as long
        # as all else before a first call; each waits for calls only, so all get their turn.
        self._beside = ThreadPoolExecutor(limits.running, thread_name_prefix="stage-call")
        self._line = WaitingLine(limits)
        self._waiting: deque[_Work] = deque()
        self._running = 0  # without those that rest
        self._lock = threading.Lock()

    def submit(
        self,
        work: Callable[[CancelScope], None],
        reply: Reply,
        request_id: str = "",
        characters: int = 0,
    ) -> Callable[[], None]:
        """Run ``work`` on a thread; its errors go to ``reply``. Returns what cancels it.

        Args:
            work: makes the answer.
            reply: to the caller.
            request_id: the caller's own.
            characters: of the text to speak.

        Raises:
            InvalidRequest, Overloaded: as :meth:`WaitingLine.enter`.
        """
        self._line.enter(characters)
        try:
            scope = CancelScope(self._call, request_id, self._resting, self._beside)
        except BaseException:  # whatever it is, the place becomes free
            self._line.refuse(characters)
            raise
        one = _Work(work, scope, reply, characters)
        with self._lock:
            self._waiting.append(one)
            self._fill()

        def cancel() -> None:
            with self._lock:
                waits = one in self._waiting
                if waits:
                    self._waiting.remove(one)
            if waits:
                self._drop(one)
                reply.fail(Cancelled("the caller went away"))
            else:
                scope.cancel()

        return cancel

    def close(self) -> None:
        """Refuse what waits, wait for what runs."""
        with self._lock:
            waiting, self._waiting = list(self._waiting), deque()
        for one in waiting:
            self._drop(one)
            one.reply.fail(Cancelled("the server is stopping"))
        self._pool.shutdown(wait=True)
        self._beside.shutdown(wait=True)

    def _fill(self) -> None:
        """Let those who wait begin as far as there are places; the lock is held."""
        while self._waiting and self._running < self._places:
            self._running += 1
            self._pool.submit(self._run, self._waiting.popleft())

    @contextlib.contextmanager
    def _resting(self) -> Iterator[None]:
        # Who comes back takes no place from anybody: for a moment one more works than there are
        # places. It has enough to be heard, and will rest again soon.
        self._give_place()
        try:
            yield
        finally:
            with self._lock:
                self._running += 1

    def _give_place(self) -> None:
        with self._lock:
            self._running -= 1
            self._fill()

    def _run(self, one: _Work | None) -> None:
        while one is not None:
            try:
                one.run(one.scope)
            except BaseException as error:  # whatever it is, the caller gets it
                one.reply.fail(error)
            finally:
                one.scope.close()
                self._line.leave(one.characters)
            one = self._next()

    def _next(self) -> _Work | None:
        """Who takes over the place and the thread of one that has ended."""
        with self._lock:
            if self._waiting and self._running <= self._places:
                return self._waiting.popleft()
            self._running -= 1
            return None

    def _drop(self, one: _Work) -> None:
        one.scope.close()
        self._line.refuse(one.characters)
