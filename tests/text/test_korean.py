"""Korean: letters, pronunciation, numbers, and upstream's own results."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from golden_text import check_clean_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from gsv.text import hangul
from gsv.text.korean import Korean
from gsv.text.symbols import is_symbol


@pytest.fixture(scope="module")
def korean() -> Korean:
    return Korean()


def spoken(korean: Korean, text: str) -> str:
    return "".join(korean.phonemes(text).symbols)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("가힣", "ㄱㅏㅎㅣㅎ"),
        ("과위얘", "ㄱㅗㅏㅇㅜㅣㅇㅣㅐ"),
        ("값", "ㄱㅏㅄ"),
        ("\u1100\u1161\u11a8", "ㄱㅏㄱ"),
        ("ㅘ a漢", "ㅗㅏ a漢"),
    ],
)
def test_letters(text: str, letters: str) -> None:
    assert hangul.letters(text) == letters


def test_spell_latin() -> None:
    assert hangul.spell_latin("KTx 1") == "케이티엑스 1"


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("", ""),
        ("국물.", "ㄱㅜㅇㅁㅜㄹ."),  # nasalised
        ("신라.", "ㅅㅣㄹㄹㅏ."),
        ("좋다.", "ㅈㅗㅌㅏ."),
        ("같이.", "ㄱㅏㅊㅣ."),
        ("값이.", "ㄱㅏㅂㅆㅣ."),
        ("물을 나르다.", "ㅁㅜㄹㅡㄹ空ㄴㅏㄹㅡㄷㅏ."),  # not ㄹㅏ
        ("응", "ㅇㅡㅇ."),  # a text that ends in a letter gets a full stop
        ("응\n", "ㅇㅡㅇ.."),
        ("네， 漢😀!", "ㄴㅔ,空停停!"),
        ("3개", "ㅅㅔㄱㅐ."),
        ("3년", "ㅅㅏㅁㄴㅣㅓㄴ."),
        ("20살", "ㅅㅡㅁㅜㅅㅏㄹ."),
        ("3개, 13개.", "ㅅㅔㄱㅐ,空ㅇㅣㅓㄹㅅㅔㄱㅐ."),  # upstream: by the order of a set
        ("A", "ㅇㅔㅇㅣ."),
    ],
)
def test_heard(korean: Korean, text: str, heard: str) -> None:
    assert spoken(korean, korean.normalize(text)) == heard


def test_a_long_counted_number_is_read_by_digits(korean: Korean) -> None:
    """Upstream raises above 16 digits."""
    assert spoken(korean, "1" * 16 + "개").startswith("ㅇㅣㄹㅊㅓㄴㅣㄹㅂㅐㄱ")
    assert spoken(korean, "1" * 17 + "개").startswith("ㅇㅣㄹㅣㄹㅣㄹ")


def test_linear_time(korean: Korean) -> None:
    korean.load()
    start = time.perf_counter()
    korean.phonemes("1" * 10_000)
    assert time.perf_counter() - start < 3


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text(korean: Korean, text: str) -> None:
    assert all(map(is_symbol, korean.phonemes(text).symbols))


def test_loading_needs_no_english_dictionary() -> None:
    """g2pk2 by itself downloads one; its stand-in is gone afterwards."""
    code = (
        "import sys; from gsv.text.korean import Korean; Korean().load();"
        "assert 'nltk' not in sys.modules;"
        "assert not [name for name in sys.modules if name.startswith('g2pk2')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_threads(korean: Korean) -> None:
    texts = [f"사과 {number}개와 책 {number}권을 샀어요." for number in range(40)]
    alone = [korean.phonemes(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(korean.phonemes, texts)) == alone


@pytest.mark.golden_text
def test_upstreams_results(korean: Korean) -> None:
    def answer(text: str) -> dict[str, Any]:
        normalized = korean.normalize(text)
        return {"norm_text": normalized, "phones": list(korean.phonemes(normalized).symbols)}

    check_clean_cases("ko", answer)
