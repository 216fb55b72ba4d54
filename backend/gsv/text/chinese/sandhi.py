"""Tones in context, inside one word (specification, sections 7.4 and 7.5).

A word comes with one tone for each character, "1" to "5", "" for a mark. The rules change tones in
place, in the order of ``apply``; each sees the work of those before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from gsv.text.chinese.segment import Word, halves
from gsv.text.chinese.syllables import Syllable
from gsv.text.chinese.words import words

NEUTRAL = "5"
_PARTICLES = frozenset("吧呢哈啊呐噻嘛吖嗨哦哒额滴哩哟喽啰耶喔诶")
_STRUCTURAL = frozenset("的地得")
_BEFORE_GE = frozenset("几有两半多各整每做是")
_MARKS_AFTER_YI = frozenset(",.?!")  # before … and - 一 does change


def apply(word: Word, reading: Sequence[Syllable]) -> list[Syllable]:
    """The word's syllables with the tones they have in it."""
    tones = [syllable.tone for syllable in reading]
    _bu(word.text, tones)
    _yi(word.text, tones)
    _neutral(word, tones)
    _third(word.text, tones)
    spoken = [
        Syllable(syllable.initial, syllable.final, tone)
        for syllable, tone in zip(reading, tones, strict=True)
    ]
    return _erhua(word, spoken)


def _bu(word: str, tones: list[str]) -> None:
    """看不懂: neutral. 不怕: second tone before a fourth."""
    if len(word) == 3 and word[1] == "不":
        tones[1] = NEUTRAL
        return
    for index, char in enumerate(word[:-1]):
        if char == "不" and tones[index + 1] == "4":
            tones[index] = "2"


def _yi(word: str, tones: list[str]) -> None:
    """一百一: as a digit. 看一看: neutral. 第一: first tone. 一定: second; 一天: fourth."""
    if "一" not in word or all(char.isnumeric() for char in word):
        return
    if len(word) == 3 and word[1] == "一" and word[0] == word[2]:
        tones[1] = NEUTRAL
    elif word.startswith("第一"):
        tones[1] = "1"
    else:
        for index, char in enumerate(word[:-1]):
            if char != "一":
                continue
            if tones[index + 1] == "4":
                tones[index] = "2"
            elif word[index + 1] not in _MARKS_AFTER_YI:
                tones[index] = "4"


def _neutral(word: Word, tones: list[str]) -> None:
    """Syllables without a tone: repetitions, particles, suffixes, and the words of the list."""
    text = word.text
    if word.tag[:1] in {"n", "v", "a"} and text not in words().not_neutral:
        for index in range(1, len(text)):
            if text[index] == text[index - 1]:
                tones[index] = NEUTRAL
    place = _neutral_place(word)
    if place is not None:
        tones[place] = NEUTRAL
    first, second = halves(text)
    if _is_neutral(first):
        tones[len(first) - 1] = NEUTRAL
    if _is_neutral(second):
        tones[-1] = NEUTRAL


def _neutral_place(word: Word) -> int | None:
    """Index of the syllable that the word's form makes neutral; the first case that fits counts."""
    text, tag, last = word.text, word.tag, word.text[-1]
    longer = len(text) > 1
    counted = text.find("个")
    if (
        last in _PARTICLES
        or last in _STRUCTURAL
        or (text in {"了", "着", "过"} and tag in {"ul", "uz", "ug"})
        or (longer and last in "们子" and tag in {"r", "n"} and text not in words().not_neutral)
        or (longer and last in "上下里" and tag in {"s", "l", "f"})
        or (longer and last in "来去" and text[-2] in "上下进出回过起开")
    ):
        return len(text) - 1
    if text == "个" or (
        counted > 0 and (text[counted - 1].isnumeric() or text[counted - 1] in _BEFORE_GE)
    ):
        return counted
    return len(text) - 1 if _is_neutral(text) else None


def _is_neutral(text: str) -> bool:
    return text in words().neutral or text[-2:] in words().neutral


def _third(word: str, tones: list[str]) -> None:
    """A third tone before a third tone becomes a second, by the word's inner structure."""
    if len(word) == 2:
        _lift_pair(tones, 0)
    elif len(word) == 3:
        boundary = len(halves(word)[0])
        if tones == ["3", "3", "3"]:
            if boundary == 2:  # 蒙古/包
                tones[0] = tones[1] = "2"
            elif boundary == 1:  # 纸/老虎
                tones[1] = "2"
        elif boundary == 1:
            if not _lift_pair(tones, 1) and tones[0] == tones[1] == "3":  # 好/喜欢
                tones[0] = "2"
        elif boundary == 2:
            # 所有/人. A last syllable of one character is "all third tone", so it lifts nothing.
            _lift_pair(tones, 0)
    elif len(word) == 4:
        _lift_pair(tones, 0)
        _lift_pair(tones, 2)


def _lift_pair(tones: list[str], start: int) -> bool:
    lifted = tones[start : start + 2] == ["3", "3"]
    if lifted:
        tones[start] = "2"
    return lifted


def _erhua(word: Word, syllables: list[Syllable]) -> list[Syllable]:
    """儿 at the end of a word takes the tone before it; 女儿 and its like keep their own."""
    text, last = word.text, syllables[-1]
    if not (text[-1] == "儿" and last.final == "er"):
        return syllables
    tone = "2" if last.tone == "1" else last.tone
    table = words()
    own_syllable = text not in table.erhua and (
        text in table.not_erhua or word.tag in {"a", "j", "nr"}
    )
    follows = len(text) > 1 and tone in {"2", NEUTRAL} and text[-2:] not in table.not_erhua
    if follows and not own_syllable:
        tone = syllables[-2].tone
    return [*syllables[:-1], Syllable(last.initial, last.final, tone)]
