"""Sentences of a text in pieces, whatever a caller sends: nothing lost, nothing blank, in time."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gsv_client.limits import TEXT_LIMIT
from gsv_client.sentences import MOST_CHARACTERS, SentenceBuffer, sentences_of

# Seconds of the processor for the longest text that the gateway takes. Whole it needs some 0.01 s,
# by the letter 1 s; what once grew with the cube of the length needed 50.
ENOUGH_SECONDS = 15.0
PARTS = [
    "Hello", "a", "No", "Mr", "3", "你们好", " ", "\n", ".", "!", "?!", "...", ". ", "! ", "。",
    "……", "！", "”", "’", "“", ")", ",", "，", "J. ", "e.g. ", "word, ", "字" * 90, " " * 60,
]  # fmt: skip


@pytest.mark.parametrize("size", [1, TEXT_LIMIT], ids=["by the letter", "whole"])
@pytest.mark.parametrize(
    "unit",
    ["\n", ". ", "! ", "。", "!", "...", "A. ", "a. ", "Mr. ", "word. ", ",", "a", "”", "a!\n"],
)
def test_no_text_holds_up_others(unit: str, size: int) -> None:
    """The gateway splits texts on the loop that carries every caller's audio."""
    text = (unit * TEXT_LIMIT)[:TEXT_LIMIT]
    begun = time.process_time()
    sentences = list(sentences_of(text[i : i + size] for i in range(0, len(text), size)))
    assert time.process_time() - begun < ENOUGH_SECONDS
    assert _letters("".join(sentences)) == _letters(text)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("He said “Stop it now!” and left.", ["He said “Stop it now!”", "and left."]),
        ("“(It is over.)” Really?! Yes", ["“(It is over.)”", "Really?!", "Yes"]),
        ("他说：“快走吧！！”然后跑了。", ["他说：“快走吧！！”", "然后跑了。"]),
        ("真的很好？！是的没错……再见", ["真的很好？！", "是的没错……", "再见"]),
        ("It costs 3.14.Really.", ["It costs 3.14.Really."]),
    ],
)
def test_marks_stay_with_their_sentence_however_the_text_comes(
    text: str, sentences: list[str]
) -> None:
    for fed in ([text], list(text)):
        assert list(sentences_of(fed)) == sentences


@pytest.mark.parametrize("blank", [" ", "\n", "\t", "\u3000", "-", "! ", "。"])
def test_a_long_run_without_letters_is_no_sentence(blank: str) -> None:
    """An empty request would be refused, and end the stream."""
    run = blank * (3 * MOST_CHARACTERS)
    assert SentenceBuffer().feed(run) == []
    for pieces in ([f"{run}Hello there.{run}Good day."], list(f"{run}Hello there.{run}Good day.")):
        sentences = list(sentences_of(pieces))
        assert "".join(_letters(sentence) for sentence in sentences) == "HellothereGoodday"
        assert all(_letters(sentence) for sentence in sentences)
    buffer = SentenceBuffer()
    assert buffer.feed(" " * 1000 + "Hello there.\n" + " " * 1000) == ["Hello there."]
    assert buffer.flush() == []


@settings(deadline=None)  # for slow machines
@given(st.lists(st.sampled_from(PARTS), max_size=60), st.lists(st.integers(0, 2_000), max_size=9))
def test_the_sentences_joined_are_the_text(parts: list[str], cuts: list[int]) -> None:
    """But for blanks, and for marks at the end that belong to no sentence."""
    text = "".join(parts)
    assume(not re.search(rf"[\W_]{{{MOST_CHARACTERS}}}", text))  # those are left out
    places = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[begin:end] for begin, end in zip(places, places[1:], strict=False)]
    wholly = list(sentences_of([text]))
    for fed in ([text], pieces, list(text)):
        sentences = list(sentences_of(fed))
        assert sentences == wholly
        joined, whole = _dense("".join(sentences)), _dense(text)
        assert whole.startswith(joined)
        assert not _letters(whole[len(joined) :])
        assert all(sentence == sentence.strip() and _letters(sentence) for sentence in sentences)
        assert all(len(sentence) <= MOST_CHARACTERS for sentence in sentences)


def _letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


def _dense(text: str) -> str:
    return "".join(text.split())
