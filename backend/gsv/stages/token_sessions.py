"""A sentence that is fetched in portions while it is being written.

A stream could let the engine's model answer many times to one request (a decoupled model). But a
call from one model to a decoupled one can come to a standstill on GPUs before Triton 26.07
(python_backend #439); a call with one answer does not. So each portion is a request of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gsv.errors import GsvError, InvalidRequest
from gsv.reply import Reply

READY_TOKENS = 6  # so many bridge the time until they are asked for
# A sentence that nobody has asked for so long is given up. A listener may well be that far from the
# next one: a sentence lasts up to a minute, pauses up to five.
IDLE_SECONDS = 900.0

Tokens = NDArray[np.int32]


class Written(Protocol):
    """What the engine says of a sentence."""

    tokens: Tokens


class TokenSession:
    """One sentence: to the engine a :class:`~gsv.reply.Reply`, to others where portions are.

    Args:
        answer: makes the response out of tokens and whether they are the last.
        forget: called once, when the last portion or the error has been handed over.
    """

    def __init__(self, answer: Callable[[Tokens, bool], Any], forget: Callable[[], object]) -> None:
        self._answer = answer
        self._forget = forget
        self._lock = threading.Lock()
        self._tokens: list[Tokens] = []
        self._ended = False
        self._error: BaseException | None = None
        self._asked: tuple[Reply, int] | None = None
        self.portions = 0  # handed over
        self.asked_at = time.monotonic()
        self.cancel: Callable[[], None] = lambda: None

    def send(self, result: Written, *, final: bool) -> None:
        """Take tokens from the engine."""
        with self._lock:
            self._tokens.append(result.tokens)
            self._ended |= final
        self._serve()

    def finish(self) -> None:
        """Take the end from the engine."""
        with self._lock:
            self._ended = True
        self._serve()

    def fail(self, error: BaseException) -> None:
        """Take an error from the engine: the next portion is that."""
        with self._lock:
            self._error = self._error or error
        self._serve()

    def is_buffered(self) -> bool:
        """Whether tokens lie ready that nobody has asked for yet."""
        with self._lock:
            return self._asked is None and sum(map(len, self._tokens)) >= READY_TOKENS

    def ask(self, reply: Reply, tokens: int, portion: int) -> None:
        """Answer with the next portion, as soon as it has ``tokens`` or is the last.

        Raises:
            InvalidRequest: it is not the portion that comes next, or somebody waits for it already.
        """
        with self._lock:
            if portion != self.portions or self._asked is not None:
                raise InvalidRequest.value("PORTION", portion, f"{self.portions}, asked for once")
            self._asked = reply, tokens
            self.asked_at = time.monotonic()
        self._serve()

    def _serve(self) -> None:
        with self._lock:
            if self._asked is None:
                return
            (reply, wanted), error = self._asked, self._error
            over = error is not None or self._ended
            if not over and sum(map(len, self._tokens)) < wanted:
                return
            tokens = np.concatenate([np.zeros(0, np.int32), *self._tokens])
            self._tokens, self._asked = [], None
            self.portions += 1
        if over:
            self._forget()
        if error is not None:
            reply.fail(error)
        else:
            reply.send(self._answer(tokens, over), final=True)


class TokenSessions:
    """The sentences of one engine that are being fetched, by the names that their callers gave."""

    def __init__(self) -> None:
        self._sessions: dict[str, TokenSession] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, job: str, answer: Callable[[Tokens, bool], Any]) -> TokenSession:
        """A new sentence; those that nobody fetches any more are given up.

        Raises:
            InvalidRequest: there is one of that name.
        """
        session = TokenSession(answer, lambda: self._forget(job))
        with self._lock:
            if job in self._sessions:
                raise InvalidRequest.value("JOB", job, "a name that is not in use")
            self._sessions[job] = session
            idle = time.monotonic() - IDLE_SECONDS
            forgotten = [name for name, w in self._sessions.items() if w.asked_at < idle]
        for name in forgotten:
            self.abandon(name)
        return session

    def find(self, job: str) -> TokenSession:
        """The sentence of that name; GsvError if there is none (any more)."""
        with self._lock:
            if job not in self._sessions:
                raise GsvError(f"sentence {job} is not being written (did the engine restart?)")
            return self._sessions[job]

    def abandon(self, job: str) -> None:
        """Stop a sentence; without effect on one that is over."""
        session = self._forget(job)
        if session is not None:
            session.cancel()

    def _forget(self, job: str) -> TokenSession | None:
        with self._lock:
            return self._sessions.pop(job, None)
