"""Portions of a sentence: complete, in order, and never left behind."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from gsv.errors import Cancelled, GsvError, InvalidRequest
from gsv.stages import token_sessions as session
from gsv.stages.token_sessions import TokenSession, TokenSessions


@dataclasses.dataclass(frozen=True)
class Written:
    tokens: np.ndarray


class Caller:
    """A reply that keeps what it gets."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def send(self, result: Any, *, final: bool) -> None:
        assert final
        self.answers.append(result)

    def finish(self) -> None:
        raise AssertionError("a portion is never empty-handed")

    def fail(self, error: BaseException) -> None:
        self.answers.append(error)


def write(target: TokenSession, *tokens: int, last: bool = False) -> None:
    target.send(Written(np.array(tokens, np.int32)), final=last)


def begin(sessions: TokenSessions, job: str = "a") -> TokenSession:
    return sessions.begin(job, lambda tokens, last: (tokens.tolist(), last))


def test_portions_wait_for_their_tokens_and_end_with_the_sentence() -> None:
    sessions, caller = TokenSessions(), Caller()
    sentence = begin(sessions)
    sentence.ask(caller, 3, 0)
    write(sentence, 1, 2)
    assert caller.answers == []
    write(sentence, 3, 4)
    write(sentence, 5)
    assert caller.answers == [([1, 2, 3, 4], False)]
    sessions.find("a").ask(caller, 3, 1)
    write(sentence, 6, last=True)
    assert caller.answers[1:] == [([5, 6], True)]
    assert len(sessions) == 0


def test_what_is_written_already_is_handed_out_at_once() -> None:
    sentence, caller = begin(TokenSessions()), Caller()
    write(sentence, 1, 2)
    write(sentence, last=True)
    sentence.ask(caller, 8, 0)
    assert caller.answers == [([1, 2], True)]


def test_enough_is_what_lies_ready_and_was_not_asked_for() -> None:
    sentence, caller = begin(TokenSessions()), Caller()
    sentence.ask(caller, 2, 0)
    write(sentence, 1, 2)
    assert not sentence.is_buffered()
    write(sentence, *range(session.READY_TOKENS))
    assert sentence.is_buffered()
    sentence.ask(caller, session.READY_TOKENS + 1, 1)
    assert not sentence.is_buffered()


def test_an_error_is_the_next_portion() -> None:
    sessions, caller, error = TokenSessions(), Caller(), Cancelled("gone")
    sentence = begin(sessions)
    sentence.fail(error)
    sentence.ask(caller, 1, 0)
    assert caller.answers == [error]
    assert len(sessions) == 0


def test_portions_are_asked_for_in_order_and_once() -> None:
    sentence = begin(TokenSessions())
    with pytest.raises(InvalidRequest, match="PORTION: got 1"):
        sentence.ask(Caller(), 1, 1)
    sentence.ask(Caller(), 1, 0)
    with pytest.raises(InvalidRequest, match="PORTION"):
        sentence.ask(Caller(), 1, 0)


def test_names_are_unique_and_known() -> None:
    sessions = TokenSessions()
    begin(sessions)
    with pytest.raises(InvalidRequest, match="JOB: got 'a'"):
        begin(sessions)
    with pytest.raises(GsvError, match="sentence b is not being written"):
        sessions.find("b")


def test_an_abandoned_sentence_is_stopped_once() -> None:
    sessions, stopped = TokenSessions(), []
    begin(sessions).cancel = lambda: stopped.append("a")
    sessions.abandon("a")
    sessions.abandon("a")
    assert stopped == ["a"]
    assert len(sessions) == 0


def test_a_sentence_that_nobody_fetches_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, stopped = TokenSessions(), []
    begin(sessions).cancel = lambda: stopped.append("a")
    later = time.monotonic() + session.IDLE_SECONDS + 1
    monkeypatch.setattr("gsv.stages.token_sessions.time.monotonic", lambda: later)
    begin(sessions, "b")
    assert stopped == ["a"]
    assert len(sessions) == 1
