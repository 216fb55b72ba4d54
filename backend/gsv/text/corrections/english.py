"""English: what upstream's rules leave out or glue together, in forms that they read.

Numbers stay figures where upstream's normaliser reads them rightly.
"""

from __future__ import annotations

import re

from gsv.text.corrections.changes import Draft
from gsv.text.corrections.units import (
    COINS,
    CURRENCIES,
    CURRENCY,
    DEGREE,
    DEGREES,
    MIXED,
    SCALES,
    UNIT,
    UNITS,
    VULGAR,
)
from gsv.text.english.numbers import cardinal, counted, ordinal

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September"),
    *("October", "November", "December"),
)
_NUMBER = r"\d+(?:\.\d+)?"
_SCALE_WORDS = "thousand|million|billion|trillion"
_SCALE = rf"(?:\s?(?P<scale>{_SCALE_WORDS})\b|(?P<letter>k|K|M|m|mn|B|b|bn|T|tn)(?![A-Za-z0-9]))?"
_SIGN = r"(?P<sign>(?:^|(?<=[\s(]))-)?"
_MONEY_BEFORE = re.compile(
    rf"{_SIGN}(?P<unit>{CURRENCY})\s?(?P<minus>-?)(?P<amount>{_NUMBER}){_SCALE}"
)
_MONEY_AFTER = re.compile(
    rf"{_SIGN}(?<![\d.])(?P<minus>)(?P<amount>{_NUMBER}){_SCALE}\s?(?P<unit>{CURRENCY})"
)
_ISO_DATE = re.compile(
    r"(?<![\d./-])(\d{4})([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d/-])"
)
_DATE = re.compile(r"(?<![\d./-])(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?![\d/-])")
_TIME = re.compile(
    r"(?<![\d:])([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?(?![\d:])(?:\s?([AaPp])\.?\s?[Mm]\b\.?)?"
)
_HOUR = re.compile(r"(?<![\d.,:])(1[0-2]|[1-9])\s?([AaPp])\.?[Mm]\b\.?")
_TELEPHONE = re.compile(
    r"(?<![\d-])(?:\+?(\d{1,3})[-. ])?\(?(\d{3})\)?[-. ](\d{3})[-.](\d{4})(?![\d-])"
)
_DECADE = re.compile(r"(?<!\d)(['’‘]?)(\d{2}|\d{4})(['’]?)s\b")
_RANGE = re.compile(r"(?<=[\d%A-Za-z°])~(?=[-$€£¥]?\d)")
_ABOUT = re.compile(r"(?:^|(?<=[\s(]))[~≈]\s?(?=[$€£¥]?\d)")
_NEGATIVE = re.compile(r"(?:^|(?<=[\s(,;:]))-(?=[$€£¥]?\.?\d)")
_MEASURE = re.compile(rf"(?<![A-Za-z\d.])({_NUMBER})(?:\s?({DEGREE})|(\s?)({UNIT}))")
_FEET = re.compile(r"(?<![\d.])(\d{1,2})['’′]\s?(\d{1,2})(?:[\"”″]|(?![\d'’]))")
_VERSION = re.compile(r"(?<![\d.])\d+(?:\.\d+){2,}(?![\d.]*\d)")
_LOCAL_NUMBER = re.compile(r"(?<![\d-])0\d{1,4}(?:-\d{2,4}){1,3}(?![\d-])")
_LEADING_ZERO = re.compile(r"(?<![\d.,:/-])0\d+(?![\d.,:/-]*\d)")
_RATIO = re.compile(r"(?<=\d)\s?:\s?(?=\d)(?![0-5]\d\b)")
_LIST_COMMA = re.compile(r"(?<=\d),(?=\d)")
_LETTERS_AND_FIGURES = re.compile(r"(?<=[A-Za-z])(?=\d)|(?<=\d)(?=[A-Za-z])(?!(?:st|nd|rd|th)\b)")
_SIGNS = {
    "&": "and", "@": "at", "+": "plus", "=": "equals", "×": "times", "÷": "divided by",
    "±": "plus or minus", "≈": "about", "≤": "at most", "≥": "at least", "≠": "is not",
    "<": "less than", ">": "greater than", "∞": "infinity", "√": "square root of",
    "‰": "per mille", "°": "degrees", "²": "squared", "³": "cubed", "№": "number",
    "→": "to", "§": "section", "¶": "paragraph", "©": "copyright",
}  # fmt: skip
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,80}>")
_SIGN_WORD = re.compile(f"[{re.escape(''.join(_SIGNS))}]")
_NUMBER_SIGN = re.compile(r"#(?=\s?\d)")
_SHARP = re.compile(r"(?<=\b[A-G])#|(?<=\b[A-G])♯")
_HASH = re.compile("#(?=[A-Za-z])")
_PLUS_PLUS = re.compile(r"(?<=[A-Za-z])\+\+")
_LETTERS = {
    "ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O",
    "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i",
    "ħ": "h", "Ħ": "H", "ŋ": "ng", "Ŋ": "Ng", "ŧ": "t", "Ŧ": "T", "ƒ": "f", "ə": "e", "Ə": "E",
    "ĸ": "k", "ſ": "s",
}  # fmt: skip
_LATIN = re.compile(f"[{''.join(_LETTERS)}]")
_GREEK_NAMES = """
    alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma
    sigma tau upsilon phi chi psi omega
"""
_GREEK = dict(zip("αβγδεζηθικλμνξοπρςστυφχψω", _GREEK_NAMES.split(), strict=True))
_GREEK_LETTER = re.compile(
    r"(?<![\u0370-\u03ff\u1f00-\u1fff])[α-ωΑ-Ω](?![\u0370-\u03ff\u1f00-\u1fff])"
)
_DASH = re.compile(r"\s*(?:[—–―‒⸺⸻]+|(?<!-)--+)\s*")
_MARK = re.compile(r"\s*[;；：，、․‧・]|(?<=\s):|:(?!\d)|(?<!\d):")
_ELLIPSIS = re.compile(r"\s*(?:…|‥)+")
_DOT = re.compile(r"(?<=[a-z0-9]{2})\.(?=[a-z]{2})")
_QUOTE = re.compile(r"[“”„‟«»‹›\"＂「」『』]|(?<![A-Za-z])[‘’‛`´]|[‘’‛`´](?![A-Za-z])")
_KEPT = r" A-Za-z0-9'.,?!$£%°~ \-\u0300-\u036f\u00c0-\u024f"
_GLUE = re.compile(rf"(?!(?<=\d)[/:]\d)(?<=[A-Za-z0-9.,!?'])[^{_KEPT}]+(?=[A-Za-z0-9])")


def correct_english(draft: Draft) -> None:
    """Rewrite an English segment."""
    sub = draft.sub
    sub(_TAG, " ", "a tag of a page")
    sub(_DATE, _date, "a date")
    sub(_ISO_DATE, lambda m: _spoken_date(m[1], int(m[3]), int(m[4])), "a date")
    sub(_TELEPHONE, _telephone, "a telephone number")
    sub(_TIME, _time, "a time")
    sub(_HOUR, lambda m: f"{cardinal(m[1])} {m[2].lower()}.m.", "a time")
    sub(MIXED, _mixed, "a fraction")
    sub(_DECADE, _decade, "a decade")
    sub(_MONEY_BEFORE, _money, "an amount of money")
    sub(_MONEY_AFTER, _money, "an amount of money")
    sub(_MEASURE, _measure, "a unit")
    sub(_FEET, r"\1 feet \2", "feet and inches")
    sub(_VERSION, lambda m: m.group().replace(".", " point "), "a version")
    sub(_LOCAL_NUMBER, _telephone_digits, "a telephone number")
    sub(_LEADING_ZERO, lambda m: " ".join(map(cardinal, m.group())), "zeros in front")
    sub(_RATIO, " to ", "a ratio")
    sub(_LIST_COMMA, ", ", "a comma that belongs to no number")
    sub(_RANGE, " to ", "a range of numbers")
    sub(_ABOUT, "about ", "a sign")
    sub(_NEGATIVE, "negative ", "a negative number")
    sub(_NUMBER_SIGN, "number ", "a sign")
    sub(_SHARP, " sharp", "a sign")
    sub(_HASH, "hashtag ", "a sign")
    sub(_PLUS_PLUS, " plus plus", "a sign")
    sub(_SIGN_WORD, lambda m: f" {_SIGNS[m.group()]} ", "a sign")
    sub(_GREEK_LETTER, lambda m: f" {_GREEK[m.group().lower()]} ", "a Greek letter")
    sub(_LATIN, lambda m: _LETTERS[m.group()], "a letter that ASCII lacks")
    sub(_DASH, _dash, "a dash")
    sub(_ELLIPSIS, lambda m: "." if m.end() == len(m.string.rstrip()) else ",", "an ellipsis")
    sub(_MARK, ",", "a mark that upstream leaves out")
    sub(_DOT, " dot ", "an address")
    sub(_QUOTE, "", "a quotation mark")
    sub(_LETTERS_AND_FIGURES, " ", "letters and figures")
    sub(_GLUE, lambda m: " " if m.group().strip("()[]{}") else m.group(), "between two words")


def _spoken_date(year: str, month: int, day: int) -> str:
    return f"{_MONTHS[month - 1]} {ordinal(str(day))}, {counted(year)}"


def _date(match: re.Match[str]) -> str:
    """Month first, as in America, unless only the day can stand there."""
    first, second = int(match[1]), int(match[3])
    if match[2] == "." or first > 12:
        first, second = second, first
    if not (1 <= first <= 12 and 1 <= second <= 31):
        first, second = second, first
    if not (1 <= first <= 12 and 1 <= second <= 31):
        return match.group()
    return _spoken_date(match[4], first, second)


def _telephone(match: re.Match[str]) -> str:
    parts = [" ".join(cardinal(digit) for digit in part) for part in match.groups() if part]
    return ", ".join(parts)


def _telephone_digits(match: re.Match[str]) -> str:
    return ", ".join(" ".join(map(cardinal, part)) for part in match.group().split("-"))


def _time(match: re.Match[str]) -> str:
    hours, minutes, seconds, half = int(match[1]), match[2], match[3], match[4]
    if not half and not seconds and (minutes == "00" or minutes >= "10"):
        return match.group()  # as upstream reads it
    half = f"{half.lower()}.m." if half else "a.m." if hours < 12 else "p.m."
    hour = cardinal(str(hours - 12 if hours > 12 else hours))
    past = ""
    if minutes != "00" or seconds:
        past = f" oh {cardinal(minutes)}" if minutes < "10" else f" {cardinal(minutes)}"
    if seconds:
        past += f" and {cardinal(seconds)} seconds"
    elif not past and not match[4]:
        past = " o'clock"
    return f"{hour}{past} {half}"


def _mixed(match: re.Match[str]) -> str:
    above, below = VULGAR[match[2]]
    fraction = f"{above}/{below}"
    if (above, below) == (1, 2) and match[1]:
        fraction = "a half"
    return f"{match[1]} and {fraction}" if match[1] else fraction


def _decade(match: re.Match[str]) -> str:
    """1990s, '90s and 90s; upstream takes the s for seconds."""
    digits = match[2]
    if digits[-1] != "0" or (len(digits) == 2 and digits < "20"):
        return match.group()
    words = counted(digits) if len(digits) == 4 else cardinal(digits)
    if words.endswith("y"):
        return f"{words[:-1]}ies"
    return f"{words}s"


def _money(match: re.Match[str]) -> str:
    unit = CURRENCIES[match["unit"]]
    amount = match["amount"]
    negative = "negative " if match["sign"] or match["minus"] else ""
    scale = match["scale"] or (SCALES[match["letter"]] if match["letter"] else "")
    if scale:
        return f"{negative}{amount} {scale} {unit.many}"
    whole, _, decimals = amount.partition(".")
    coins = COINS.get(unit.one.split()[-1])
    if coins is None or len(decimals) > 2:
        return f"{negative}{amount} {unit.one if amount == '1' else unit.many}"
    cents = decimals.ljust(2, "0").lstrip("0") if decimals else ""
    words = [f"{whole} {unit.one if whole == '1' else unit.many}"] if whole.lstrip("0") else []
    if cents:
        words.append(f"{cents} {coins[0] if cents == '1' else coins[1]}")
    return negative + (" and ".join(words) or f"zero {unit.many}")


def _measure(match: re.Match[str]) -> str:
    amount = match[1]
    if match[2]:
        name = DEGREES[match[2]]
    else:
        if match[3] and len(match[4]) == 1:
            return match.group()  # "5 m", "2 h": as often a word of its own
        name = UNITS[match[4]]
    return f"{amount} {name.one if amount == '1' else name.many}"


def _dash(match: re.Match[str]) -> str:
    if match.start() == 0 or match.end() == len(match.string):
        return " "
    return ", "
