"""Sentences that are fetched in chunks while they are being written.

A stream could let the model answer many times to one request (a decoupled model). But a call from
one model to a decoupled one can come to a standstill on GPUs before Triton 26.07 (python_backend
#439); a call with one answer does not. So each chunk is a request of its own, and all requests of a
sentence are one sequence of Triton's, which keeps them on one instance.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gsv.errors import Cancelled, InvalidRequest, SequenceLost
from gsv.reply import CancellableReply

READY_TOKENS = 6  # so many bridge the time until they are asked for
# A sentence that nobody has asked for so long is given up. A listener may well be that far from the
# next one: a sentence lasts up to a minute, pauses up to five. As max_sequence_idle_microseconds of
# semantic_gpt's config.pbtxt.
IDLE_SECONDS = 900.0
# Who calls the model directly, past the public models, may have gone for good without a sign.
UNWATCHED_IDLE_SECONDS = 60.0

Tokens = NDArray[np.int32]


class Written(Protocol):
    """What the engine says of a sentence."""

    @property
    def tokens(self) -> Tokens:
        """The next ones."""


Answer = Callable[[Tokens, bool, Any], Any]


class TokenSession:
    """One sentence: the engine sends its tokens here, and callers fetch them in chunks.

    Args:
        answer: makes the response out of tokens, whether they are the last, and what the engine
            said with the last of them.
        forget: called once, when the last chunk or the error has been handed over.
    """

    def __init__(self, answer: Answer, forget: Callable[[], object]) -> None:
        self._answer = answer
        self._latest: Any = None
        self._forget = forget
        self._lock = threading.Lock()
        self._tokens: list[Tokens] = []
        self._ended = False
        self._error: BaseException | None = None
        self._asked: tuple[CancellableReply, int] | None = None
        self._asked_at = time.monotonic()
        self._left: Callable[[], bool] = lambda: False
        self._patience = IDLE_SECONDS
        self.cancel: Callable[[], None] = lambda: None

    @property
    def given_up(self) -> bool:
        """Whether nobody will ask for more: the caller has left, or was idle for too long."""
        if self._left():
            return True
        return self._asked is None and time.monotonic() - self._asked_at > self._patience

    def send(self, result: Written, *, final: bool) -> None:
        """Take tokens from the engine."""
        with self._lock:
            self._tokens.append(result.tokens)
            self._latest = result
            self._ended |= final
        self._serve()

    def finish(self) -> None:
        """Take the end from the engine."""
        with self._lock:
            self._ended = True
        self._serve()

    def fail(self, error: BaseException) -> None:
        """Take an error from the engine: it is the answer to the next request."""
        with self._lock:
            self._error = self._error or error
        self._serve()

    def is_buffered(self) -> bool:
        """Whether tokens lie ready that nobody has asked for yet."""
        with self._lock:
            return self._asked is None and sum(map(len, self._tokens)) >= READY_TOKENS

    def ask(self, reply: CancellableReply, tokens: int) -> None:
        """Answer with the next chunk, as soon as it has ``tokens`` or is the last.

        Raises:
            InvalidRequest: somebody waits for it already.
        """
        with self._lock:
            if self._asked is not None:
                raise InvalidRequest(
                    "CHUNK_TOKENS: asked for while the same sequence's last chunk is waited for; "
                    "one request of a sequence at a time"
                )
            self._asked = reply, tokens
            self._asked_at = time.monotonic()
            self._left = reply.is_cancelled
            self._patience = IDLE_SECONDS if reply.is_watched() else UNWATCHED_IDLE_SECONDS
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
            latest = self._latest
            self._tokens, self._asked = [], None
            self._asked_at = time.monotonic()
        if over:
            self._forget()
        if error is not None:
            reply.fail(error)
        else:
            reply.send(self._answer(tokens, over, latest), final=True)


class TokenSessions:
    """The sentences of one engine that are being fetched, by their sequences."""

    def __init__(self) -> None:
        self._sessions: dict[int, TokenSession] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def begin(self, sequence: int, answer: Answer) -> TokenSession:
        """A new sentence; one of the same name, which its caller has lost, is given up."""
        self.abandon(sequence)
        session = TokenSession(answer, lambda: self._forget(sequence))
        with self._lock:
            self._sessions[sequence] = session
        return session

    def find(self, sequence: int) -> TokenSession:
        """The sentence of that sequence; SequenceLost if there is none (any more)."""
        with self._lock:
            if sequence not in self._sessions:
                raise SequenceLost(
                    f"sequence {sequence} is not being written here: it was idle for too long "
                    f"({IDLE_SECONDS:g} s, of callers from outside the server "
                    f"{UNWATCHED_IDLE_SECONDS:g} s), or the model was loaded again"
                )
            return self._sessions[sequence]

    def abandon(self, sequence: int) -> None:
        """Stop a sentence; without effect on one that is over."""
        session = self._forget(sequence)
        if session is not None:
            session.cancel()
            session.fail(Cancelled("the sentence was abandoned"))

    def sweep(self) -> None:
        """Stop the sentences that nobody will ask for any more."""
        with self._lock:
            over = [sequence for sequence, s in self._sessions.items() if s.given_up]
        for sequence in over:
            self.abandon(sequence)

    def _forget(self, sequence: int) -> TokenSession | None:
        with self._lock:
            return self._sessions.pop(sequence, None)
