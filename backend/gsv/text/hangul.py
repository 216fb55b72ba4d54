"""Hangul letters: syllables apart, Latin letters by their Korean names."""

from __future__ import annotations

import unicodedata

# Conjoining letters (U+1100, U+1161, U+11A8 and following) as letters of their own.
_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_TAILS = "ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
_FIRST_SYLLABLE, _LAST_SYLLABLE = "가", "힣"

# The models know a diphthong as two letters.
_DIPHTHONGS = {
    "ㅘ": "ㅗㅏ",
    "ㅙ": "ㅗㅐ",
    "ㅚ": "ㅗㅣ",
    "ㅝ": "ㅜㅓ",
    "ㅞ": "ㅜㅔ",
    "ㅟ": "ㅜㅣ",
    "ㅢ": "ㅡㅣ",
    "ㅑ": "ㅣㅏ",
    "ㅒ": "ㅣㅐ",
    "ㅕ": "ㅣㅓ",
    "ㅖ": "ㅣㅔ",
    "ㅛ": "ㅣㅗ",
    "ㅠ": "ㅣㅜ",
}
_LETTERS = str.maketrans(
    {
        chr(first + index): _DIPHTHONGS.get(letter, letter)
        for first, letters in ((0x1100, _LEADS), (0x1161, _VOWELS), (0x11A8, _TAILS))
        for index, letter in enumerate(letters)
    }
    | _DIPHTHONGS
)

_NAMES = {
    "a": "에이",
    "b": "비",
    "c": "시",
    "d": "디",
    "e": "이",
    "f": "에프",
    "g": "지",
    "h": "에이치",
    "i": "아이",
    "j": "제이",
    "k": "케이",
    "l": "엘",
    "m": "엠",
    "n": "엔",
    "o": "오",
    "p": "피",
    "q": "큐",
    "r": "아르",
    "s": "에스",
    "t": "티",
    "u": "유",
    "v": "브이",
    "w": "더블유",
    "x": "엑스",
    "y": "와이",
    "z": "제트",
}
_LATIN = str.maketrans(_NAMES | {letter.upper(): name for letter, name in _NAMES.items()})


def conjoining(text: str) -> str:
    """Every precomposed syllable as two or three conjoining letters."""
    return "".join(
        unicodedata.normalize("NFD", char) if _FIRST_SYLLABLE <= char <= _LAST_SYLLABLE else char
        for char in text
    )


def letters(text: str) -> str:
    """Every syllable and conjoining letter as letters of its own, diphthongs as two."""
    return conjoining(text).translate(_LETTERS)


def spell_latin(text: str) -> str:
    """Every Latin letter as its name: KTX → 케이티엑스."""
    return text.translate(_LATIN)
