"""English as it is spoken: numbers, times, units and money in words, letters and marks only.

The steps and their order are upstream's, with what they get wrong: acronyms are spelled, "km/h"
loses its slash, most full-width marks vanish. The models have been used with these readings; the
table of what is done differently is ``gsv.text.deviations``.
"""

from __future__ import annotations

import re
import unicodedata
from functools import partial

from gsv.text.english.numbers import cardinal, counted, ordinal, ordinal_suffix

# Upstream means to map marks by these patterns but looks for the patterns' own text, so only
# single-character entries ever match; the two literal ones are kept for the sake of equality.
_MARKS = {"[;:：，；]": ",", '["’]': "'", "。": ".", "！": "!", "？": "?"}
_MARK = re.compile("|".join(re.escape(mark) for mark in _MARKS))

# A look-behind for a digit, below, changes no match: it spares the search the tails of a number
# whose whole did not match, which would take quadratic time.
_LIST_NUMBER = re.compile(r"\b([0-9]+)\. ")
_POWERS = "[⁰¹²³⁴⁵⁶⁷⁸⁹ˣʸⁿ]*"
_OPERAND = rf"(?:-?(?<!\d)\d+(?:\.\d+)?|\.\d+|[A-Za-z]){_POWERS}"
_ARITHMETIC = re.compile(rf"({_OPERAND})\s+([+\-×÷=])\s+({_OPERAND})")
_OPERATORS = {"+": "plus", "-": "minus", "×": "times", "÷": "divided by", "=": "Equals"}
_NEGATIVE = re.compile(r"(?:^|\s+)-(\d+)")
_THOUSANDS = re.compile(r"[0-9][0-9,]+[0-9]")
_TIME = re.compile(r"\b([01]?[0-9]|2[0-3]):([0-5][0-9])\b")
_UNITS = {
    "m": ("meter", "meters"),
    "km": ("kilometer", "kilometers"),
    "ft": ("feet", "feet"),
    "L": ("liter", "liters"),
    "tbsp": ("tablespoon", "tablespoons"),
    "tsp": ("teaspoon", "teaspoons"),
    "h": ("hour", "hours"),
    "min": ("minute", "minutes"),
    "s": ("second", "seconds"),
    "°C": ("degree celsius", "degrees celsius"),
    "°F": ("degree fahrenheit", "degrees fahrenheit"),
}
_MEASURE = re.compile(rf"\b([0-9]+)(\.[0-9]+)?({'|'.join(_UNITS)})\b")
_AMOUNT = r"(?<![0-9.,])([0-9.,]*[0-9])"
_MONEY = (
    (re.compile("£" + _AMOUNT), "pound", "penny", "pence"),
    (re.compile(_AMOUNT + "£"), "pound", "penny", "pence"),
    (re.compile(r"\$" + _AMOUNT), "dollar", "cent", "cents"),
    (re.compile(_AMOUNT + r"\$"), "dollar", "cent", "cents"),
)
_DECIMAL = re.compile(r"(?<![0-9])([0-9]+)\.(\s*[0-9]+)")
_FRACTION = re.compile(r"(?<![0-9])([0-9]+)/([0-9]+)")
_ORDINAL = re.compile(r"(?<![0-9])([0-9]+)(?:st|nd|rd|th)")
_NUMBER = re.compile(r"[0-9]+")
_UNSPOKEN = re.compile(r"[^ A-Za-z'.,?!-]")
_THAT_IS = re.compile(r"i\.e\.", re.IGNORECASE)
_FOR_EXAMPLE = re.compile(r"e\.g\.", re.IGNORECASE)
_INNER_CAPITAL = re.compile(r"(?<=\S)([A-Z])")
_MARK_RUN = re.compile(r"([!?…,.\-\s])[!?…,.-]+")


def normalize(text: str) -> str:
    """English text as letters, apostrophes, spaces and the marks ``. , ? ! -``."""
    text = _MARK.sub(lambda mark: _MARKS[mark.group()], text)
    text = _spell_numbers(text)
    text = unicodedata.normalize("NFD", text)  # accents become marks of their own, dropped below
    text = _UNSPOKEN.sub("", text.replace("%", " percent"))
    text = _FOR_EXAMPLE.sub("for example", _THAT_IS.sub("that is", text))
    text = _INNER_CAPITAL.sub(r" \1", text)
    return _MARK_RUN.sub(r"\1", text)


def _spell_numbers(text: str) -> str:
    text = _LIST_NUMBER.sub(lambda m: f"{m[1]}{ordinal_suffix(m[1])}, ", text)
    while True:
        spelled = _ARITHMETIC.sub(lambda m: f"{m[1]} {_OPERATORS[m[2]]} {m[3]}", text)
        if spelled == text:
            break
        text = spelled
    text = _NEGATIVE.sub(r"negative \1", text)
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = _TIME.sub(_time, text)
    text = _MEASURE.sub(_measure, text)
    for pattern, unit, coin, coins in _MONEY:
        text = pattern.sub(partial(_money, unit, coin, coins), text)
    text = _DECIMAL.sub(lambda m: f"{m[1]} point {' '.join(m[2])}", text)
    text = _FRACTION.sub(_fraction, text)
    text = _ORDINAL.sub(lambda m: ordinal(m[1]), text)
    return _NUMBER.sub(lambda m: counted(m[0]), text)


def _time(match: re.Match[str]) -> str:
    """Twelve-hour time; midnight is "zero o'clock a.m.", as upstream has it."""
    hours, minutes = int(match[1]), int(match[2])
    half = "a.m." if hours < 12 else "p.m."
    hour = cardinal(str(hours - 12 if hours > 12 else hours))
    past = cardinal(str(minutes)) if minutes else "o'clock"
    return f"{hour} {past} {half}"


def _measure(match: re.Match[str]) -> str:
    whole, decimals, unit = match.groups()
    one, many = _UNITS[unit]
    singular = decimals is None and whole.lstrip("0") == "1"
    return f"{whole}{decimals or ''} {one if singular else many}"


def _money(unit: str, coin: str, coins: str, match: re.Match[str]) -> str:
    """Figures with the words between them; the figures become words later."""
    parts = match[1].replace(",", "").split(".")
    if len(parts) > 2:
        return f"{match[1]} {unit}s"
    whole = parts[0].lstrip("0")
    fraction = parts[1].ljust(2, "0").lstrip("0") if len(parts) > 1 and parts[1] else ""
    words = []
    if whole:
        words.append(f"{whole} {unit if whole == '1' else unit + 's'}")
    if fraction:
        words.append(f"{fraction} {coin if fraction == '1' else coins}")
    return " and ".join(words) or f"zero {unit}s"


def _fraction(match: re.Match[str]) -> str:
    numerator, denominator = match[1].lstrip("0"), match[2].lstrip("0")
    words = cardinal(numerator, with_and=True)
    if denominator == "1":
        return words
    if denominator == "2":
        return f"{words} {'half' if numerator == '1' else 'halves'}"
    many = numerator not in ("", "1")
    return f"{words} {ordinal(denominator)}{'s' if many else ''}"
