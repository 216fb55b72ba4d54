"""The word tables of ``data/chinese_words.json`` and the pinyin table, read once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Words:
    """What the Chinese rules look words up in; the file says where the facts come from.

    Attributes:
        neutral: words whose last syllable has no tone.
        not_neutral: words that look as if theirs had none.
        erhua: words whose 儿 always takes the tone before it.
        not_erhua: words, or ends of words, whose 儿 is a syllable of its own.
        measure_words: what is counted with 两, not 二.
        units: unit → its name, the first to be tried first.
        range_units: units after which ``~`` stands between two numbers.
        symbols: signs read as words.
    """

    neutral: frozenset[str]
    not_neutral: frozenset[str]
    erhua: frozenset[str]
    not_erhua: frozenset[str]
    measure_words: tuple[str, ...]
    units: dict[str, str]
    range_units: tuple[str, ...]
    symbols: dict[str, str]


def read_data(name: str) -> dict[str, Any]:
    """A JSON object of the package's own data folder."""
    text = resources.files("gsv.text").joinpath(f"data/{name}").read_text("utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


@cache
def words() -> Words:
    """The word tables."""
    data = read_data("chinese_words.json")
    return Words(
        neutral=frozenset(data["neutral_words"]),
        not_neutral=frozenset(data["not_neutral_words"]),
        erhua=frozenset(data["must_erhua"]),
        not_erhua=frozenset(data["not_erhua"]),
        measure_words=tuple(data["measure_words"]),
        units=data["units"],
        range_units=tuple(data["range_units"]),
        symbols=data["symbols"],
    )


@cache
def pinyin_table() -> dict[str, tuple[str, str]]:
    """Pinyin without tone → initial and final symbol; 429 spellings."""
    table = read_data("symbols_v2.json")["pinyin_to_initial_final"]
    return {spelling: (initial, final) for spelling, (initial, final) in table.items()}
