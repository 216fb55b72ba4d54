"""Arabic numerals in Mandarin words. Arguments hold ASCII digits only."""

from __future__ import annotations

_DIGITS = "零一二三四五六七八九"
_UNITS = {1: "十", 2: "百", 3: "千", 4: "万"}
_GROUP = 8  # digits between two 亿


def digits(number: str) -> str:
    """Digit by digit: "2024" → 二零二四."""
    return "".join(_DIGITS[int(digit)] for digit in number)


def telephone(number: str) -> str:
    """Digit by digit with 幺 for 1, as numbers are dictated: "110" → 幺幺零."""
    return digits(number).replace("一", "幺")


def cardinal(number: str) -> str:
    """As a quantity: "10050" → 一万零五十, "12" → 十二, "00" → 零, "" → ""."""
    if not number:
        return ""
    stripped = number.lstrip("0")
    if not stripped:
        return _DIGITS[0]
    first = (len(stripped) - 1) % _GROUP + 1
    starts = range(first, len(stripped), _GROUP)
    groups = [stripped[:first], *(stripped[start : start + _GROUP] for start in starts)]
    words = "亿".join(_group(group) for group in groups)
    return words.removeprefix("一") if words.startswith("一十") else words


def _group(number: str) -> str:
    """At most eight digits; leading zeros before something are one 零, all zeros are nothing."""
    stripped = number.lstrip("0")
    if not stripped:
        return ""
    if len(stripped) == 1:
        return (_DIGITS[0] if len(number) > 1 else "") + _DIGITS[int(stripped)]
    power = max(power for power in _UNITS if power < len(stripped))
    return _group(number[:-power]) + _UNITS[power] + _group(number[-power:])


def number(value: str) -> str:
    """A quantity with or without a decimal part: "3.14" → 三点一四, ".5" → 零点五.

    Zeros at the end of the decimal part are read once: "3.20" → 三点二零, "3.00" → 三点零.
    """
    integer, _, decimal = value.partition(".")
    words = cardinal(integer)
    if not decimal:
        return words
    kept = decimal.rstrip("0") + ("0" if decimal.endswith("0") else "")
    return f"{words or _DIGITS[0]}点{digits(kept)}"
