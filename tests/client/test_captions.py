"""Captions: a public shape that players read."""

from __future__ import annotations

import re

import pytest

from gsv_client import WordTime
from gsv_client.captions import captions

TIMES = [
    WordTime("Hello", 0.0, 0.4), WordTime("there", 0.45, 0.9),
    WordTime("A", 3600.0, 3600.2, 1), WordTime("<b>&", 3600.3, 3661.5004, 1),
]  # fmt: skip


def test_srt() -> None:
    assert captions(TIMES, "srt") == (
        "1\n00:00:00,000 --> 00:00:00,900\nHello there\n\n"
        "2\n01:00:00,000 --> 01:01:01,500\nA <b>&\n"
    )


def test_vtt() -> None:
    assert captions(TIMES, "vtt") == (
        "WEBVTT\n\n1\n00:00:00.000 --> 00:00:00.900\nHello there\n\n"
        "2\n01:00:00.000 --> 01:01:01.500\nA &lt;b&gt;&amp;\n"
    )


def test_lines_are_short_and_chinese_has_no_blanks() -> None:
    words = [WordTime(f"word{n}", n, n + 0.5) for n in range(30)]
    lines = re.findall(r"^word.*$", captions(words, "srt"), re.MULTILINE)
    assert len(lines) > 3
    assert max(map(len, lines)) <= 42
    chinese = [WordTime(c, n, n + 0.5) for n, c in enumerate("今天天气好")]
    assert "今天天气好\n" in captions([*chinese, WordTime("Python", 6, 7)][:5], "srt")
    assert "好 Python" in captions([*chinese, WordTime("Python", 6, 7)], "srt")


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_a_text_of_no_words(form: str) -> None:
    assert captions([], form) in ("", "WEBVTT\n")
