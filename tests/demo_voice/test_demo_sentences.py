"""What the demo voice learned from, and what it is judged by, never meet."""

from __future__ import annotations

import re

import pytest
import sentences
from everyday import EVERYDAY
from recognition import Heard, accuracy, edits, words
from wide import MOST_WORDS, WideGrammar, spelled

from gsv.commands.calibration_texts import TEXTS


@pytest.fixture(scope="module")
def training() -> list[str]:
    return sentences.Grammar(seed=1).training(4_400)


def test_judged_and_demo_sentences_are_in_no_training_text(training: list[str]) -> None:
    learned = {text.lower() for text in training}
    for text in (*sentences.JUDGED, *sentences.SPOKEN_BY_DEMO):
        assert text.lower() not in learned


def test_training_texts_differ_and_are_the_same_each_time(training: list[str]) -> None:
    assert len(set(training)) == 4_400
    assert sentences.Grammar(seed=1).training(50) == training[:50]


def test_training_texts_are_one_sentence_each(training: list[str]) -> None:
    for text in training:
        assert text[0].isupper()
        assert text[:-1].replace(" ", "").isalpha(), text
        assert text.endswith(".")


def test_there_are_twenty_judged_sentences() -> None:
    assert len(set(sentences.JUDGED)) == 20


@pytest.mark.parametrize(
    ("wanted", "given", "count"),
    [
        ("a b c", "a b c", 0),
        ("a b c", "a x c", 1),
        ("a b c", "a c", 1),
        ("a b c", "a b b c", 1),
        ("a b c", "", 3),
        ("a b", "c d e f", 4),
    ],
)
def test_edits(wanted: str, given: str, count: int) -> None:
    assert edits(wanted.split(), given.split()) == count


def test_words() -> None:
    assert words("Don't stop, it's Ten.") == ["don't", "stop", "it's", "ten"]


def test_accuracy_weighs_words() -> None:
    heard = [Heard("a b c", "a b c", 3, 3), Heard("d", "", 1, 0)]
    assert accuracy(heard) == 0.75


@pytest.fixture(scope="module")
def wider() -> list[str]:
    return WideGrammar(seed=11).training(3_000)


class TestWideGrammar:
    def test_nothing_judged_is_learned(self, wider: list[str]) -> None:
        learned = {text.lower().rstrip(".,!?") for text in wider}
        judged = (
            *sentences.JUDGED,
            *sentences.SPOKEN_BY_DEMO,
            *EVERYDAY,
            *TEXTS["en"],
            sentences.REFERENCE,
        )
        assert not [text for text in judged if text.lower().rstrip(".,!?") in learned]

    def test_lengths_reach_from_2_to_40_words(self, wider: list[str]) -> None:
        counts = [len(text.split()) for text in wider]
        assert min(counts) == 2
        assert 38 <= max(counts) <= MOST_WORDS
        assert sum(count > 12 for count in counts) > 900

    def test_texts_are_words_and_marks(self, wider: list[str]) -> None:
        for text in wider:
            assert re.fullmatch(r"[A-Za-z' ,]+[.,!?]", text), text
            assert "  " not in text

    def test_more_texts_begin_with_the_same(self, wider: list[str]) -> None:
        assert WideGrammar(seed=11).training(200) == wider[:200]
        assert WideGrammar(seed=12).training(200) != wider[:200]

    def test_names_numbers_and_questions_are_among_them(self, wider: list[str]) -> None:
        everything = " ".join(wider)
        for wanted in ("thousand", "eighty", "Boston", "Susan", "October", "?", "!", ","):
            assert wanted in everything


def test_a_hundred_everyday_sentences() -> None:
    assert len(set(EVERYDAY)) == 100
    counts = [len(text.split()) for text in EVERYDAY]
    assert (min(counts), max(counts)) == (2, 30)
    assert sum(count > 12 for count in counts) >= 35


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (7, "seven"),
        (20, "twenty"),
        (42, "forty two"),
        (300, "three hundred"),
        (9_012, "nine thousand twelve"),
        (1_905, "one thousand nine hundred five"),
    ],
)
def test_spelled(number: int, wanted: str) -> None:
    assert spelled(number) == wanted
