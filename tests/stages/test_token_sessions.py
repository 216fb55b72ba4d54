"""Chunks of a sentence: complete, in order, and never left behind."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from gsv.errors import Cancelled, InvalidRequest, SequenceLost
from gsv.stages import token_sessions as session
from gsv.stages.token_sessions import TokenSession, TokenSessions


@dataclasses.dataclass(frozen=True)
class Written:
    tokens: np.ndarray


class Caller:
    """A reply that keeps what it gets."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.left = False
        self.watched = True

    def is_cancelled(self) -> bool:
        return self.left

    def is_watched(self) -> bool:
        return self.watched

    def send(self, result: Any, *, final: bool) -> None:
        assert final
        self.answers.append(result)

    def finish(self) -> None:
        raise AssertionError("a chunk is never empty-handed")

    def fail(self, error: BaseException) -> None:
        self.answers.append(error)


def write(target: TokenSession, *tokens: int, last: bool = False) -> None:
    target.send(Written(np.array(tokens, np.int32)), final=last)


def begin(sessions: TokenSessions, sequence: int = 1) -> TokenSession:
    return sessions.begin(sequence, lambda tokens, last, latest: (tokens.tolist(), last))


def test_chunks_wait_for_their_tokens_and_end_with_the_sentence() -> None:
    sessions, caller = TokenSessions(), Caller()
    sentence = begin(sessions)
    sentence.ask(caller, 3)
    write(sentence, 1, 2)
    assert caller.answers == []
    write(sentence, 3, 4)
    write(sentence, 5)
    assert caller.answers == [([1, 2, 3, 4], False)]
    sessions.find(1).ask(caller, 3)
    write(sentence, 6, last=True)
    assert caller.answers[1:] == [([5, 6], True)]
    assert len(sessions) == 0


def test_what_is_written_already_is_handed_out_at_once() -> None:
    sentence, caller = begin(TokenSessions()), Caller()
    write(sentence, 1, 2)
    write(sentence, last=True)
    sentence.ask(caller, 8)
    assert caller.answers == [([1, 2], True)]


def test_enough_is_what_lies_ready_and_was_not_asked_for() -> None:
    sentence, caller = begin(TokenSessions()), Caller()
    sentence.ask(caller, 2)
    write(sentence, 1, 2)
    assert not sentence.is_buffered()
    write(sentence, *range(session.READY_TOKENS))
    assert sentence.is_buffered()
    sentence.ask(caller, session.READY_TOKENS + 1)
    assert not sentence.is_buffered()


def test_an_error_is_the_next_answer() -> None:
    sessions, caller, error = TokenSessions(), Caller(), Cancelled("gone")
    sentence = begin(sessions)
    sentence.fail(error)
    sentence.ask(caller, 1)
    assert caller.answers == [error]
    assert len(sessions) == 0


def test_chunks_are_asked_for_one_at_a_time() -> None:
    sentence = begin(TokenSessions())
    sentence.ask(Caller(), 1)
    with pytest.raises(InvalidRequest, match="one request of a sequence at a time"):
        sentence.ask(Caller(), 1)


def test_a_sequence_that_nobody_knows_is_lost() -> None:
    with pytest.raises(SequenceLost, match="sequence 2 is not being written here"):
        TokenSessions().find(2)


def test_a_sequence_that_begins_again_gives_the_first_one_up() -> None:
    sessions, stopped, waiting = TokenSessions(), [], Caller()
    first = begin(sessions)
    first.cancel = lambda: stopped.append("first")
    first.ask(waiting, 1)
    begin(sessions)
    assert stopped == ["first"]
    assert isinstance(waiting.answers[0], Cancelled)
    assert len(sessions) == 1


def test_an_abandoned_sentence_is_stopped_once() -> None:
    sessions, stopped = TokenSessions(), []
    begin(sessions).cancel = lambda: stopped.append("a")
    sessions.abandon(1)
    sessions.abandon(1)
    assert stopped == ["a"]
    assert len(sessions) == 0


def test_a_sentence_that_nobody_fetches_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, stopped = TokenSessions(), []
    begin(sessions).cancel = lambda: stopped.append("a")
    sessions.sweep()
    assert stopped == []
    later = time.monotonic() + session.IDLE_SECONDS + 1
    monkeypatch.setattr("gsv.stages.token_sessions.time.monotonic", lambda: later)
    sessions.sweep()
    assert stopped == ["a"]
    assert len(sessions) == 0


@pytest.mark.parametrize("watched", [True, False])
def test_who_calls_past_the_public_models_has_less_time(
    watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody tells when such a caller has gone for good, and its sentence keeps a row."""
    sessions, caller = TokenSessions(), Caller()
    caller.watched = watched
    sentence = begin(sessions)
    sentence.ask(caller, 1)
    write(sentence, 1)
    later = time.monotonic() + session.UNWATCHED_IDLE_SECONDS + 1
    monkeypatch.setattr("gsv.stages.token_sessions.time.monotonic", lambda: later)
    sessions.sweep()
    assert len(sessions) == watched


def test_a_sentence_whose_caller_left_between_two_chunks_is_given_up() -> None:
    sessions, stopped, caller = TokenSessions(), [], Caller()
    sentence = begin(sessions)
    sentence.cancel = lambda: stopped.append("a")
    sentence.ask(caller, 1)
    write(sentence, 1)
    sessions.sweep()
    assert stopped == []
    caller.left = True
    sessions.sweep()
    assert stopped == ["a"]
