"""Sentences out of a text that comes in pieces cut anywhere.

This only decides when there is enough text to start speaking; how it is split for the model, and
how it is read, is the server's business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Shorter ones wait for the next sentence: the model speaks a lone "No." badly.
FEWEST_LETTERS = 4
# A text that never ends a sentence is cut at a clause after so many characters.
MOST_CHARACTERS = 200

_CLOSERS = "\"'”’」』）)]】》〉›»"
# What ends a sentence, the closing marks after it included, and one character of what follows:
# only that tells `3.` of `3.14` and `!` of `!”` from an end.
_END = re.compile(
    rf"(?:(?P<ascii>[.!?]+)|[。！？．…‥｡]+[.!?]*)[{re.escape(_CLOSERS)}]*(?=(?P<next>.))|\n",
    re.DOTALL,
)
_CLAUSE = re.compile(r"[,，、;；:：—\s]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|No|vs|cf|approx|Inc|Ltd|Co|e\.g|i\.e)$"
)


class SentenceBuffer:
    """Takes pieces of text, gives back the sentences that are complete.

    >>> buffer = SentenceBuffer()
    >>> buffer.feed("It costs 3.5")
    []
    >>> buffer.feed("0 dollars. Really")
    ['It costs 3.50 dollars.']
    >>> buffer.flush()
    ['Really']
    """

    def __init__(self) -> None:
        self._text = ""

    def feed(self, piece: str) -> list[str]:
        """Add a piece; the sentences that it completes."""
        self._text += piece
        sentences = []
        while (end := self._end()) is not None:
            sentence, self._text = self._text[:end].strip(), self._text[end:]
            sentences.append(sentence)
        return sentences

    def flush(self) -> list[str]:
        """What is left at the end of the text, if there is anything to say in it."""
        rest, self._text = self._text.strip(), ""
        return [rest] if _letters(rest) else []

    def _end(self) -> int | None:
        """Where the first complete sentence ends, or None."""
        for match in _END.finditer(self._text):
            end = match.end()
            if match.group() != "\n" and not _is_end(self._text, match):
                continue
            if _letters(self._text[:end]) >= FEWEST_LETTERS:
                return min(end, self._clause()) if end > MOST_CHARACTERS else end
        return self._clause() if len(self._text) > MOST_CHARACTERS else None

    def _clause(self) -> int:
        marks = [match.end() for match in _CLAUSE.finditer(self._text[:MOST_CHARACTERS])]
        ends = [end for end in marks if _letters(self._text[:end]) >= FEWEST_LETTERS]
        return ends[-1] if ends else MOST_CHARACTERS


def sentences_of(pieces: Iterable[str]) -> Iterator[str]:
    """Each sentence of a text in pieces, as soon as it is complete.

    >>> list(sentences_of(["你好。今天", "天气不错！我们", "走吧"]))
    ['你好。今天天气不错！', '我们走吧']
    """
    buffer = SentenceBuffer()
    for piece in pieces:
        yield from buffer.feed(piece)
    yield from buffer.flush()


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether a Latin full stop, question or exclamation mark ends a sentence; others always do."""
    marks = match.group("ascii")
    if marks is None:
        return True
    following = match.group("next")
    if following.isascii() and not following.isspace():
        return False
    return marks != "." or not _ABBREVIATION.search(text[: match.start()])


def _letters(text: str) -> int:
    return sum(character.isalnum() for character in text)
