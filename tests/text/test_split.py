"""Text to sentences."""

from __future__ import annotations

import pytest

from gsv.text import split


@pytest.mark.parametrize(
    ("text", "collapsed"),
    [
        ("wow!?", "wow!"),
        ("a,.!?-…b", "a,b"),
        ("！！？", "！！？"),  # full-width marks stay
        ("…,", "…"),
        ("", ""),
    ],
)
def test_collapse_marks(text: str, collapsed: str) -> None:
    assert split.collapse_marks(text) == collapsed


@pytest.mark.parametrize("count", range(1, 14))
def test_cut1_joins_the_last_group_to_the_one_before(count: int) -> None:
    groups = split.cut("啊。" * count, "cut1").split("\n")
    assert len(groups) == max(1, -(-count // 4) - 1)
    assert "".join(groups) == "啊。" * count


def test_cut2_gathers_fifty_characters() -> None:
    clause = "一" * 19 + "，"
    assert [len(g) for g in split.cut(clause * 8, "cut2").split("\n")] == [60, 100]


@pytest.mark.parametrize(
    ("method", "text", "pieces"),
    [
        ("cut0", "一。二。", ["一。二。"]),
        ("cut3", "一。二！三。", ["一", "二！三"]),
        ("cut4", "Pi is 3.14 here. Yes.", ["Pi is 3.14 here", " Yes"]),
        ("cut5", "1.5, 2；3、", ["1.5,", " 2；3、"]),
        ("cut5", "v1.a", ["v1.", "a"]),
    ],
)
def test_cuts(method: str, text: str, pieces: list[str]) -> None:
    assert split.cut(text, method).split("\n") == pieces


@pytest.mark.parametrize("method", split.CUTS)
@pytest.mark.parametrize("text", ["", "\n", " ", "……", "。", "- - -"])
def test_text_without_words_gives_no_sentences(method: str, text: str) -> None:
    assert split.sentences(text, "zh", method) == []


def test_a_short_opening_gets_a_mark_in_front() -> None:
    assert split.pre_segment("嗨，你好世界", "zh", "cut0") == ["。嗨，你好世界。"]
    assert split.pre_segment("Hi, you there", "en", "cut0") == [".Hi, you there."]
    assert split.pre_segment("你好世界，嗨", "zh", "cut0") == ["你好世界，嗨。"]


def test_merge_short() -> None:
    assert split.merge_short(["ab", "", "cd", "efghi", "j"]) == ["abcdefghij"]
    assert split.merge_short(["a"]) == ["a"]
    assert split.merge_short(["abcde", "fghij", "k"]) == ["abcde", "fghijk"]


def test_split_long_is_upstreams() -> None:
    assert [len(part) for part in split.split_long("一" * 600)] == [0, 600]
    assert [len(part) for part in split.split_long("a," * 300)] == [510, 90]


def test_sentences_keep_the_limit_and_lose_nothing() -> None:
    text = "一" * 1200 + "，" + "word " * 300
    found = split.sentences(text, "zh", "cut5")
    assert all(0 < len(part) <= split.MAX_SENTENCE for part in found)
    assert "".join(found) == text + "。"
    assert all(part.endswith(" ") for part in found[4:-1])  # words are not cut


def test_prompt_text() -> None:
    assert split.prompt_text("\nHello\n", "en") == "Hello."
    assert split.prompt_text("你好；", "zh") == "你好；。"
    assert split.prompt_text("你好~", "auto") == "你好~"
    assert split.prompt_text("\n", "zh") == ""


@pytest.mark.parametrize(
    ("text", "halves"),
    [
        ("一二三，四五六", ("一二三，", "四五六")),
        ("aa bb cc dd", ("aa bb ", "cc dd")),
        ("一二三四", ("一二", "三四")),
        ("一二三四，", ("一二", "三四，")),  # an end is no place to cut
    ],
)
def test_halves(text: str, halves: tuple[str, str]) -> None:
    assert split.halves(text) == halves
