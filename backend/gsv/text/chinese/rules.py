"""Numbers, dates, units and signs in Mandarin words: an ordered list of replacements.

Each rule sees what the rules before it left, so the order is part of the behaviour: arithmetic
comes before telephone numbers and ranges, which therefore read their hyphens as 减. The order and
the patterns are those of the models' own frontend (specification, section 7.1), with one
correction: in a time range 半 is said of the time whose minutes are 30; upstream looks at the
first time for both, and so says 8:30-9:15 as 八点半至九点半.

A pattern that begins with a run of digits starts at the run's beginning (``_RUN``). Starting
inside a run never finds more, and makes long numbers take quadratic time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from gsv.text.aligned import AlignedText
from gsv.text.chinese.numbers import cardinal, digits, number, telephone
from gsv.text.chinese.words import words

Match: TypeAlias = "re.Match[str]"

_RUN = r"(?<![0-9])[0-9]+"
_DECIMAL = rf"{_RUN}(?:\.[0-9]+)?"
_POWERS = "⁰¹²³⁴⁵⁶⁷⁸⁹ˣʸⁿ"
_POWER_NAMES = dict(zip(_POWERS, "0123456789xyn", strict=True))
_OPERATORS = {"+": "加", "-": "减", "×": "乘", "÷": "除", "=": "等于"}
_TEMPERATURE = "°C|℃|度|摄氏度"


@dataclass(frozen=True)
class Rule:
    """Replace what the pattern finds; ``repeat``: again, until nothing is found."""

    pattern: re.Pattern[str]
    spoken: Callable[[Match], str]
    repeat: bool = False

    def apply(self, text: AlignedText) -> AlignedText:
        """The text with every match spoken."""
        spoken = text.sub(self.pattern, self.spoken)
        while self.repeat and spoken is not text:
            text, spoken = spoken, spoken.sub(self.pattern, self.spoken)
        return spoken


def _date(match: Match) -> str:
    year, month, day, day_word = match.group("year", "month", "day", "day_word")
    spoken = f"{digits(year)}年"
    if month:
        spoken += f"{cardinal(month)}月"
    if day:
        spoken += f"{cardinal(day)}{day_word}"
    return spoken


def _numeric_date(match: Match) -> str:
    year, month, day = match.group("year", "month", "day")
    return f"{digits(year)}年{cardinal(month)}月{cardinal(day)}日"


_CLOCK = r"(?P<hour{0}>2[0-3]|[01]?[0-9]):(?P<minute{0}>[0-5][0-9])(?::(?P<second{0}>[0-5][0-9]))?"


def _clock(match: Match, which: str = "", half: bool = True) -> str:
    hour = match.group(f"hour{which}")
    minute = match.group(f"minute{which}")
    second = match.group(f"second{which}")
    spoken = f"{cardinal(hour)}点"
    if minute != "00":
        spoken += "半" if half and minute == "30" else f"{_two_digits(minute)}分"
    if second and second != "00":
        spoken += f"{_two_digits(second)}秒"
    return spoken


def _two_digits(value: str) -> str:
    return ("零" if value.startswith("0") else "") + cardinal(value)


def _clock_range(match: Match) -> str:
    # 三十分 in the second time unless both have it: as upstream, and as right as 半.
    both = match.group("minute") == "30"
    return f"{_clock(match)}至{_clock(match, '_to', half=both)}"


def _temperature(match: Match) -> str:
    return f"{'零下' if match.group('sign') else ''}{number(match.group('value'))}度"


def _arithmetic(match: Match) -> str:
    return f"{match.group('left')}{_OPERATORS[match.group('sign')]}{match.group('right')}"


def _power(match: Match) -> str:
    return f"的{''.join(_POWER_NAMES[char] for char in match.group())}次方"


def _negative(match: Match) -> str:
    return "负" if match.group("sign") else ""


def _fraction(match: Match) -> str:
    above, below = match.group("above", "below")
    return f"{_negative(match)}{number(below)}分之{number(above)}"


def _percentage(match: Match) -> str:
    return f"{_negative(match)}百分之{number(match.group('value'))}"


def _mobile(match: Match) -> str:
    return "，".join(telephone(part) for part in match.group().strip("+").split())


def _landline(match: Match) -> str:
    return "，".join(telephone(part) for part in match.group().split("-"))


def _range(match: Match) -> str:
    def bound(value: str) -> str:
        return ("负" if value.startswith("-") else "") + number(value.removeprefix("-"))

    return f"{bound(match.group('low'))}到{bound(match.group('high'))}"


def _signed(match: Match) -> str:
    if fraction := match.group("fraction"):
        return number(fraction)
    return f"{_negative(match)}{number(match.group('value'))}"


def _version(match: Match) -> str:
    return "点".join(digits(part) for part in match.group().split("."))


def _counted(match: Match) -> str:
    amount = cardinal(match.group("amount"))
    more = match.group("more") or ""
    return f"{'两' if amount == '二' else amount}{'多' if more == '+' else more}"


@cache
def rules() -> tuple[Rule, ...]:
    """The rules, in order."""
    tables = words()
    units = "|".join(map(re.escape, tables.units))
    quantity = rf"(?:-?{_DECIMAL}|\.[0-9]+)"
    range_unit = "|".join(("%", _TEMPERATURE, *map(re.escape, tables.range_units)))
    operand = rf"(?:-?{_DECIMAL}[{_POWERS}]*|\.[0-9]+[{_POWERS}]*|[A-Za-z][{_POWERS}]*)"
    signed = rf"(?P<sign>-?)(?P<value>{_DECIMAL})"
    symbols = "".join(map(re.escape, tables.symbols))
    return (
        Rule(
            re.compile(
                r"(?P<year>[0-9]{4}|[0-9]{2})年"
                r"(?:(?P<month>0?[1-9]|1[0-2])月)?"
                r"(?:(?P<day>0?[1-9]|[12][0-9]|30|31)(?P<day_word>[日号]))?"
            ),
            _date,
        ),
        Rule(
            re.compile(
                r"(?P<year>[0-9]{4})(?P<mark>[-/.])(?P<month>0[1-9]|1[0-2])"
                r"(?P=mark)(?P<day>0[1-9]|[12][0-9]|3[01])"
            ),
            _numeric_date,
        ),
        Rule(re.compile(rf"{_CLOCK.format('')}[~-]{_CLOCK.format('_to')}"), _clock_range),
        Rule(re.compile(_CLOCK.format("")), _clock),
        Rule(
            re.compile(rf"{quantity}(?:{range_unit})~{quantity}(?:{range_unit})"),
            lambda match: match.group().replace("~", "至"),
        ),
        Rule(re.compile(rf"{signed}(?:{_TEMPERATURE})"), _temperature),
        Rule(re.compile(units), lambda match: tables.units[match.group()]),
        Rule(
            re.compile(rf"(?P<left>{operand})(?P<sign>[-+×÷=])(?P<right>{operand})"),
            _arithmetic,
            repeat=True,
        ),
        Rule(re.compile(f"[{_POWERS}]+"), _power),
        Rule(re.compile(rf"(?P<sign>-?)(?P<above>{_RUN})/(?P<below>[0-9]+)"), _fraction),
        Rule(re.compile(f"{signed}%"), _percentage),
        Rule(
            re.compile(
                r"(?<![0-9])(?:\+?86 ?)?1(?:[38][0-9]|5[0-35-9]|7[678]|9[89])[0-9]{8}(?![0-9])"
            ),
            _mobile,
        ),
        Rule(
            re.compile(r"(?<![0-9])(?:0(?:10|2[1-3]|[3-9][0-9]{2})-?)?[1-9][0-9]{6,7}(?![0-9])"),
            _landline,
        ),
        Rule(re.compile(r"400-?[0-9]{3}-?[0-9]{4}"), _landline),
        Rule(
            re.compile(
                rf"(?<![-0-9+×÷=])(?P<low>-?{_DECIMAL})[-~](?P<high>-?{_DECIMAL})(?![-0-9+×÷=])"
            ),
            _range,
        ),
        Rule(re.compile(r"-(?P<value>[0-9]+)"), lambda match: f"负{number(match.group('value'))}"),
        Rule(re.compile(rf"{_RUN}(?:\.[0-9]+){{2,}}"), _version),
        Rule(
            re.compile(rf"(?P<sign>-?)(?P<value>{_RUN}\.[0-9]+)|(?P<fraction>\.[0-9]+)"),
            _signed,
        ),
        Rule(
            re.compile(
                rf"(?P<amount>{_RUN})(?P<more>[多余几+]?)"
                rf"(?={'|'.join(map(re.escape, tables.measure_words))})"
            ),
            _counted,
        ),
        Rule(re.compile(r"[0-9]{3,}"), lambda match: telephone(match.group())),
        Rule(re.compile(rf"{signed}|(?P<fraction>\.[0-9]+)"), _signed),
        Rule(re.compile(f"[{symbols}]"), lambda match: tables.symbols[match.group()]),
    )
