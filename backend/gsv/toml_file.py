"""Reads TOML that strangers may have written."""

from __future__ import annotations

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEY_PARTS = 16  # of a dotted key; our own files have three at most
# Strings, of which those of several lines may end with quotes, and comments. One that is not closed
# matches as well: it would be looked for again at each further quote.
_TEXTS = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"{3,5}|\\?\Z)' r"|'''.*?(?:'{3,5}|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?' r"|'[^'\n]*'?" r"|#[^\n]*",
    re.DOTALL,
)  # fmt: skip
_BETWEEN_KEYS = re.compile(r"[\n=,{}\[\]]")


def parse_toml(content: bytes) -> dict[str, Any]:
    """The values of a TOML document.

    Python's parser takes time by the square of a dotted key's length: 21 s for one of 30,000 parts,
    in which nobody could list the voices. So long keys are refused before it sees them.

    Args:
        content: TOML in UTF-8.

    Raises:
        ValueError: it is no TOML, nests too deep, or has a key of more than ``KEY_PARTS`` parts.
    """
    text = content.decode("utf-8")
    for piece in _BETWEEN_KEYS.split(_TEXTS.sub("", text)):
        parts = piece.count(".") + 1
        if parts > KEY_PARTS:
            raise ValueError(f"a key of {parts:,} parts; allowed: up to {KEY_PARTS}")
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    return values
