"""Finds the words of a list in a text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


class WordFinder:
    """Finds words from left to right, the longest where several begin.

    The time is that of the text's length times the number of lengths that words have, however many
    words there are; a regular expression of all of them takes a second for 8,000 to compile.

    Args:
        words: none is empty.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._words = frozenset(words)
        lengths: dict[str, set[int]] = {}
        for word in self._words:
            lengths.setdefault(word[0], set()).add(len(word))
        self._lengths = {char: sorted(found, reverse=True) for char, found in lengths.items()}

    def find(self, text: str) -> Iterator[tuple[int, str]]:
        """Where each word begins, and the word; none overlaps another."""
        index = 0
        while index < len(text):
            for length in self._lengths.get(text[index], ()):
                word = text[index : index + length]
                if word in self._words:
                    yield index, word
                    index += length
                    break
            else:
                index += 1
