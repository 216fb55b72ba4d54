"""Numbers with their signs, currencies and units, kept whole while a sentence is segmented.

The segmenter knows digits only: it takes the sign, the percent sign or the unit for text of another
language and parts them from their number. So an expression is replaced by its first digits, which
the segmenter places by their neighbours, and is put back into the segment that they are in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from gsv.text.corrections.units import CURRENCY, DEGREE, UNIT, VULGAR
from gsv.text.types import Segment

_NUMBER = rf"(?:\d+(?:[.,]\d+)*[⁰¹²³⁴⁵⁶⁷⁸⁹]*[{''.join(VULGAR)}]?|[{''.join(VULGAR)}])"
_ITEM = (
    rf"(?:(?<![A-Za-z0-9)])[-+±])?(?:{CURRENCY}\s?-?)?{_NUMBER}"
    rf"(?:\s?[%‰]|\s?{DEGREE}|\s?{UNIT}|[万亿億萬千百만억천백]*\s?{CURRENCY})?"
)
_EXPRESSION = re.compile(rf"{_ITEM}(?:\s?[~:/×÷+=<>≤≥≠≈^-]\s?{_ITEM}|[:/.-]\d+)*")
_DIGITS = re.compile(r"\d+")


def segments_with_expressions(text: str, segments: Callable[[str], list[Segment]]) -> list[Segment]:
    """Segments of a text whose expressions are not cut.

    Args:
        text: a sentence.
        segments: the segmenter.
    """
    found: list[str] = []
    digits_of: list[str] = []

    def digits(match: re.Match[str]) -> str:
        found.append(match.group())
        first = _DIGITS.search(match.group())
        digits_of.append(first.group() if first else "1")
        return digits_of[-1]

    bare = _EXPRESSION.sub(digits, text)
    if bare == text:
        return segments(text)
    cut = segments(bare)
    if [run for segment in cut for run in _DIGITS.findall(segment.text)] != digits_of:
        return segments(text)  # two of them stand side by side
    rest = iter(found)
    return list(_restored(cut, lambda _: next(rest)))


def _restored(
    cut: Iterable[Segment], expression: Callable[[re.Match[str]], str]
) -> Iterable[Segment]:
    for segment in cut:
        yield Segment(segment.language, _DIGITS.sub(expression, segment.text))
