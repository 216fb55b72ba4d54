"""Mandarin and Cantonese: amounts, units, dates and signs that upstream's rules lose, in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from gsv.text.chinese.numbers import cardinal, digits, number
from gsv.text.chinese.words import read_data, words
from gsv.text.corrections.changes import Draft
from gsv.text.corrections.units import (
    CURRENCIES,
    CURRENCY,
    DEGREES,
    MIXED,
    UNIT,
    UNITS,
    VULGAR,
)

_NUMBER = r"\d+(?:\.\d+)?"
_SCALE = "(?P<scale>[万亿千百萬億]*)"
_MONEY_BEFORE = re.compile(
    rf"(?P<sign>(?<![\d)A-Za-z])-)?(?P<unit>{CURRENCY})\s?(?P<minus>-?)(?P<amount>{_NUMBER})\s?{_SCALE}元?"
)
_MONEY_AFTER = re.compile(
    rf"(?P<sign>(?<![\d)A-Za-z])-)?(?P<minus>)(?<![\d.])(?P<amount>{_NUMBER})\s?{_SCALE}\s?(?P<unit>{CURRENCY})"
)
_DATE = re.compile(r"(?<![\d./-])(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d./-])")
_LATE_DATE = re.compile(r"(?<![\d./-])(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?![\d./-])")
_TELEPHONE = re.compile(r"(?<![\d-])(0\d{2,3}|\+?86|400|800|1\d{2})((?:[- ]\d{3,8}){1,3})(?![\d-])")
_MEASURE = re.compile(rf"(?<![A-Za-z\d.])(?P<amount>{_NUMBER})\s?(?P<unit>{UNIT})")
_FAHRENHEIT = re.compile(rf"(?P<sign>(?<![\d)])-)?(?P<amount>{_NUMBER})\s?°F")
_DEGREE = re.compile(rf"(?P<amount>{_NUMBER})\s?°")
_CELSIUS = re.compile(rf"(?P<sign>(?<![\d)])-)?(?P<amount>{_NUMBER})\s?°C")
_DEGREE_RANGE = re.compile(r"(?<=°C)\s?~\s?(?=-?\d)")
_QUANTITY = re.compile(
    r"(?<![\d.])\d{7,}(?=[多余几+]?(?:" + "|".join(map(re.escape, words().measure_words)) + "))"
)
_PER_MILLE = re.compile(rf"(?P<sign>(?<![\d)])-)?(?P<amount>{_NUMBER})\s?‰")
_SPACED_PERCENT = re.compile(r"(?<=\d)\s(?=%)")
_NEGATIVE = re.compile(
    rf"(?<![\d%)A-Za-z°℃-])-(?P<amount>{_NUMBER})(?![\d.]*\s?(?:°|℃|度|摄氏度|%|/))"
)
# ~ between two temperatures, shares or times is read by the rules that follow.
_RANGE = re.compile(r"(?<=\d)\s?~\s?(?=[-¥$€£]?\d)")
_HYPHEN_RANGE = re.compile(
    rf"(?<![\d.:/+×÷=A-Za-z-])({_NUMBER})-({_NUMBER})(?=%|[\u3400-\u9fff])(?!年)"
)
_RATIO = re.compile(r"(?<=\d)[:∶](?=\d)(?![0-5]\d(?!\d))")
_CLOCK = re.compile(r"\d:\d\d(?::\d\d)?\s?$")
_COMPARISONS = {
    "≥": "大于等于", "≤": "小于等于", "≠": "不等于", "≈": "约等于", "±": "正负", "∞": "无穷大",
    "√": "根号", "＞": "大于", "＜": "小于", "&": "和", "＆": "和", "№": "第", "§": "第",
    "→": "到", "∶": "比", "×": "乘", "÷": "除以",
}  # fmt: skip
_COMPARISON = re.compile(f"[{''.join(_COMPARISONS)}]")
_BETWEEN_NUMBERS = {">": "大于", "<": "小于", "*": "乘", "@": "艾特", "=": "等于"}
_OPERATOR = re.compile(r"(?<=[\d)])\s?([><*=])\s?(?=-?\d)")
_ODD_HAN = re.compile("[\u3400-\u4dbf\ufa0e-\ufa29\U00020000-\U000323af]")
_REPEATED = re.compile("([\u3400-\u9fff\U00020000-\U000323af])([々〻]+)")


def correct_chinese(draft: Draft, reads: Callable[[str], bool]) -> None:
    """Rewrite a Mandarin or Cantonese segment.

    Args:
        draft: the segment.
        reads: whether a character by itself has a reading.
    """
    sub = draft.sub
    sub(_ODD_HAN, lambda m: _form(m.group(), reads), "another form of the character")
    sub(_REPEATED, lambda m: m[1] + m[1] * len(m[2]), "an iteration mark")
    sub(_DATE, lambda m: f"{digits(m[1])}年{cardinal(m[3])}月{cardinal(m[4])}日", "a date")
    sub(_LATE_DATE, _late_date, "a date")
    sub(_TELEPHONE, _telephone, "a telephone number")
    sub(MIXED, _mixed, "a fraction")
    sub(_MONEY_BEFORE, _money, "an amount of money")
    sub(_MONEY_AFTER, _money, "an amount of money")
    sub(_DEGREE_RANGE, "至", "a range")
    sub(_CELSIUS, lambda m: f"{_sign(m)}{number(m['amount'])}度", "a temperature")
    sub(_FAHRENHEIT, lambda m: f"{_sign(m)}{_amount(m['amount'])}华氏度", "a temperature")
    sub(_DEGREE, lambda m: f"{number(m['amount'])}{DEGREES['°'].zh}", "a sign")
    sub(_PER_MILLE, lambda m: f"{_sign(m)}千分之{number(m['amount'])}", "a share")
    sub(_SPACED_PERCENT, "", "a share")
    sub(_MEASURE, lambda m: f"{_amount(m['amount'])}{UNITS[m['unit']].zh}", "a unit")
    sub(_RANGE, lambda m: "~" if _CLOCK.search(m.string[: m.start()]) else "到", "a range")
    sub(_HYPHEN_RANGE, _hyphen_range, "a range")
    sub(_NEGATIVE, lambda m: f"负{number(m['amount'])}", "a negative number")
    sub(_RATIO, "比", "a ratio")
    sub(_QUANTITY, lambda m: cardinal(m.group()), "an amount, not a telephone number")
    sub(_OPERATOR, lambda m: _BETWEEN_NUMBERS[m[1]], "a sign")
    sub(_COMPARISON, lambda m: _COMPARISONS[m.group()], "a sign")


def _form(char: str, reads: Callable[[str], bool]) -> str:
    form = _forms().get(char)
    return form if form and not reads(char) and reads(form) else char


@cache
def _forms() -> dict[str, str]:
    forms: dict[str, str] = read_data("japanese_variants.json")["forms"]
    return forms


def _sign(match: re.Match[str]) -> str:
    return "零下" if match["sign"] and "°" in match.group() else "负" if match["sign"] else ""


def _amount(value: str) -> str:
    """As a quantity: 两 for 2, as before measure words."""
    return "两" if value == "2" else number(value)


def _late_date(match: re.Match[str]) -> str:
    """Day or month first; only one that can be no month is the day."""
    first, second = int(match[1]), int(match[3])
    if first > 12:
        first, second = second, first
    if not (1 <= first <= 12 and 1 <= second <= 31):
        return match.group()
    return f"{digits(match[4])}年{cardinal(str(first))}月{cardinal(str(second))}日"


def _telephone(match: re.Match[str]) -> str:
    parts = re.split("[- ]", match.group().lstrip("+"))
    return "，".join(digits(part).replace("一", "幺") for part in parts)


def _mixed(match: re.Match[str]) -> str:
    above, below = VULGAR[match[2]]
    fraction = f"{cardinal(str(below))}分之{cardinal(str(above))}"
    return f"{cardinal(match[1])}又{fraction}" if match[1] else fraction


def _money(match: re.Match[str]) -> str:
    negative = "负" if match["sign"] or match["minus"] else ""
    amount = _amount(match["amount"]) if not match["scale"] else number(match["amount"])
    return f"{negative}{amount}{match['scale']}{CURRENCIES[match['unit']].zh}"


def _hyphen_range(match: re.Match[str]) -> str:
    low, high = match[1], match[2]
    if float(low) >= float(high) or low.startswith("0"):
        return match.group()
    return f"{low}到{high}"
