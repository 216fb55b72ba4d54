"""Korean: amounts, units, dates and signs in words, and letters that stand alone."""

from __future__ import annotations

import re

from gsv.text.corrections.changes import Draft
from gsv.text.corrections.units import (
    CURRENCIES,
    CURRENCY,
    DEGREE,
    DEGREES,
    MIXED,
    UNIT,
    UNITS,
    VULGAR,
)

_NUMBER = r"\d+(?:\.\d+)?"
_SCALE = "(?P<scale>[만억조천백]*)"
_MONEY_BEFORE = re.compile(
    rf"(?P<sign>(?<![\d)A-Za-z])-)?(?P<unit>{CURRENCY})\s?(?P<minus>-?)(?P<amount>{_NUMBER})\s?{_SCALE}원?"
)
_MONEY_AFTER = re.compile(
    rf"(?P<sign>(?<![\d)A-Za-z])-)?(?P<minus>)(?<![\d.])(?P<amount>{_NUMBER})\s?{_SCALE}\s?(?P<unit>{CURRENCY})"
)
_DATE = re.compile(r"(?<![\d./-])(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d./-])")
_TIME = re.compile(r"(?<![\d:])([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_TELEPHONE = re.compile(r"(?<![\d-])(0\d{1,2})-(\d{3,4})-(\d{4})(?![\d-])")
_FRACTION = re.compile(r"(?<![\d/.-])(\d+)/(\d+)(?![\d/])")
_MEASURE = re.compile(
    rf"(?<![A-Za-z\d.])(?P<amount>{_NUMBER})\s?(?:(?P<degree>{DEGREE})|(?P<unit>{UNIT}))"
)
_RANGE = re.compile(r"(?<=[\d%가-힣])\s?[~〜～]\s?(?=[-₩¥$€£]?\d)")
_NEGATIVE = re.compile(r"(?<![\d%)A-Za-z-])-(?=\d)")
_RATIO = re.compile(r"(?<=\d)[:：](?=\d)")
_DECIMAL = re.compile(r"(?<![\d.])(\d+)\.(\d+)(?![\d.])")
_SIGNS = {
    "%": "퍼센트", "‰": "퍼밀", "&": "앤드", "@": "골뱅이", "+": "더하기", "×": "곱하기",
    "÷": "나누기", "=": "는", "±": "플러스마이너스", "≈": "약",
    "≥": "이상", "≤": "이하", "∞": "무한대", "№": "넘버", "²": "제곱", "³": "세제곱", "#": "샵",
}  # fmt: skip
_SIGN = re.compile(f"[{re.escape(''.join(_SIGNS))}]")
_DIGIT_NAMES = str.maketrans("0123456789", "영일이삼사오육칠팔구")
_DASH = re.compile(r"\s*(?:[—–―‒]+|--+)\s*")
_ALONE = re.compile("[ㄱ-ㅎ]+|[ㅏ-ㅣ]+")
_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_CLUSTERS = {"ㄳ": "ㄱㅅ", "ㄵ": "ㄴㅈ", "ㄶ": "ㄴㅎ", "ㄺ": "ㄹㄱ", "ㄻ": "ㄹㅁ", "ㄼ": "ㄹㅂ",
             "ㄽ": "ㄹㅅ", "ㄾ": "ㄹㅌ", "ㄿ": "ㄹㅍ", "ㅀ": "ㄹㅎ", "ㅄ": "ㅂㅅ"}  # fmt: skip


def correct_korean(draft: Draft) -> None:
    """Rewrite a Korean segment."""
    sub = draft.sub
    sub(_DATE, lambda m: f"{m[1]}년 {int(m[3])}월 {int(m[4])}일", "a date")
    sub(_TELEPHONE, lambda m: ", ".join(m.groups()).translate(_DIGIT_NAMES), "a telephone number")
    sub(_TIME, _time, "a time")
    sub(MIXED, _mixed, "a fraction")
    sub(
        _FRACTION,
        lambda m: f"{m[2]}분의 {m[1].translate(_DIGIT_NAMES) if len(m[1]) == 1 else m[1]}",
        "a fraction",
    )
    sub(_MONEY_BEFORE, _money, "an amount of money")
    sub(_MONEY_AFTER, _money, "an amount of money")
    sub(_MEASURE, _measure, "a unit")
    sub(_RANGE, "에서 ", "a range of numbers")
    sub(_RATIO, "대 ", "a ratio")
    sub(_NEGATIVE, "마이너스 ", "a negative number")
    sub(_DECIMAL, lambda m: f"{m[1]}점 {m[2].translate(_DIGIT_NAMES)}", "a decimal point")
    sub(_SIGN, lambda m: _SIGNS[m.group()], "a sign")
    sub(_DASH, ", ", "a dash")
    sub(_ALONE, _syllables, "letters that are no syllable")


def _time(match: re.Match[str]) -> str:
    hours, minutes, seconds = match[1], match[2], match[3]
    words = f"{int(hours)}시"
    if minutes != "00" or seconds:
        words += f" {int(minutes)}분"
    return words + (f" {int(seconds)}초" if seconds else "")


def _mixed(match: re.Match[str]) -> str:
    above, below = VULGAR[match[2]]
    fraction = f"{below}분의 {str(above).translate(_DIGIT_NAMES)}"
    return f"{match[1]}과 {fraction}" if match[1] else fraction


def _money(match: re.Match[str]) -> str:
    negative = "마이너스 " if match["sign"] or match["minus"] else ""
    return f"{negative}{match['amount']}{match['scale']}{CURRENCIES[match['unit']].ko}"


def _measure(match: re.Match[str]) -> str:
    name = DEGREES[match["degree"]] if match["degree"] else UNITS[match["unit"]]
    return f"{match['amount']}{name.ko}"


def _syllables(match: re.Match[str]) -> str:
    """ㅋㅋ as 크크, ㅠㅠ as 유유."""
    spelled = "".join(_CLUSTERS.get(letter, letter) for letter in match.group())
    return "".join(_syllable(letter) for letter in spelled)


def _syllable(letter: str) -> str:
    if letter in _LEADS:
        return chr(0xAC00 + _LEADS.index(letter) * 588 + 18 * 28)  # with ㅡ
    return chr(0xAC00 + _LEADS.index("ㅇ") * 588 + (ord(letter) - ord("ㅏ")) * 28)
