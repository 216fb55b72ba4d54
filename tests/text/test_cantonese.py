"""Cantonese: jyutping to symbols, readings given by hand, and upstream's own results."""

from __future__ import annotations

from typing import Any

import pytest
from golden_text import check_clean_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from gsv.errors import ConfigurationError, InvalidRequest
from gsv.text.cantonese import Cantonese, parse_jyutping
from gsv.text.symbols import known


@pytest.fixture(scope="module")
def cantonese() -> Cantonese:
    return Cantonese()


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("", ""),
        ("佢有2個。", "佢有两个."),
        ("好!!~", "好!!-"),
        ("嗯，「喂」…", "嗯,喂…"),
        ("a/b", "每"),
        ("嗰啲㗎", "嗰啲"),
    ],
)
def test_normalize(cantonese: Cantonese, written: str, spoken: str) -> None:
    assert cantonese.normalize(written) == spoken


def test_offsets(cantonese: Cantonese) -> None:
    assert cantonese.normalize_with_offsets("食(飯)10次") == ("食饭十次", (0, 2, -1, 6))


@pytest.mark.parametrize(
    ("jyutping", "symbols"),
    [
        ("hoeng1", ("Yh", "Yoeng1")),
        ("gwok3", ("Ygw", "Yok3")),
        ("kwaai3", ("Ykw", "Yaai3")),
        ("ngo5", ("Yng", "Yo5")),
        ("aa1", ("Yaa", "Ya1")),  # an empty rest repeats the initial's last letter
        ("aai3", ("Yaa", "Yi3")),  # the first initial that fits, not the longest
        ("m4", ("Ym", "Ym4")),
        ("ng5", ("Yng", "Yg5")),
        (" OI3 ", ("Yoi", "Yi3")),
    ],
)
def test_parse_jyutping(jyutping: str, symbols: tuple[str, str]) -> None:
    if known(symbols) == symbols:
        assert parse_jyutping(jyutping) == symbols
    else:
        with pytest.raises(InvalidRequest, match="jyutping"):
            parse_jyutping(jyutping)


@pytest.mark.parametrize("reading", ["", "hoeng", "hoeng7", "chong2", "h1", "香1", "hoeng1 gong2"])
def test_wrong_readings_are_refused(cantonese: Cantonese, reading: str) -> None:
    with pytest.raises(InvalidRequest, match="jyutping"):
        cantonese.phonemes("香", {0: reading})


@pytest.mark.parametrize("char", "乄乊乛牜犭糹纟罓肀艹衤覀訁讠辶釒钅飠饣")
def test_a_character_without_a_reading_is_unknown(cantonese: Cantonese, char: str) -> None:
    spoken = cantonese.phonemes(f"好{char}!")
    assert spoken.symbols == ("Yh", "You2", "UNK", "!")
    assert spoken.word2ph == (2, 1, 1)


def test_a_character_of_two_syllables(cantonese: Cantonese) -> None:
    spoken = cantonese.phonemes("卅")
    assert spoken.symbols == ("Ys", "Yaa1", "Yaa", "Ya6")
    assert spoken.word2ph == (4,)


def test_given_readings_and_lexicon(cantonese: Cantonese) -> None:
    lexicon = cantonese.lexicon({"長大": ("zoeng2", "daai6")})
    spoken = cantonese.phonemes("长大,长", {1: "daai2", 2: "hou2", 9: "hou2"}, lexicon)
    assert spoken.symbols == ("Yz", "Yoeng2", "Yd", "Yaai2", ",", "Yc", "Yoeng4")
    with pytest.raises(ConfigurationError, match="chang2"):
        cantonese.lexicon({"長": ("chang2",)})


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text(text: str) -> None:
    cantonese = Cantonese()
    spoken = cantonese.normalize(text)
    result = cantonese.phonemes(spoken)
    assert result.word2ph is not None
    assert len(result.word2ph) == len(spoken)
    assert sum(result.word2ph) == len(result.symbols)


@pytest.mark.golden_text
def test_upstreams_results(cantonese: Cantonese) -> None:
    def answer(text: str) -> dict[str, Any]:
        normalized = cantonese.normalize(text)
        spoken = cantonese.phonemes(normalized)
        return {
            "norm_text": normalized,
            "phones": list(known(spoken.symbols)),
            "word2ph": list(spoken.word2ph or ()),
        }

    check_clean_cases("yue", answer)
