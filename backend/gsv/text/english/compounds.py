"""Cuts unknown English words into known ones: ``blockchain`` into ``block chain``.

Norvig's segmentation ("Natural Language Corpus Data", in Beautiful Data, 2009) with the word and
word-pair counts of the wordsegment package, and its answers, ties included. The package's own
search takes 1.6 ms a letter; this one, which goes through the word once from its end, a tenth.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from math import log10
from pathlib import Path

_TOTAL = 1024908267229.0  # words in the corpus
_LONGEST = 24  # letters of a part
_CHUNK = 250  # letters searched at once
_OVERLAP = 5  # parts of a chunk that are searched again with the next one
_SENTENCE_START = "<s>"
_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


class CompoundSplitter:
    """The likeliest parts of a word."""

    def __init__(self, folder: Path) -> None:
        """``folder``: the wordsegment package, with ``unigrams.txt`` and ``bigrams.txt``."""
        self._words: dict[str, float] = {}
        with (folder / "unigrams.txt").open(encoding="utf-8") as lines:
            for line in lines:
                word, count = line.split()
                self._words[sys.intern(word)] = float(count)
        self._pairs: defaultdict[str, dict[str, float]] = defaultdict(dict)
        with (folder / "bigrams.txt").open(encoding="utf-8") as lines:
            for line in lines:
                first, second, count = line.split()
                # Interned, because most words are in hundreds of pairs.
                self._pairs[sys.intern(first)][sys.intern(second)] = float(count)

    def split(self, word: str) -> list[str]:
        """Parts of a lower-case word, without its apostrophes and dashes."""
        letters = "".join(letter for letter in word if letter in _ALPHABET)
        parts: list[str] = []
        tail = ""
        for start in range(0, len(letters), _CHUNK):
            found = self._search(tail + letters[start : start + _CHUNK])
            parts += found[:-_OVERLAP]
            tail = "".join(found[-_OVERLAP:])
        return parts + self._search(tail)

    def _search(self, text: str) -> list[str]:
        """The division of the text with the highest product of probabilities.

        ``best[end][size]`` is the log probability of the text from ``end`` on after a part of
        ``size`` letters that ends there, and the size of the part that follows.
        """
        length = len(text)
        best: list[dict[int, tuple[float, int]]] = [{} for _ in range(length + 1)]
        best[length] = dict.fromkeys(range(1, _LONGEST + 1), (0.0, 0))

        def parts(start: int, size: int) -> list[str]:
            found = [text[start : start + size]]
            while (start := start + size) < length:
                size = best[start][size][1]
                found.append(text[start : start + size])
            return found

        def likeliest(start: int, sizes: range, totals: list[float]) -> tuple[float, int]:
            top = max(totals)
            ties = [size for size, total in zip(sizes, totals, strict=True) if total == top]
            return top, ties[0] if len(ties) == 1 else max(ties, key=lambda s: parts(start, s))

        for start in range(length - 1, -1, -1):
            sizes = range(1, min(_LONGEST, length - start) + 1)
            nexts = [text[start : start + size] for size in sizes]
            tails = [best[start + size][size][0] for size in sizes]
            alone = [
                log10(self._probability(word)) + t for word, t in zip(nexts, tails, strict=True)
            ]
            # Most parts before this place are in no pair, and have the same best part after them.
            common = likeliest(start, sizes, alone)
            for before in range(1, min(_LONGEST, start) + 1) if start else (0,):
                previous = text[start - before : start] if start else _SENTENCE_START
                followers = self._pairs.get(previous)
                if not followers or previous not in self._words:
                    best[start][before] = common
                    continue
                totals = self._after(previous, followers, nexts, alone, tails)
                best[start][before] = likeliest(start, sizes, totals)
        return parts(0, best[0][0][1]) if text else []

    def _after(
        self,
        previous: str,
        followers: dict[str, float],
        nexts: list[str],
        alone: list[float],
        tails: list[float],
    ) -> list[float]:
        """Totals of the possible next parts where pairs with the previous part are counted."""
        known = self._probability(previous)
        return [
            log10(followers[word] / _TOTAL / known) + tail if word in followers else total
            for word, total, tail in zip(nexts, alone, tails, strict=True)
        ]

    def _probability(self, word: str) -> float:
        count = self._words.get(word)
        # An unseen part is the less likely the longer it is.
        return count / _TOTAL if count is not None else 10.0 / (_TOTAL * 10 ** len(word))
