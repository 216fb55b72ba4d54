"""What the demo voice learned from, and what it is judged by, never meet."""

from __future__ import annotations

import pytest
import sentences
from recognition import Heard, accuracy, edits, words


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
