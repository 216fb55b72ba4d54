"""Mandarin: numbers, rules, tones, readings given by hand, and upstream's own results."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from golden_text import check_clean_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from gsv.errors import ConfigurationError, InvalidRequest
from gsv.text.chinese import Chinese, numbers
from gsv.text.chinese.simplify import Simplifier, read_character_table
from gsv.text.chinese.syllables import parse_pinyin
from gsv.text.symbols import known


@pytest.fixture(scope="module")
def chinese() -> Chinese:
    return Chinese()


def pinyin(chinese: Chinese, text: str, readings: dict[int, str] | None = None) -> str:
    """The symbols of each character, joined: 你好 → "ni2 hao3"."""
    spoken = chinese.phonemes(text, readings)
    symbols = iter(spoken.symbols)
    assert spoken.word2ph is not None
    return " ".join("".join(next(symbols) for _ in range(count)) for count in spoken.word2ph)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", "零"),
        ("000", "零"),
        ("", ""),
        ("7", "七"),
        ("10", "十"),
        ("12", "十二"),
        ("020", "二十"),
        ("105", "一百零五"),
        ("110", "一百一十"),
        ("1005", "一千零五"),
        ("10050", "一万零五十"),
        ("100000", "十万"),
        ("20300000", "二千零三十万"),
        ("100000000", "一亿"),
        ("100000001", "一亿零一"),
        ("1012345678", "十亿一千二百三十四万五千六百七十八"),
        ("12" + "0" * 16, "十二亿亿"),
    ],
)
def test_cardinal(number: str, words: str) -> None:
    assert numbers.cardinal(number) == words


def test_cardinal_of_any_length() -> None:
    assert numbers.cardinal("1" + "0" * 8 * 400) == "一" + "亿" * 400


@pytest.mark.parametrize(
    ("number", "words"),
    [("3.14", "三点一四"), (".5", "零点五"), ("3.20", "三点二零"), ("3.00", "三点零"), ("8", "八")],
)
def test_decimal(number: str, words: str) -> None:
    assert numbers.number(number) == words


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("1998年12月31日", "一九九八年十二月三十一日"),
        ("98年5月", "九八年五月"),
        ("1998.12.31", "一九九八年十二月三十一日"),
        ("1998-12/31", "幺九九八减三十一分之十二"),
        ("9:05", "九点零五分"),
        ("21:30:07", "二十一点半零七秒"),
        ("0:00", "零点"),
        ("8:30~9:30", "八点半至九点半"),
        ("8:00-9:30", "八点至九点三十分"),
        ("5kg~10kg", "五千克至十千克"),
        ("-3.5°C", "零下三点五度"),
        ("25摄氏度", "二十五度"),
        ("3×4=12", "三乘四等于十二"),
        ("-1+x²", "负一加的二次方"),
        ("10ⁿ", "十的次方"),
        ("-3/4", "负四分之三"),
        ("99.5%", "百分之九十九点五"),
        ("13612345678", "幺三六幺二三四五六七八"),
        ("62345678", "六二三四五六七八"),
        ("5~10人", "五到十人"),
        ("v1.2.3", "一点二点三"),
        ("2个", "两个"),
        ("20多岁", "二十多岁"),
        ("300+人", "三百多人"),
        ("12个", "十二个"),
        ("101", "幺零幺"),
        ("42", "四十二"),
        ("5/人", "五每人"),
        ("③α×", "三阿尔法乘"),
        ("٢٠٢٤年", "二零二四年"),  # upstream raises
        ("8:30-9:15", "八点半至九点十五分"),  # upstream: 八点半至九点半
    ],
)
def test_rules(chinese: Chinese, written: str, spoken: str) -> None:
    assert chinese.normalize(written) == spoken


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("", ""),
        (" \n\t", ""),
        ("abc", ""),
        ("一、二；三：四·五", "一,二,三,四,五"),
        ("好……好。。好!?", "好…好.好!"),
        ("《书》（一）“二”", "书一二"),
        ("$5", ".五"),
        ("嗯，呣", "恩,母"),
        ("𠮷㗎〇", ""),
        ("嗰個餘麼", "嗰个馀麽"),
    ],
)
def test_marks_and_characters(chinese: Chinese, written: str, kept: str) -> None:
    assert chinese.normalize(written) == kept


def test_offsets_name_the_written_characters(chinese: Chinese) -> None:
    written = "我說：20多個（重）要，"
    spoken, sources = chinese.normalize_with_offsets(written)
    assert spoken == "我说,二十多个重要,"
    assert sources == (0, 1, 2, -1, -1, 5, 6, 8, 10, 11)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text(text: str) -> None:
    chinese = Chinese()
    spoken, sources = chinese.normalize_with_offsets(text)
    result = chinese.phonemes(spoken)
    assert result.word2ph is not None
    assert len(sources) == len(spoken) == len(result.word2ph)
    assert sum(result.word2ph) == len(result.symbols)
    found = [source for source in sources if source >= 0]
    assert found == sorted(set(found))
    assert all(source < len(text) for source in found)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("不怕", "bu2 pa4"),
        ("看不懂", "kan4 bu5 dong3"),
        ("不,", "bu4 ,"),
        ("一定", "yi2 ding4"),
        ("一天", "yi4 tian1"),
        ("看一看", "kan4 yi5 kan4"),
        ("第一", "di4 yi1"),
        ("统一,", "tong3 yi1 ,"),
        ("五一一", "wu3 yi1 yi1"),
        ("妈妈", "ma1 ma5"),
        ("女子", "nv2 zi03"),
        ("桌子", "zhuo1 zi05"),
        ("朋友", "peng2 you5"),
        ("两个", "liang3 ge5"),
        ("回去", "hui2 qv5"),
        ("你好", "ni2 hao3"),
        ("展览馆", "zhan2 lan2 guan3"),
        ("好雨伞", "hao3 yv2 san3"),
        ("女儿", "nv3 EEer2"),
        ("花儿", "hua1 EEer2"),
        ("媳妇儿", "xi2 fu5 EEer5"),
        ("安,二", "AAan1 , EEer4"),
    ],
)
def test_tones(chinese: Chinese, text: str, read: str) -> None:
    assert pinyin(chinese, text) == read


@pytest.mark.parametrize("char", "兙兡嗧噷桛烪瓧瓰瓱瓼甅覅")
def test_a_character_without_a_reading_is_unknown(chinese: Chinese, char: str) -> None:
    spoken = chinese.phonemes(f"好{char}.")
    assert spoken.symbols == ("h", "ao3", "UNK", ".")
    assert spoken.word2ph == (2, 1, 1)


def test_a_given_reading_stands_and_is_heard_around_it(chinese: Chinese) -> None:
    assert pinyin(chinese, "不重") == "bu2 zhong4"
    assert pinyin(chinese, "不重", {1: "chong2"}) == "bu4 chong2"
    assert pinyin(chinese, "你好", {0: "ni3"}) == "ni3 hao3"
    assert pinyin(chinese, "好,好", {1: "ma1", 2: "hao4", 9: "ma1"}) == "hao3 , hao4"


@pytest.mark.parametrize("reading", ["chong2", "lv4", "lü4", "LÜ4", "er2", "a1", "de0", "ng5x"])
def test_parse_pinyin(chinese: Chinese, reading: str) -> None:
    if reading == "ng5x":
        with pytest.raises(InvalidRequest, match="ng5x"):
            parse_pinyin(reading)
    else:
        symbols = chinese.phonemes("好", {0: reading}).symbols
        assert known(symbols) == symbols
        assert len(symbols) == 2


@pytest.mark.parametrize("reading", ["", "chong", "chong6", "2", "xx1", "ni 3", "chóng", "停1"])
def test_wrong_readings_are_refused(chinese: Chinese, reading: str) -> None:
    with pytest.raises(InvalidRequest, match="pinyin"):
        chinese.phonemes("好", {0: reading})


def test_lexicon(chinese: Chinese) -> None:
    lexicon = chinese.lexicon({"重慶": ("chong2", "qing5"), "重": ("zhong5",)})
    assert lexicon.readings("重庆重,重") == {0: "chong2", 1: "qing5", 2: "zhong5", 4: "zhong5"}
    spoken = chinese.phonemes("重庆重", {0: "zhong4"}, lexicon)
    assert spoken.symbols == ("zh", "ong4", "q", "ing5", "zh", "ong5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"重庆": ("chong2",)}, "2 characters and 1 readings"),
        ({"": ()}, "0 characters"),
        ({"好": ("good1",)}, "good1"),
    ],
)
def test_a_wrong_lexicon_is_refused(
    chinese: Chinese, words: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        chinese.lexicon(words)


def test_the_operators_character_table(tmp_path: Path) -> None:
    assert not Simplifier().exact
    (tmp_path / "simplified.json").write_text('{"餘": "余"}', encoding="utf-8")
    simplifier = Simplifier(tmp_path)
    assert simplifier.exact
    assert simplifier.simplify_text("餘個") == "余個"
    assert Chinese(tmp_path).normalize("餘個") == "余個"


@pytest.mark.parametrize("content", ["[]", "{", '{"餘": "余余"}', '{"餘": 1}'])
def test_a_wrong_character_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "simplified.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"simplified\.json"):
        Chinese(tmp_path).normalize("好")


def test_read_character_table(tmp_path: Path) -> None:
    path = tmp_path / "table.py"
    path.write_text(
        'raise SystemExit\nsimplified_chars = "干余乾"\ntraditional_chars = "乾餘乾"\n', "utf-8"
    )
    assert read_character_table(path) == {"乾": "乾", "餘": "余"}
    path.write_text('simplified_chars = "干"\n', "utf-8")
    with pytest.raises(ConfigurationError, match="equal length"):
        read_character_table(path)


def test_loading_leaves_no_trace(tmp_path: Path) -> None:
    """jieba by itself logs to stderr and writes a cache into the temporary folder."""
    code = "from gsv.text.chinese import Chinese; c = Chinese(); c.load(); c.phonemes('你好')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_threads(chinese: Chinese) -> None:
    texts = [f"他在{number}号楼的银行行长办公室。" for number in range(40)]
    alone = [chinese.phonemes(chinese.normalize(text)) for text in texts]
    fresh = Chinese()
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda text: fresh.phonemes(fresh.normalize(text)), texts)
    assert list(together) == alone


@pytest.mark.parametrize("text", ["1" * 10_000, "1-" * 5_000, "1." * 5_000, "a+" * 5_000])
def test_long_input_takes_linear_time(chinese: Chinese, text: str) -> None:
    def seconds(part: str) -> float:
        start = time.perf_counter()
        chinese.normalize(part)
        return time.perf_counter() - start

    seconds(text[:100])
    assert seconds(text) < 1


@pytest.mark.golden_text
def test_upstreams_results(chinese: Chinese) -> None:
    def answer(text: str) -> dict[str, Any]:
        normalized = chinese.normalize(text)
        spoken = chinese.phonemes(normalized)
        return {
            "norm_text": normalized,
            "phones": list(known(spoken.symbols)),
            "word2ph": list(spoken.word2ph or ()),
        }

    check_clean_cases("zh", answer, without="￥^")  # pause marks: the frontend's


def test_halves_of_random_words_add_up() -> None:
    from gsv.text.chinese.segment import halves

    random.seed(3)
    for _ in range(200):
        word = "".join(chr(random.randrange(0x4E00, 0x9FA6)) for _ in range(random.randrange(1, 6)))
        assert len("".join(halves(word))) == len(word)
