"""Pauses and readings in the text of a request."""

from __future__ import annotations

import time

import pytest

from gsv.errors import InvalidRequest
from gsv.text import markup
from gsv.text.markup import Reading


def texts(text: str) -> list[tuple[str, float | None]]:
    return [(part.text, part.pause) for part in markup.parse(text)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("你好", [("你好", None)]),
        ("你好[pause:0.8s]世界", [("你好", 0.8), ("世界", None)]),
        ("[pause:10s]a[pause:0s]", [("", 10.0), ("a", 0.0), ("", None)]),
        ("a[pause:250ms][pause: 1s ]b", [("a", 0.25), ("", 1.0), ("b", None)]),
    ],
)
def test_pauses(text: str, parts: list[tuple[str, float | None]]) -> None:
    assert texts(text) == parts


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("a[pause:11s]", 2),
        ("[pause:-1s]", 1),
        ("ab[pause:soon]", 3),
        ("ab[pause:1]", 3),
        ("ab [pause:1s", 4),
        ("x[pause:]", 2),
        ("x[pause:nans]", 2),
        ("x[pause:99999999s]", 2),
        ("好[pause:10001ms]", 2),
    ],
)
def test_bad_pauses_are_refused_with_their_place(text: str, position: int) -> None:
    with pytest.raises(InvalidRequest, match=f"^TEXT: character {position}: .*0 to 10 s"):
        markup.parse(text)


def test_the_sum_of_pauses_is_limited() -> None:
    assert len(markup.parse("a[pause:10s]" * 30)) == 31
    with pytest.raises(InvalidRequest, match="TEXT: its pauses add up to 310 s"):
        markup.parse("a[pause:10s]" * 31)


def test_a_transcript_has_no_pauses() -> None:
    with pytest.raises(InvalidRequest, match="REFERENCE_TEXT: character 2: .*transcript"):
        markup.parse("a[pause:1s]b", "REFERENCE_TEXT", pauses=False)


@pytest.mark.parametrize(
    ("text", "plain", "readings"),
    [
        ("重{chong2}庆", "重庆", [(0, 1, "chong2", 2)]),
        ("a重庆{chong2 qing4}。", "a重庆。", [(1, 2, "chong2", 4), (2, 3, "qing4", 4)]),
        ("我，女{lü3}ok", "我，女ok", [(1, 2, "lü3", 4)]),
        ("a tomato{T AH0 M EY1 T OW0}!", "a tomato!", [(1, 7, "T AH0 M EY1 T OW0", 9)]),
        ("don't{D OW1 N T} go", "don't go", [(0, 4, "D OW1 N T", 6)]),
        ("好GPT-4{F AO1 R}", "好GPT-4", [(1, 5, "F AO1 R", 7)]),
    ],
)
def test_readings(text: str, plain: str, readings: list[tuple[int, int, str, int]]) -> None:
    (part,) = markup.parse(text)
    assert part.text == plain
    assert [(r.start, r.end, " ".join(r.phones), r.position) for r in part.readings] == readings


def test_readings_are_counted_from_the_pause() -> None:
    parts = markup.parse("重庆[pause:1s]重{chong2}")
    assert [r.start for r in parts[1].readings] == [0]


@pytest.mark.parametrize(
    "text",
    [
        "{chong2}",  # after nothing
        "你好{name}世界",  # no digit
        "变量{x1}",  # no vowel: no syllable
        "f(x){A}",
        "x_{AH0}",
        "word {AH0}",  # not directly after the word
        "word{A1}",  # a stressed vowel has two letters
        "word{ah0}",
        "かな{ka1}",
        "안녕{an1}",
        "[pause]",
        "[PAUSE:1s]",
        "{}{{}}[[]]",
        "重{chong2",
        "a}b{",
        "重{" + "a" * 17 + "1}",  # no syllable is that long
        "重{" + "a" * 9_990 + "}",
        "重{" + "a" * 9_990 + "1}",
        "重{" + "b" * 16 + "1}",
    ],
)
def test_other_braces_are_text(text: str) -> None:
    assert markup.parse(text) == [markup.Part(text)]


@pytest.mark.parametrize(
    ("text", "position", "named"),
    [
        ("重{chong2 qing4}", 2, "2 syllables"),
        ("a重{chong2 qing4}", 3, "2 syllables"),
        ("to{T UW9}", 3, "'UW9'"),
        ("to{T EX1}", 3, "'EX1'"),
        ("to{Q UW1}", 3, "'Q'"),
    ],
)
def test_bad_readings_are_refused_with_their_place(text: str, position: int, named: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^TEXT: character {position}: .*{named}"):
        markup.parse(text)


def test_counted_from() -> None:
    reading = Reading(5, 6, ("chong2",), english=False, position=9)
    assert reading.counted_from(3) == Reading(2, 3, ("chong2",), english=False, position=9)


@pytest.mark.parametrize(
    "letters", ["a", "zhuang", "lu:e", "nüe", "gwaang", "m", "hm", "ng", "hng"]
)
def test_syllables(letters: str) -> None:
    (part,) = markup.parse(f"重{{{letters}2}}")
    assert [reading.phones for reading in part.readings] == [(f"{letters}2",)]
    (part,) = markup.parse(f"重{{{'b' * (16 - len(letters)) + letters}2}}")
    assert bool(part.readings) == any(vowel in letters for vowel in "aeiouü")


@pytest.mark.parametrize(
    "text",
    ["重{" + "a" * 9_990 + "}", "重{" + "a1 " * 3_000 + "a}", "重{" + "a1" + " " * 9_900 + "}",
     "重{" + "ab" * 4_990 + "}", "重{" + "bbbbbbbbbbbbbbba1 " * 500 + "}", "重{" * 3_000,
     "a{" + "A" * 9_990 + "}", "a{" + "AB0 " * 2_400 + "}", "[pause:" + "1" * 9_990 + "]"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_markup_is_read_in_no_time_and_refused_briefly(text: str) -> None:
    start, message = time.thread_time(), ""
    try:
        markup.parse(text)
    except InvalidRequest as error:
        message = str(error)
    assert time.thread_time() - start < 0.1  # a quadratic one takes a second
    assert len(message) < 1_000
