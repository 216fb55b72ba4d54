"""Sentences out of a text that comes in pieces cut anywhere.

This only decides when there is enough text to start speaking; how it is split for the model, and
how it is read, is the server's business.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

# Shorter ones wait for the next sentence: the model speaks a lone "No." badly.
FEWEST_LETTERS = 4
# A text that never ends a sentence is cut at a clause after so many characters.
MOST_CHARACTERS = 200
# Of a text, to find a sentence's end in: a mark that ends in time, and the character after it, look
# the same in it as in the whole text; a longer row of marks is seen to end too late.
_WINDOW = MOST_CHARACTERS + 1

_CLOSERS = "\"'”’」』）)]】》〉›»"
_MARKS = ".!?。！？．…‥｡"
# What ends a sentence: a row of marks and the closing marks after it, once a character has come
# that is neither. Only that tells `3.` of `3.14` and `!` of `!”` from an end.
_END = re.compile(
    rf"(?<![{_MARKS}])(?P<marks>[{_MARKS}]+)[{re.escape(_CLOSERS)}]*"
    rf"(?=(?P<next>[^{_MARKS}{re.escape(_CLOSERS)}]))|\n",
    re.DOTALL,
)
_CLAUSE = re.compile(r"[,，、;；:：—\s]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|No|vs|cf|approx|Inc|Ltd|Co|e\.g|i\.e)$"
)
_LONGEST_ABBREVIATION = 8  # characters of `approx`, with the one before and a newline after


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
        """Add a piece; the sentences that it completes, but those with nothing to say in them."""
        text = self._text + piece
        sentences, begin = [], 0
        while (length := _sentence_length(text[begin : begin + _WINDOW])) is not None:
            sentence = text[begin : begin + length].strip()
            begin += length
            if _says_something(sentence):
                sentences.append(sentence)
        self._text = text[begin:]  # MOST_CHARACTERS at most, so a letter more costs little
        return sentences

    def flush(self) -> list[str]:
        """What is left at the end of the text, if there is anything to say in it."""
        rest, self._text = self._text.strip(), ""
        return [rest] if _says_something(rest) else []


def sentences_of(pieces: Iterable[str]) -> Iterator[str]:
    """Each sentence of a text in pieces, as soon as it is complete.

    >>> list(sentences_of(["你好。今天", "天气不错！我们", "走吧"]))
    ['你好。今天天气不错！', '我们走吧']
    """
    buffer = SentenceBuffer()
    for piece in pieces:
        yield from buffer.feed(piece)
    yield from buffer.flush()


def _sentence_length(window: str) -> int | None:
    """Characters of the first sentence, if it is complete.

    Args:
        window: the text from the sentence's begin on, _WINDOW characters of it where there are as
            many. No more are looked at, else a long text would take the square of its length.
    """
    enough = _after_letters(window)
    if enough is not None:
        for match in _END.finditer(window):
            end = match.end()
            if end > MOST_CHARACTERS:
                break
            if end >= enough and (match.group() == "\n" or _is_end(window, match)):
                return end
    return _clause(window, enough) if len(window) > MOST_CHARACTERS else None


def _clause(window: str, enough: int | None) -> int:
    """Where a text that never ends is cut: after a clause, lest a word is cut in two."""
    marks = [match.end() for match in _CLAUSE.finditer(window, 0, MOST_CHARACTERS)]
    # With hardly a letter in so many characters, what comes before the last mark is no loss.
    return next((end for end in reversed(marks) if end >= (enough or 0)), MOST_CHARACTERS)


def _is_end(text: str, match: re.Match[str]) -> bool:
    """Whether a Latin full stop, question or exclamation mark ends a sentence; others always do."""
    marks = match.group("marks")
    if not marks.isascii():
        return True
    following = match.group("next")
    if following.isascii() and not following.isspace():
        return False
    begin = max(0, match.start() - _LONGEST_ABBREVIATION)
    return marks != "." or not _ABBREVIATION.search(text, begin, match.start())


def _after_letters(text: str) -> int | None:
    """The place after the first FEWEST_LETTERS letters, or None where there are fewer."""
    letters = (place for place, character in enumerate(text, 1) if character.isalnum())
    return next(itertools.islice(letters, FEWEST_LETTERS - 1, None), None)


def _says_something(text: str) -> bool:
    return any(character.isalnum() for character in text)
