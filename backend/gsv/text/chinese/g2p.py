"""Spoken Mandarin text to symbols: words, readings, tones in context, symbols."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Protocol

from gsv.text.chinese import sandhi
from gsv.text.chinese.merge import merge
from gsv.text.chinese.segment import cut
from gsv.text.chinese.syllables import Syllable, parse_pinyin, symbols, word_reading
from gsv.text.symbols import MARKS
from gsv.text.types import Phonemes

_CHUNK_END = re.compile(r"(?<=[!?…,.-])")


class Reader(Protocol):
    """Something better than a dictionary at characters with several readings."""

    def read(self, text: str) -> Sequence[Syllable]:
        """One syllable for each character of a stretch between marks."""
        ...

    def correct(self, word: str, reading: Sequence[Syllable]) -> Sequence[Syllable]:
        """The word's syllables, with known corrections."""
        ...


def phonemes(
    text: str, readings: Mapping[int, str] | None = None, reader: Reader | None = None
) -> Phonemes:
    """The symbols of normalised text, two for a syllable, one for a mark.

    Args:
        text: what ``Chinese.normalize`` returned; any other character becomes ``UNK``.
        readings: index in ``text`` → pinyin with tone, which stands as it is; the tones around it
            still look at it.
        reader: reads whole stretches; without one every word is looked up by itself.

    Raises:
        InvalidRequest: a reading is not pinyin with a tone.
    """
    given = {
        index: parse_pinyin(written)
        for index, written in (readings or {}).items()
        if text[index : index + 1] not in MARKS
    }
    syllables: list[Syllable] = []
    for chunk in filter(None, _CHUNK_END.split(text)):
        start = len(syllables)
        here = {index - start: given[index] for index in given if index >= start}
        syllables += _chunk(chunk, here, reader)
    groups = [symbols(syllable) for syllable in syllables]
    return Phonemes(tuple(chain.from_iterable(groups)), tuple(map(len, groups)))


def _chunk(text: str, given: Mapping[int, Syllable], reader: Reader | None) -> list[Syllable]:
    """A stretch up to its mark; ``given``: index in it → reading that stands."""
    whole = reader.read(text) if reader else None
    syllables: list[Syllable] = []
    for word in merge(cut(text)):
        start = len(syllables)
        if reader is None or whole is None:
            reading: Sequence[Syllable] = word_reading(word.text)
        else:
            reading = reader.correct(word.text, whole[start : start + len(word.text)])
        spoken = sandhi.apply(word, _with_given(reading, start, given))
        syllables += _with_given(spoken, start, given)
    return syllables


def _with_given(
    reading: Sequence[Syllable], start: int, given: Mapping[int, Syllable]
) -> list[Syllable]:
    return [given.get(start + index, syllable) for index, syllable in enumerate(reading)]
