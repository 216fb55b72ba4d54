"""The 732 phoneme symbols of GPT-SoVITS v2 and later, and their ids.

All languages share one id space (``data/symbols_v2.json``): pad, Mandarin initials and finals,
Japanese phonemes, marks and pauses, ARPAbet, ``[`` ``]`` (Japanese accent), Korean letters,
Cantonese symbols, which all begin with ``Y``. The id of a symbol is its place in the table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from importlib import resources

from gsv.constants import PHONEMES

UNKNOWN = "UNK"
MARKS = "!?…,.-"  # punctuation that has a symbol
# Symbols that nothing is said at: marks, pauses, Japanese accent signs, the unknown.
SILENT = frozenset([*MARKS, "SP", "SP2", "SP3", "_", "[", "]", "空", "停", UNKNOWN])

LANGUAGES = ("zh", "ja", "en", "ko", "yue")  # what a segment can be read as


@cache
def _ids() -> dict[str, int]:
    text = resources.files("gsv.text").joinpath("data/symbols_v2.json").read_text("utf-8")
    symbols = json.loads(text)["symbols"]
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    if len(ids) != PHONEMES:
        raise RuntimeError(f"symbols_v2.json holds {len(ids)} symbols, the models know {PHONEMES}")
    return ids


def is_symbol(symbol: str) -> bool:
    """Whether the table has this symbol."""
    return symbol in _ids()


def known(symbols: Iterable[str]) -> tuple[str, ...]:
    """The symbols, with every one that the table lacks replaced by ``UNK``."""
    ids = _ids()
    return tuple(symbol if symbol in ids else UNKNOWN for symbol in symbols)


def symbol_ids(symbols: Iterable[str]) -> tuple[int, ...]:
    """Ids of symbols that are all in the table; KeyError otherwise."""
    ids = _ids()
    return tuple(ids[symbol] for symbol in symbols)
