"""Words and their part-of-speech tags, from jieba."""

from __future__ import annotations

import io
import sys
import threading
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from gsv.text.chinese.viterbi import Viterbi

_LOADING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its tag in jieba's notation (``v``, ``n``, ``r`` …; marks have ``x`` or ``m``)."""

    text: str
    tag: str


@dataclass(frozen=True)
class Dictionary:
    """jieba's dictionary in jieba's own form.

    Attributes:
        frequencies: of every word; 0 for what only begins words.
        total: the sum over the dictionary's lines.
        tags: of every word.
    """

    frequencies: dict[str, int]
    total: int
    tags: dict[str, str]


def read_dictionary(content: bytes) -> Dictionary:
    """The dictionary of a file's lines of word, frequency and tag.

    jieba reads the file twice, line by line, in three times the time.
    """
    fields = content.decode("utf-8").split()
    words, counts = fields[0::3], list(map(int, fields[1::3]))
    beginnings = {word[:end] for word in words for end in range(1, len(word))}
    frequencies = {**dict.fromkeys(beginnings, 0), **dict(zip(words, counts, strict=True))}
    tags = dict(zip(words, map(sys.intern, fields[2::3]), strict=True))
    return Dictionary(frequencies, sum(counts), tags)


@cache
def _dictionary() -> Dictionary:
    import jieba

    with jieba.dt.get_dict_file() as file:
        return read_dictionary(file.read())


@cache
def _tokenizer() -> Any:
    """jieba's own default tokenizer, its dictionary loaded from the package.

    Left to itself jieba loads on first use, by way of a cache file in the common temporary folder
    and with log lines on stderr. Loading it here needs neither.
    """
    with _LOADING:
        import jieba

        if not jieba.dt.initialized:
            jieba.dt.FREQ, jieba.dt.total = _dictionary().frequencies, _dictionary().total
            jieba.dt.initialized = True
        return jieba.dt


@cache
def _tagger() -> Any:
    """jieba's tagger, with a faster search in the place of its own.

    The replacement holds for the whole process; whoever else uses jieba gets the same answers.
    """
    tokenizer = _tokenizer()
    with _LOADING:
        if "jieba.posseg" in sys.modules:
            from jieba import posseg
        else:
            # Its import would read the dictionary once more.
            tokenizer.get_dict_file = io.BytesIO
            try:
                from jieba import posseg
            finally:
                del tokenizer.get_dict_file
            posseg.dt.word_tag_tab = _dictionary().tags
        posseg.viterbi = Viterbi(posseg.trans_P)
        return posseg.dt


def load() -> None:
    """Read the dictionaries now rather than at the first sentence."""
    _tagger()


def cut(text: str) -> list[Word]:
    """The words of a text without line breaks, tagged."""
    return [Word(pair.word, pair.flag) for pair in _tagger().lcut(text)]


@lru_cache(maxsize=65_536)
def halves(word: str) -> tuple[str, str]:
    """A word as its shortest dictionary sub-word and the rest, in their order; the rest may be "".

    When the sub-word stands inside, the first half is the word less the sub-word's *length* at the
    end, and the sub-word is taken as the second half: as upstream does, so that lengths add up.
    """
    shortest = min(_tokenizer().cut_for_search(word), key=len)
    if word.startswith(shortest):
        return shortest, word[len(shortest) :]
    return word[: -len(shortest)], shortest
