"""Cantonese: Mandarin's sentence normaliser with its own marks, and jyutping from ToJyutping.

As in the models' own frontend, numbers become Mandarin-style characters and runs of marks are not
collapsed. It goes its own way where that one fails or drops a syllable:

- a character without a reading (讠, 钅 and other radicals) is ``UNK``; upstream raises;
- a character with two syllables (卅 saa1 aa6) has four symbols; upstream makes one broken syllable;
- what ``gsv.text.chinese`` says of digits, time ranges and simplification holds here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from gsv.errors import InvalidRequest
from gsv.text.aligned import AlignedText
from gsv.text.chinese.lexicon import SyllableLexicon
from gsv.text.chinese.normalize import CANTONESE_MARKS, spoken
from gsv.text.chinese.simplify import Simplifier
from gsv.text.symbols import MARKS, UNKNOWN, is_symbol
from gsv.text.types import Phonemes

_SYLLABLE = re.compile("([a-z]+)([1-6])")

# What the models call an initial. Many are rather finals, and the first that fits counts even where
# a later one is longer ("k" syllables that begin with "kw", "aa" before "aai").
_INITIAL = re.compile(
    "aa|aai|aak|aap|aat|aau|ai|au|ap|at|ak|a|p|b|e|ts|t|dz|d|kw|k|gw|g|f|h|l|m|ng|n|s|y|w|c|z|j|"
    "ong|on|ou|oi|ok|o|uk|ung"
)


class Cantonese:
    """Cantonese. Dictionaries are read at first use; methods may be called from any thread.

    Args:
        data: the frontend's data folder, which may hold ``simplified.json`` (the reference's own
            character table).
    """

    def __init__(self, data: Path | None = None) -> None:
        self._data = data

    def load(self) -> None:
        """Read the dictionaries now; ConfigurationError when a data file is not as it should be."""
        _converter()
        _ = self._simplifier

    def normalize(self, text: str) -> str:
        """The text in words: U+4E00–9FA5 and ``! ? … , . -`` only."""
        return self.normalize_with_offsets(text)[0]

    def normalize_with_offsets(
        self, text: str | AlignedText, *, all_characters: bool = False
    ) -> tuple[str, tuple[int, ...]]:
        """As ``normalize``, and where each character stood (``Chinese.normalize_with_offsets``)."""
        aligned = AlignedText.of(text) if isinstance(text, str) else text
        readable = can_read if all_characters else None
        result = spoken(aligned, self._simplifier, CANTONESE_MARKS, readable)
        return result.text, result.sources

    def reads(self, char: str, *, all_characters: bool = False) -> bool:
        """Whether a character by itself is read; digits and signs in words are."""
        written, _ = self.normalize_with_offsets(char, all_characters=all_characters)
        return any(UNKNOWN not in self.phonemes(c).symbols for c in written if c not in MARKS)

    def phonemes(
        self,
        normalized: str,
        readings: Mapping[int, str] | None = None,
        lexicon: SyllableLexicon | None = None,
    ) -> Phonemes:
        """The symbols of text that ``normalize`` returned, two for a syllable, one for a mark.

        Args:
            normalized: the text; any other character becomes ``UNK``.
            readings: index in it → jyutping (``hoeng1``); a place outside the text, or at a mark,
                is ignored.
            lexicon: words whose readings are taken likewise, where ``readings`` says nothing.

        Raises:
            InvalidRequest: a reading is not jyutping.
        """
        fixed = {**(lexicon.readings(normalized) if lexicon else {}), **(readings or {})}
        given = {index: parse_jyutping(reading) for index, reading in fixed.items()}
        found = _converter().get_jyutping_list(normalized)
        groups = [
            given[index] if index in given and char not in MARKS else _symbols(char, reading)
            for index, (char, reading) in enumerate(found)
        ]
        return Phonemes(tuple(chain.from_iterable(groups)), tuple(map(len, groups)))

    def lexicon(self, words: Mapping[str, Sequence[str]]) -> SyllableLexicon:
        """Words and their readings (``{"香港": ("hoeng1", "gong2")}``), checked.

        Raises:
            ConfigurationError: a word has too few or too many readings, or a reading is not
                jyutping.
        """
        return SyllableLexicon(words, self._simplifier.simplify_text, parse_jyutping)

    @cached_property
    def _simplifier(self) -> Simplifier:
        return Simplifier(self._data)


@cache
def _converter() -> Any:
    import ToJyutping  # reads its dictionary on import

    return ToJyutping


def can_read(char: str) -> bool:
    """Whether a character has a reading in Cantonese."""
    ((_, reading),) = _converter().get_jyutping_list(char) or ((char, None),)
    return bool(reading) and UNKNOWN not in _symbols(char, reading)


def _symbols(char: str, reading: str | None) -> tuple[str, ...]:
    if char in MARKS:
        return (char,)
    if not reading:
        return (UNKNOWN,)
    return tuple(chain.from_iterable(map(_syllable_symbols, reading.split())))


def _syllable_symbols(syllable: str) -> tuple[str, ...]:
    """``hoeng1`` → Yh Yoeng1; ``UNK`` for a syllable that no initial fits."""
    match = _SYLLABLE.fullmatch(syllable)
    if match is None:
        return (UNKNOWN,)
    sound, tone = match.groups()
    found = _INITIAL.match(sound)
    if found is None:
        return (UNKNOWN,)
    initial = found.group()
    return (f"Y{initial}", f"Y{sound[len(initial) :] or initial[-1]}{tone}")


def parse_jyutping(written: str) -> tuple[str, ...]:
    """The two symbols of a reading given by a person: ``hoeng1``.

    Raises:
        InvalidRequest: not a Cantonese syllable with a tone.
    """
    symbols = _syllable_symbols(written.strip().lower())
    if not all(map(is_symbol, symbols)) or symbols == (UNKNOWN,):
        raise InvalidRequest(
            f"reading {written!r}: not a Cantonese syllable; allowed: jyutping with a tone number "
            "from 1 to 6, such as hoeng1 or m4"
        )
    return symbols
