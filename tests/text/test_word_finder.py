"""Words of a list in a text, against a regular expression of them all."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gsv.text.word_finder import WordFinder

WORDS = st.sets(st.text("abc", min_size=1, max_size=4), min_size=1)


@given(words=WORDS, text=st.text("abcd", max_size=60))
def test_the_longest_words_are_found_from_left_to_right(words: set[str], text: str) -> None:
    pattern = re.compile("|".join(sorted(words, key=len, reverse=True)))
    expected = [(found.start(), found.group()) for found in pattern.finditer(text)]
    assert list(WordFinder(words).find(text)) == expected


def test_without_words_nothing_is_found() -> None:
    assert list(WordFinder([]).find("abc")) == []
