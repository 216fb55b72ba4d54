"""Numbers in English words.

Word for word what the ``inflect`` package gives (upstream's choice; ``tests/text`` compares them),
without its two seconds of import and its limit: numbers too long for a name are read digit by
digit.
"""

from __future__ import annotations

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = (
    *("", "thousand", "million", "billion", "trillion", "quadrillion", "quintillion"),
    *("sextillion", "septillion", "octillion", "nonillion", "decillion"),
)
_LONGEST = 3 * len(_SCALES)  # digits that have a name

_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def _below_hundred(number: int) -> str:
    if number < 20:
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")


def _below_thousand(number: int, joint: str) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(rest)
    words = f"{_ONES[hundreds]} hundred"
    return f"{words}{joint}{_below_hundred(rest)}" if rest else words


def cardinal(digits: str, *, with_and: bool = False) -> str:
    """A whole number in words: ``one thousand, two hundred (and) thirty-four``.

    Args:
        digits: decimal digits, as many as there may be; leading zeros count for nothing.
        with_and: say "and" before what follows the hundreds.
    """
    digits = digits.lstrip("0") or "0"
    if len(digits) > _LONGEST:
        return " ".join(_ONES[int(digit)] for digit in digits)
    number = int(digits)
    if number == 0:
        return _ONES[0]
    joint = " and " if with_and else " "
    groups = []
    rest, scale = number, 0
    while rest:
        rest, group = divmod(rest, 1000)
        if group:
            words = _below_thousand(group, joint)
            groups.append(f"{words} {_SCALES[scale]}" if scale else words)
        scale += 1
    last = number % 1000
    if 0 < last < 100 and len(groups) > 1:
        groups[0:2] = [f"{groups[1]}{joint}{groups[0]}"]
    return ", ".join(reversed(groups))


def ordinal(digits: str) -> str:
    """The ordinal of a whole number in words: ``one hundred and twenty-first``."""
    words = cardinal(digits, with_and=True)
    cut = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[cut:]
    if last in _ORDINALS:
        last = _ORDINALS[last]
    elif last.endswith("y"):
        last = f"{last[:-1]}ieth"
    else:
        last = f"{last}th"
    return words[:cut] + last


def ordinal_suffix(digits: str) -> str:
    """The letters that make a number an ordinal: ``st``, ``nd``, ``rd`` or ``th``."""
    if digits[-2:] in ("11", "12", "13"):
        return "th"
    return {"1": "st", "2": "nd", "3": "rd"}.get(digits[-1], "th")


def counted(digits: str) -> str:
    """A number as it is read in running text: 1001 to 2999 like a year, others as cardinals."""
    digits = digits.lstrip("0") or "0"
    if len(digits) != 4 or not "1000" < digits < "3000" or digits == "2000":
        return cardinal(digits)
    if digits < "2010" and digits > "2000":
        return f"two thousand {cardinal(digits[2:])}"
    century = _below_hundred(int(digits[:2]))
    years = int(digits[2:])
    if years == 0:
        return f"{century} hundred"
    return f"{century} oh {_ONES[years]}" if years < 10 else f"{century} {_below_hundred(years)}"
