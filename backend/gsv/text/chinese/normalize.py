"""Chinese text as it is spoken, for Mandarin and, with its own marks, for Cantonese.

The text is cut into pieces after each mark, each piece goes through simplification and the rules,
then marks are mapped to the few that have a symbol and everything but those and U+4E00–9FA5 is
deleted: Latin text in a Chinese segment is not read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping

from gsv.text.aligned import AlignedText
from gsv.text.chinese.rules import rules
from gsv.text.chinese.simplify import Simplifier

_NOT_READ = dict.fromkeys(" —《》【】<>{}()（）#&@“”^_|\\", "")
_PIECE_END = re.compile("[：、，；。？！,;?!]’?")
_LINE_ENDS = re.compile("\n+")
_ELLIPSIS = re.compile(r"\.\.\.")
_NOT_KEPT = re.compile("[^一-龥!?…,.-]+")
HAN = re.compile("[〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_REPEATED_MARKS = re.compile("([!?…,.-])[!?…,.-]+")

_MARKS = {
    "：": ",",
    "；": ",",
    "，": ",",
    "·": ",",
    "、": ",",
    "。": ".",
    "$": ".",
    "！": "!",
    "？": "?",
}
MANDARIN_MARKS = {**_MARKS, "/": ",", "~": "…", "～": "…", "嗯": "恩", "呣": "母"}
CANTONESE_MARKS = {**_MARKS, "~": "-", "～": "-"}


def spoken(
    text: AlignedText,
    simplifier: Simplifier,
    marks: Mapping[str, str],
    readable: Callable[[str], bool] | None = None,
) -> AlignedText:
    """The text in words and kept marks.

    Runs of marks are not collapsed: Mandarin does that, Cantonese does not (``collapse_marks``).

    Args:
        text: a segment.
        simplifier: traditional to simplified characters.
        marks: written marks to kept ones.
        readable: whether a character outside U+4E00–9FA5 is read; without it none is.
    """
    pieces = (_spoken_piece(piece, simplifier) for piece in _pieces(text))
    return AlignedText.join(_kept(piece, marks, readable) for piece in pieces)


def collapse_marks(text: AlignedText) -> AlignedText:
    """Of each run of marks the first: what follows would leak the reference's prosody."""
    return text.sub(_REPEATED_MARKS, lambda match: match.group(1))


def _pieces(text: AlignedText) -> list[AlignedText]:
    lines = text.translate(_NOT_READ).sub(_PIECE_END, lambda match: f"{match.group()}\n")
    return [piece.strip() for piece in lines.strip().split(_LINE_ENDS)]


def _spoken_piece(piece: AlignedText, simplifier: Simplifier) -> AlignedText:
    piece = _ascii(simplifier.simplify(piece))
    for rule in rules():
        piece = rule.apply(piece)
    return piece


def _ascii(text: AlignedText) -> AlignedText:
    """Latin letters and digits of other widths and scripts as ASCII.

    Upstream knows the full-width ones only, and fails on all other decimal digits.
    """
    if text.text.isascii():
        return text
    table = {char: _ascii_character(char) for char in set(text.text) if not char.isascii()}
    return text.translate({char: plain for char, plain in table.items() if char != plain})


def _ascii_character(char: str) -> str:
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    plain = chr(ord(char) - 0xFEE0) if "！" <= char <= "～" else char
    return plain if plain.isalpha() else char


def _kept(
    piece: AlignedText, marks: Mapping[str, str], readable: Callable[[str], bool] | None
) -> AlignedText:
    def rest(match: re.Match[str]) -> str:
        if readable is None:
            return ""
        return "".join(char for char in match.group() if HAN.match(char) and readable(char))

    mapped = piece.sub(_ELLIPSIS, lambda _: "…").translate(marks)
    return mapped.sub(_NOT_KEPT, rest)
