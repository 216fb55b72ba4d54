"""Mandarin syllables: readings of words, and their two symbols."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from gsv.errors import InvalidRequest
from gsv.text.chinese.words import pinyin_table
from gsv.text.symbols import UNKNOWN

# Spellings of a final after an initial, and without one, as the table has them.
_AFTER_INITIAL = {"uei": "ui", "iou": "iu", "uen": "un"}
_ALONE = {"ing": "ying", "i": "yi", "in": "yin", "u": "wu"}
_FIRST_LETTERS = {"v": "yu", "i": "y", "u": "w"}
_WRITTEN = re.compile("([a-zü:]+)([0-5])")


@dataclass(frozen=True, slots=True)
class Syllable:
    """The reading of one character: initial (may be ""), final in full spelling, tone 1–5.

    A mark has itself as final and "" as tone. A character without a usable reading has "" as final.
    """

    initial: str
    final: str
    tone: str


def mark(char: str) -> Syllable:
    """A mark in a word's list of syllables."""
    return Syllable("", char, "")


@lru_cache(maxsize=65_536)
def word_reading(word: str) -> tuple[Syllable, ...]:
    """pypinyin's reading of a word, one syllable for each character."""
    from pypinyin import Style, lazy_pinyin

    initials = lazy_pinyin(word, style=Style.INITIALS, neutral_tone_with_five=True)
    finals = lazy_pinyin(word, style=Style.FINALS_TONE3, neutral_tone_with_five=True)
    if len(initials) != len(word) or len(finals) != len(word):
        # Only for text that normalisation does not return: pypinyin keeps foreign runs whole.
        return tuple(word_reading(char)[0] for char in word) if len(word) > 1 else (mark(word),)
    return tuple(map(_syllable, initials, finals))


@lru_cache(maxsize=4_096)
def syllable(pinyin: str) -> Syllable:
    """pypinyin's analysis of a reading such as ``zhong4``."""
    from pypinyin.contrib.tone_convert import to_finals_tone3, to_initials

    final = to_finals_tone3(pinyin, neutral_tone_with_five=True)
    return _syllable(to_initials(pinyin), final)


def _syllable(initial: str, final: str) -> Syllable:
    if final and final[-1] in "12345":
        return Syllable(initial, final[:-1], final[-1])
    return mark(final)


def symbols(syllable: Syllable) -> tuple[str, ...]:
    """Initial and final symbol; one symbol for a mark, ``UNK`` where the table has no entry.

    Upstream fails on a reading outside the table (兙, 甅 and ten others of U+4E00–9FA5).
    """
    if not syllable.tone:
        return (syllable.final or UNKNOWN,)
    pair = pinyin_table().get(_spelling(syllable.initial, syllable.final))
    return (pair[0], pair[1] + syllable.tone) if pair else (UNKNOWN,)


def can_read(char: str) -> bool:
    """Whether a character has a reading that the table knows."""
    (syllable,) = word_reading(char)
    return bool(syllable.tone) and UNKNOWN not in symbols(syllable)


def _spelling(initial: str, final: str) -> str:
    if initial:
        return initial + _AFTER_INITIAL.get(final, final)
    if final in _ALONE:
        return _ALONE[final]
    return _FIRST_LETTERS.get(final[:1], final[:1]) + final[1:]


def parse_pinyin(written: str) -> Syllable:
    """A reading given by a person: ``chong2``, ``lv4`` or ``lü4``; 0 and 5 are the neutral tone.

    Raises:
        InvalidRequest: not a Mandarin syllable with a tone.
    """
    match = _WRITTEN.fullmatch(written.strip().lower())
    spelling = match.group(1).replace("u:", "v").replace("ü", "v") if match else ""
    if match is None or spelling not in pinyin_table():
        raise InvalidRequest(
            f"reading {written!r}: not a Mandarin syllable; allowed: pinyin without accents and a "
            "tone number from 1 to 5, such as chong2, lv4 or de5"
        )
    # The table is keyed by whole spellings, so the whole spelling can stand as the final: the rules
    # only look at tones, and at 儿, which is er in either notation.
    return Syllable("", spelling, match.group(2).replace("0", "5"))
