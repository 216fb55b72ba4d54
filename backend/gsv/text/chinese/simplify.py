"""Traditional characters to simplified ones, one for one.

Pronunciation dictionaries know simplified words. An operator can bring the reference's own table
(``simplified.json`` in the data folder, an object of character → character, made from an upstream
checkout by ``read_character_table``). Without it OpenCC's table is used, with the differences that
matter in everyday text (``data/chinese_variants.json``). With either, a character whose simplified
form lies outside U+4E00–9FA5 stays: those alone are read (嗰 stays, not 𠮶). So does 榜, which is
no traditional character: the reference's table makes 搒 of it, another word.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from gsv.errors import ConfigurationError
from gsv.text.aligned import AlignedText
from gsv.text.chinese.words import read_data

FIRST, LAST = "\u4e00", "\u9fa5"  # the characters that are read
TABLE_FILE = "simplified.json"
_NOT_TRADITIONAL = frozenset("榜")


class Simplifier:
    """Simplifies with the operator's table where there is one.

    Args:
        data: folder that may hold ``simplified.json``.

    Raises:
        ConfigurationError: the file is there and is not an object of single characters.
    """

    def __init__(self, data: Path | None = None) -> None:
        own = data / TABLE_FILE if data else None
        self.exact = own is not None and own.is_file()
        self._table = _read_table(own) if own and self.exact else _opencc_table()

    def simplify(self, text: AlignedText) -> AlignedText:
        """The text with every character in its simplified form."""
        return text.translate(self._table)

    def simplify_text(self, text: str) -> str:
        """As ``simplify``, for a plain string."""
        return self.simplify(AlignedText.of(text)).text


def _read_table(path: Path) -> dict[str, str]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(table, dict) or not all(
        isinstance(simple, str) and len(char) == len(simple) == 1 for char, simple in table.items()
    ):
        raise ConfigurationError(f"{path}: must be an object of character → character")
    return {
        char: simple
        for char, simple in table.items()
        if FIRST <= simple <= LAST and char not in _NOT_TRADITIONAL
    }


@cache
def _opencc_table() -> Mapping[str, str]:
    from opencc import OpenCC

    convert = OpenCC("t2s").convert
    data = read_data("chinese_variants.json")
    characters = (chr(code) for code in range(ord(FIRST), ord(LAST) + 1))
    table = {char: convert(char) for char in characters}
    table = {
        char: simple
        for char, simple in table.items()
        if char != simple and len(simple) == 1 and FIRST <= simple <= LAST
    }
    for char in "".join(data["kept"]):
        table.pop(char, None)
    return {**table, **data["instead"]}


def read_character_table(path: Path) -> dict[str, str]:
    """The reference's table from its ``zh_normalization/char_convert.py``, which is not executed.

    The file assigns two strings of equal length, simplified and traditional; a later pair wins.

    Raises:
        ConfigurationError: the file can't be read or lacks the two strings.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigurationError(f"{path}: not a readable Python file: {error}") from error
    strings = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    simplified = next((text for name, text in strings.items() if "simplified" in name), "")
    traditional = next((text for name, text in strings.items() if "traditional" in name), "")
    if not simplified or len(simplified) != len(traditional):
        raise ConfigurationError(
            f"{path}: expected two strings of equal length, one simplified, one traditional; "
            f"found {len(simplified)} and {len(traditional)} characters"
        )
    return dict(zip(traditional, simplified, strict=True))
