"""Calls from one stage to others: typed, waited for on a pool's threads, called off together."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

from gsv.errors import Cancelled, Overloaded
from gsv.reply import Reply

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


@dataclasses.dataclass(frozen=True)
class StageCall(Generic[Answer]):
    """One request to a model, as a class of :mod:`gsv.stages.messages`, and what it answers."""

    model: str
    request: Any
    answer: type[Answer]
    sequence: SequenceStep | None = None


class CancelToken(Protocol):
    """A name for all calls on behalf of one caller, by which every stage can be told to stop."""

    def cancel(self) -> None:
        """Cancel all calls of this name; from any thread."""
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

    def __init__(self, call: CallModel, request_id: str = "") -> None:
        self._call = call
        self._request_id = request_id
        self._token = call.token(request_id)
        self._inner: list[CancelScope] = []
        self._lock = threading.Lock()
        self.cancelled = threading.Event()

    def __call__(self, call: StageCall[Answer]) -> Answer:
        """As :class:`CallModel`; Cancelled once the caller has left."""
        if self.cancelled.is_set():
            raise Cancelled("the caller went away")
        return self._call(call, self._token)

    def last(self, call: StageCall[Answer]) -> Answer:
        """A call that ends something, made also after the caller has left."""
        return self._call(call, self._token)

    def inner(self) -> CancelScope:
        """A scope for one attempt: it can be cancelled alone, and is cancelled with this one."""
        scope = CancelScope(self._call, self._request_id)
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
        """Release the names; nothing is under way any more."""
        with self._lock:
            inner, self._inner = self._inner, []
        for scope in inner:
            scope.close()
        self._token.release()


class CallPool:
    """Threads for work that waits on calls; refuses at once what the line cannot take."""

    def __init__(self, name: str, call: CallModel, threads: int, waiting: int) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + waiting
        self._inside = 0
        self._lock = threading.Lock()

    def submit(
        self, work: Callable[[CancelScope], None], reply: Reply, request_id: str = ""
    ) -> Callable[[], None]:
        """Run ``work`` on a thread; its errors go to ``reply``. Returns what cancels it.

        Raises:
            Overloaded: all threads are busy and the line is full.
        """
        with self._lock:
            if self._inside >= self._limit:
                raise Overloaded(
                    f"{self._inside} requests are inside and the line is full; try again later"
                )
            self._inside += 1
        try:
            scope = CancelScope(self._call, request_id)
        except BaseException:  # whatever it is, the place becomes free
            with self._lock:
                self._inside -= 1
            raise
        future = self._pool.submit(self._run, work, scope, reply)
        future.add_done_callback(lambda _: self._leave(scope))

        def cancel() -> None:
            if future.cancel():
                reply.fail(Cancelled("the caller went away"))
            else:
                scope.cancel()

        return cancel

    def close(self) -> None:
        """Drop what waits, wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, work: Callable[[CancelScope], None], scope: CancelScope, reply: Reply) -> None:
        try:
            work(scope)
        except BaseException as error:  # whatever it is, the caller gets it
            reply.fail(error)

    def _leave(self, scope: CancelScope) -> None:
        scope.close()
        with self._lock:
            self._inside -= 1
