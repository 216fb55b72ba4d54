"""Pauses and readings that a request writes into its text.

    pause      [pause:0.8s] [pause:800ms]       0 to 10 s, ends the sentence it stands in
    pinyin     重{chong2}庆  重庆{chong2 qing4}   after Chinese characters, one syllable with tone
                                                for each; jyutping in Cantonese text
    phonemes   tomato{T AH0 M AA1 T OW0}        after an English word, ARPAbet with stress

Grammar:

    pause    = "[pause:" number ("s" | "ms") "]"
    pinyin   = character+ "{" syllable (" " syllable)* "}"      syllable = letters digit
                                                                up to 16 letters, zhuang has 6
    phonemes = word "{" phoneme (" " phoneme)* "}"              phoneme = 1 or 2 capitals [digit]

Only what has these shapes, directly after a character or a word, is markup: a syllable has a vowel
and a digit, and one phoneme at least is a stressed vowel (two capitals and a digit). All other
braces and brackets are text like any other, as upstream has it. What has the shape and can't be
read (``{chong9}``, ``[pause:soon]``) is refused with its place.

Pauses that follow each other add up; all pauses of a text may add up to 300 s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from gsv.constants import MAX_TOTAL_PAUSE
from gsv.errors import InvalidRequest, shown
from gsv.text.english.arpabet import ARPABET
from gsv.text.english.placeholders import ENGLISH_WORD

MAX_PAUSE = 10.0  # seconds

_MARKUP = re.compile(r"\[pause:([^\]\[]*)(\]?)|\{([A-Za-zü:0-9 ]+)\}")
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)(m?)s")
# Up to 16 letters with a vowel among them. To look ahead for the vowel takes as many steps as there
# are letters; to try each vowel as the first one took their square, 1.2 s for 10,000 of them.
_SYLLABLE = r"(?:(?=[a-zü:]{0,15}[aeiouvü])[a-zü:]{1,16}|hm|h?ng?|m)[0-9]"
_SYLLABLES = re.compile(rf"{_SYLLABLE}(?: +{_SYLLABLE})*")
_PHONEMES = re.compile(r"(?=.*\b[A-Z]{2}[0-9]\b)[A-Z]{1,2}[0-9]?(?: +[A-Z]{1,2}[0-9]?)*")
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
_NOT_HAN = re.compile(f"[^{_HAN}]")
_ANCHOR = re.compile(f"[A-Za-z0-9{_HAN}]")
_WORD_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'’-"


@dataclass(frozen=True, slots=True)
class Reading:
    """How one Chinese character or one English word is to be read.

    Splitting and segmenting a text change and drop marks and spaces, never Chinese characters nor
    ASCII letters and digits. So a place is counted in these, the anchors.

    Attributes:
        start, end: the anchors that the reading covers, counted from the text's first.
        phones: pinyin or jyutping of one character, or ARPAbet of a word.
        english: whether it is a word.
        position: the markup's place in the request's text, counted from 1, for messages.
    """

    start: int
    end: int
    phones: tuple[str, ...]
    english: bool
    position: int

    def counted_from(self, anchor: int) -> Reading:
        """The same reading in a text that begins at this anchor."""
        return replace(self, start=self.start - anchor, end=self.end - anchor)


@dataclass(slots=True)
class Part:
    """Text up to a pause, without markup.

    Attributes:
        text: what is to be spoken.
        readings: readings in it, by anchor.
        pause: seconds of silence after it, None at the text's end.
    """

    text: str = ""
    readings: list[Reading] = field(default_factory=list)
    pause: float | None = None


def anchors(text: str) -> list[int]:
    """Places of the characters that readings are counted by."""
    return [match.start() for match in _ANCHOR.finditer(text)]


def parse(text: str, tensor: str = "TEXT", *, pauses: bool = True) -> list[Part]:
    """Cut a text at its pauses and take the readings out of it.

    Args:
        text: the request's text.
        tensor: its name, for messages.
        pauses: whether pauses are allowed (they are not in a reference's transcript).

    Raises:
        InvalidRequest: markup that can't be read; the message gives its place.
    """
    parts = [Part()]
    count = end = 0  # anchors in the part so far; where the rest of the text begins
    for match in _MARKUP.finditer(text):
        before = text[end : match.start()]
        end = match.end()
        if match[3] is None:
            parts[-1].text += before
            parts[-1].pause = _pause(match, tensor, pauses)
            parts.append(Part())
            count = 0
            continue
        count += len(anchors(before))
        readings = _readings(before, count, match, tensor)
        if not readings:  # braces that are no markup
            before += match.group()
            count += len(anchors(match.group()))
        parts[-1].text += before
        parts[-1].readings += readings
    parts[-1].text += text[end:]
    _check_pauses(parts, tensor)
    return parts


def refuse(tensor: str, position: int, message: str) -> InvalidRequest:
    """An error about the markup at a place in the request's text."""
    return InvalidRequest(f"{tensor}: character {position}: {message}")


def _pause(match: re.Match[str], tensor: str, allowed: bool) -> float:
    position = match.start() + 1
    if not allowed:
        raise refuse(tensor, position, "a transcript has no [pause:...]; leave it out")
    duration = _DURATION.fullmatch(match[1].strip()) if match[2] else None
    seconds = float(duration[1]) / (1000 if duration[2] else 1) if duration else -1.0
    if not 0 <= seconds <= MAX_PAUSE:
        raise refuse(
            tensor,
            position,
            f"got {match.group()[:40]!r}; allowed: [pause:0.8s] or [pause:800ms], "
            f"0 to {MAX_PAUSE:g} s",
        )
    return seconds


def _check_pauses(parts: list[Part], tensor: str) -> None:
    total = sum(part.pause or 0.0 for part in parts)
    if total > MAX_TOTAL_PAUSE:
        raise InvalidRequest(
            f"{tensor}: its pauses add up to {total:g} s; allowed: up to {MAX_TOTAL_PAUSE:g} s"
        )


def _readings(before: str, count: int, match: re.Match[str], tensor: str) -> list[Reading]:
    """Readings in a pair of braces; none where the braces are text.

    Args:
        before: the text that ends where the braces open.
        count: the anchors up to there.
        match: the braces.
        tensor: the text's name, for messages.
    """
    position = match.start() + 1
    phones = tuple(match[3].split())
    last = before[-1:]
    if last and not _NOT_HAN.match(last) and _SYLLABLES.fullmatch(match[3]):
        if len(phones) > len(before) or _NOT_HAN.search(before[-len(phones) :]):
            raise refuse(
                tensor,
                position,
                f"{shown(match.group())} has {len(phones)} syllables and fewer Chinese characters "
                "before it; give one syllable for each character",
            )
        start = count - len(phones)
        return [
            Reading(anchor, anchor + 1, (phone,), english=False, position=position)
            for anchor, phone in enumerate(phones, start)
        ]
    if last.isascii() and last.isalnum() and _PHONEMES.fullmatch(match[3]):
        for phone in phones:
            if phone not in ARPABET:
                raise refuse(
                    tensor,
                    position,
                    f"{phone!r} in {shown(match.group())} is not an ARPAbet phoneme; allowed: "
                    "consonants such as K or SH, vowels with a stress from 0 to 2 such as AH0 "
                    "or IY1",
                )
        words = list(ENGLISH_WORD.finditer(before, len(before.rstrip(_WORD_LETTERS))))
        start = count - len(anchors(words[-1].group()))
        return [Reading(start, count, phones, english=True, position=position)]
    return []
