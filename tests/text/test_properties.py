"""Any text gives phonemes or a clear refusal: no library's exception, no hang."""

from __future__ import annotations

import random
import time

import pytest
from golden_text import text_frontend
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gsv.errors import InvalidRequest
from gsv.options import LANGUAGES, SPLIT_METHODS, TEXT_LIMIT
from gsv.text import markup, split
from gsv.text.symbols import symbol_ids
from gsv.text.types import Sentence

frontend = text_frontend()
READINGS = {reading: text_frontend(reading) for reading in ("corrected", "upstream")}

SCRIPTS = (
    "你好重庆一不儿㗎𠮷讠兙龥々",
    "こんにちはカナーｶﾅ",
    "안녕하세요ㅋㅎ가힣",
    "Hello iPhone NASA it's i.e. Zoë naïve ß",
    "0123456789.,:/-~+×÷=%$£￥^°℃½²①Ⅳ٣",
    "。！？…，、；：“”‘’（）《》「」—·!?;\"'()[]{}<>",
    " \t\n\r\u3000\u00a0\u200b\ufeff",
    "\x00\x07\x1b\x7f\x85\u2028\u202e\ufffe\U0010ffff",
    "😀👩‍👩‍👧🏴󠁧󠁢󠁥󠁮󠁧󠁿❤️",
    "שלום مرحبا สวัสดี नमस्ते Привет",
    "[pause:1s] {chong2} {AH0}",
    "ＡＢ１２％－～．，㎏㎡㈱½⅔ﬁ𝐁々ゞ㐂𠮷髙\u0301\u3099\u1161\u11a8\ufdd0\ufe0f",
    "$5 ¥1,234.5 -3℃ 10:30 1/2 5–10km 50% 2024-10-01 ",
)
WORDS = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=12),
    *(st.text(script, max_size=12) for script in SCRIPTS),
)
TEXTS = st.lists(WORDS, max_size=12).map("".join)


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> None:
    """What is timed is reading, not loading dictionaries."""
    for either in READINGS.values():
        either.warm_up()


def analyzed(text: str, language: str, method: str, reading: str) -> list[Sentence]:
    """The sentences, within a time; none where the text is refused by its name."""
    start = time.thread_time()
    try:
        return READINGS[reading].analyze(text, language, method)
    except InvalidRequest as error:
        if not str(error).startswith("TEXT: "):
            raise
        return []
    finally:
        # A hang, or quadratic time, takes minutes. The slowest text takes 2 s on an idle machine.
        assert time.thread_time() - start < 1 + 7 * len(text) / TEXT_LIMIT


def check(found: list[Sentence]) -> None:
    for sentence in found:
        assert sentence.ids == symbol_ids(sentence.symbols)
        assert sentence.ids
        assert sentence.norm_text
        for piece in sentence.pieces:
            counts = piece.word2ph
            assert counts is None or len(counts) == len(piece.norm_text)
            assert counts is None or sum(counts) == len(piece.ids)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS, method=st.sampled_from(SPLIT_METHODS))
@example(text="", method="cut1")
@example(text="\x00", method="cut5")
@example(text="é. 2", method="cut0")
def test_any_text_is_read_or_refused(language: str, reading: str, text: str, method: str) -> None:
    check(analyzed(text, language, method, reading))


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS)
def test_any_transcript_is_read_or_refused(language: str, reading: str, text: str) -> None:
    try:
        check([READINGS[reading].prompt(text, language)])
    except InvalidRequest as error:
        if not str(error).startswith("REFERENCE_TEXT: "):
            raise


@settings(max_examples=200, deadline=None)
@given(text=TEXTS, method=st.sampled_from(SPLIT_METHODS), language=st.sampled_from(LANGUAGES))
def test_splitting_keeps_every_anchor(text: str, method: str, language: str) -> None:
    """What readings are counted by is neither lost nor made by cutting a text."""
    cut = split.sentences(split.collapse_marks(text), language, method)
    anchors = "".join(text[place] for place in markup.anchors(text))
    assert "".join(s[place] for s in cut for place in markup.anchors(s)) == anchors
    assert all(len(s) <= split.MAX_SENTENCE for s in cut)


@settings(max_examples=200, deadline=None)
@given(text=st.lists(st.sampled_from(["重", "{chong2}", "a", "{AH0}", "[pause:1s]", "{", " "])))
def test_markup_is_taken_out_or_left_as_it_is(text: list[str]) -> None:
    parts = markup.parse("".join(text))
    assert sum(part.pause or 0 for part in parts) == text.count("[pause:1s]")
    for part in parts:
        count = len(markup.anchors(part.text))
        assert all(0 <= r.start < r.end <= count for r in part.readings)


LONG = {
    "digits": "7" * 10_000,
    "numbers": "1,2.3/4-5:06" * 833,
    "han": "一不" * 5_000,
    "no spaces": "".join(random.Random(1).choices("etaoinshrdlu", k=10_000)),
    "one letter": "a" * 10_000,
    "capitals": "A" * 10_000,
    "kana": "あ" * 10_000,
    "hangul": "가" * 10_000,
    "marks": ".," * 5_000,
    "changing": "a好あ가1" * 2_000,
    "digits between": "1a" * 5_000,
    "emoji": "😀" * 10_000,
    "right to left": "שלום " * 2_000,
    "spaces": "a" + " " * 9_998 + "b",
    "lines": "你\n" * 5_000,
    "braces": "{" * 10_000,
    "readings": "重{chong2}" * 1_111,
    "one long reading": "重{" + "a" * 9_997 + "}",
    "one long reading with a tone": "重{" + "a" * 9_996 + "1}",
    "apostrophes": "a'" * 5_000,
    "dashes": "a-" * 5_000,
    "points": "a." * 5_000,
    "combining": "e\u0301" * 5_000,
    "control characters": "\x00\x07\x1b\u202e\u2066" * 2_000,
    "other digits": "٣１२" * 3_333,
    "prices": "$1,234.56和¥5～10km/h " * 500,
    "fractions": "½" * 10_000,
    "ratios": "12:30" * 2_000,
    "full width": "１２３" * 3_333,
    "numerals": "Ⅲ" * 10_000,
    "decomposed": "\u1112\u1161\u11ab" * 3_333,
    "unknown kanji": "髙嗤𠮷" * 3_333,
    "iteration marks": "人々" * 5_000,
    "letters of Hangul": "ㅋ" * 10_000,
    "curly": "I’m " * 2_500,
    "signs": "&@#+" * 2_500,
    "everything": "".join(SCRIPTS) * (TEXT_LIMIT // sum(map(len, SCRIPTS))),
}


@pytest.mark.parametrize(
    ("language", "name"),
    [("auto", name) for name in LONG]
    + [
        (mode, "digits")
        for mode in LANGUAGES
        if mode not in ("auto", "en", "zh", "ja", "ko", "yue")
    ]
    + [(mode, "everything") for mode in LANGUAGES if mode != "auto"]
    + [(mode, name) for mode in ("en", "zh", "ja", "ko", "yue") for name in ("digits", "han")]
    + [("en", "apostrophes"), ("all_ja", "kana"), ("all_ja", "changing"), ("all_ko", "hangul")]
    + [("ja", "fractions"), ("ja", "unknown kanji"), ("ko", "numerals"), ("en", "curly")]
    + [("en", "signs"), ("zh", "prices"), ("zh", "fractions"), ("ja", "iteration marks")]
    + [("en", "points"), ("en", "no spaces"), ("all_zh", "changing"), ("all_yue", "numbers")],
)
def test_ten_thousand_characters(language: str, name: str) -> None:
    assert len(LONG[name]) <= TEXT_LIMIT
    for reading in READINGS:
        check(analyzed(LONG[name], language, "cut5", reading))


@pytest.mark.parametrize("language", LANGUAGES)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=WORDS, lone=st.characters(categories=("Cs",)), after=WORDS)
def test_lone_surrogates_are_refused(language: str, before: str, lone: str, after: str) -> None:
    for read in (frontend.analyze, frontend.prompt):
        with pytest.raises(InvalidRequest, match=r"is a lone surrogate \(U\+D"):
            read(before + lone + after, language)
