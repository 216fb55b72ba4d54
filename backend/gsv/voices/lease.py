"""Requests that begin in a voice's weights, and give them back when they end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from gsv.errors import Cancelled
from gsv.reply import Reply
from gsv.voices.weight_cache import BASE, WeightCache, Weights


class LeasedReply:
    """A reply that gives weights back when the answer ends, however it does."""

    def __init__(self, reply: Reply, release: Callable[[], None]) -> None:
        self._reply = reply
        self._release: Callable[[], None] | None = release
        self._lock = threading.Lock()

    def send(self, result: Any, *, final: bool) -> None:
        """As :class:`gsv.reply.Reply`."""
        try:
            self._reply.send(result, final=final)
        finally:
            if final:
                self.give_back()

    def finish(self) -> None:
        """As :class:`gsv.reply.Reply`."""
        try:
            self._reply.finish()
        finally:
            self.give_back()

    def fail(self, error: BaseException) -> None:
        """As :class:`gsv.reply.Reply`."""
        try:
            self._reply.fail(error)
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Give the weights back; without effect the second time."""
        with self._lock:
            release, self._release = self._release, None
        if release is not None:
            release()


class PendingStart:
    """A request that begins now or when its weights are there, and can be cancelled either way."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._cancel: Callable[[], None] | None = None
        self._cancelled = False
        self._lock = threading.Lock()

    def begin(self, start: Callable[[], Callable[[], None]]) -> None:
        """Call ``start`` and keep what cancels it."""
        if self._cancelled:
            raise Cancelled("the caller went away")
        cancel = start()
        with self._lock:
            self._cancel = cancel
            late = self._cancelled
        if late:
            cancel()

    def cancel(self) -> None:
        """Give up."""
        with self._lock:
            self._cancelled, cancel = True, self._cancel
        if cancel is not None:
            cancel()
        else:
            self._reply.fail(Cancelled("the caller went away"))


def start_in_voice(
    weight_cache: WeightCache[Weights],
    voice: str,
    reply: Reply,
    start: Callable[[str, Weights | None, Reply], Callable[[], None]],
) -> Callable[[], None]:
    """Start a request with its voice's weights; returns at once with what cancels it.

    Args:
        start: gets the key, the weights (None: the base's) and the reply to answer to; returns
            what cancels the work.
    """
    starting = PendingStart(reply)

    def then(key: str, weights: Weights | None) -> None:
        if key == BASE:
            starting.begin(lambda: start(key, weights, reply))
            return
        leased = LeasedReply(reply, lambda: weight_cache.release(key))
        try:
            starting.begin(lambda: start(key, weights, leased))
        except BaseException:  # whatever it is, the weights are given back
            leased.give_back()
            raise

    weight_cache.use(voice, then, reply.fail)
    return starting.cancel
