"""What the reading ``corrected`` changes, what it records of it, and what it leaves as it is."""

from __future__ import annotations

import pytest
from golden_text import text_frontend
from hypothesis import given, settings
from hypothesis import strategies as st

from gsv.errors import ConfigurationError, InvalidRequest
from gsv.options import LANGUAGES
from gsv.text import split
from gsv.text.corrections.changes import Draft
from gsv.text.corrections.characters import correct_characters, fold
from gsv.text.corrections.expressions import segments_with_expressions
from gsv.text.frontend import TextFrontend
from gsv.text.lexicon import Lexicon
from gsv.text.scripts import has_words
from gsv.text.types import Segment

frontend = text_frontend()


def changes(text: str, language: str) -> list[tuple[str, str]]:
    return [
        (change.written, change.spoken)
        for sentence in frontend.analyze(text, language)
        for piece in sentence.pieces
        for change in piece.changes
    ]


def characters(text: str, mode: str = "en") -> str:
    draft = Draft.of(text)
    correct_characters(draft, mode)
    return draft.text.text


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("今天天气真好，我们去公园。", "zh"),
        ("The old record shows it.", "en"),
        ("오늘은 날씨가 좋네요.", "ko"),
        ("佢哋3點去公園。", "yue"),
    ],
)
def test_a_plain_text_stays_as_it_is(text: str, language: str) -> None:
    assert changes(text, language) == []
    ours = frontend.analyze(text, language)
    assert [s.ids for s in ours] == [
        s.ids for s in text_frontend("upstream").analyze(text, language)
    ]


def test_every_change_is_told_where_it_was_made() -> None:
    first, second = frontend.analyze("第Ⅲ章讲糖尿病。It’s 5–10 people, ＯＫ?", "zh")
    assert [(c.written, c.spoken) for p in first.pieces for c in p.changes] == [("Ⅲ", "三")]
    told = {c.written for p in second.pieces for c in p.changes}
    assert told == {"’", "–", "~", "ＯＫ"}
    reasons = {c.reason for p in second.pieces for c in p.changes}
    assert {"apostrophe", "a range of numbers"} <= reasons


def test_a_change_at_the_end_belongs_to_its_own_sentence() -> None:
    first, second = frontend.analyze("今天气温５℃。明天再说吧。", "zh")
    assert [c.written for p in first.pieces for c in p.changes]
    assert not [c.written for p in second.pieces for c in p.changes]


def test_readings_find_their_place_in_a_corrected_text() -> None:
    """Full-width figures add anchors before the reading's own."""
    given_reading = frontend.analyze("１２３，４５人到重{zhong4}庆去。", "zh")
    symbols = " ".join(s for sentence in given_reading for s in sentence.symbols)
    assert "zh ong4 q ing4" in symbols
    word = frontend.analyze("It’s ＡＢ NVIDIA{EH0 N V IH1 D IY0 AH0}.", "en")[0]
    assert "EH0 N V IH1 D IY0 AH0" in " ".join(word.symbols)


def test_a_reading_for_what_is_rewritten_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"TEXT: character 2: .*leave the reading out"):
        frontend.analyze("㐂{xi3}的10,000人", "zh")


@pytest.mark.parametrize(
    ("text", "unread", "language"),
    [
        ("Hello Привет world", {"П", "р", "и", "в", "е", "т"}, "en"),
        ("你好Ж世界", {"Ж"}, "zh"),
        ("안녕 漢字", {"漢", "字"}, "ko"),
        ("Hello 😀", {"😀"}, "en"),
    ],
)
def test_what_cannot_be_read_is_listed(text: str, unread: set[str], language: str) -> None:
    found = frontend.analyze(text, language)
    assert {char for sentence in found for char in sentence.unread} == unread


def test_a_sentence_of_marks_is_left_out_and_its_characters_are_told() -> None:
    found = frontend.analyze("Hello there. Привет мир! Good bye.", "en")
    assert [s.text.strip() for s in found] == ["Hello there.", "Good bye."]
    assert "П" in {char for sentence in found for char in sentence.unread}


@pytest.mark.parametrize("reading", ["corrected", "upstream"])
@pytest.mark.parametrize(("text", "language"), [("Привет", "en"), ("你好", "en"), ("😀🎉", "ko")])
def test_marks_alone_are_refused_in_both_readings(text: str, language: str, reading: str) -> None:
    chosen = text_frontend(reading)
    with pytest.raises(InvalidRequest, match="^TEXT: nothing to speak .*as LANGUAGE"):
        chosen.analyze(text, language)
    with pytest.raises(InvalidRequest, match="^REFERENCE_TEXT: nothing is spoken"):
        chosen.prompt(text, language)


def test_an_unknown_reading_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="reading: got 'exact'; allowed: corrected, up"):
        TextFrontend(reading="exact")


@pytest.mark.parametrize("method", ["cut1", "cut2", "cut5"])
def test_a_mark_inside_a_number_ends_no_sentence(method: str) -> None:
    text = "一共1,5克和3.14米在12:30到了，比例为1:2~3:4，他们说好的。" * 3
    cut = split.sentences(text, "zh", method, inner_marks=False)
    assert "".join(cut).replace("。", "") == text.replace("。", "")
    for inner in ("1,5", "3.14", "12:30", "1:2~3:4"):
        assert sum(sentence.count(inner) for sentence in cut) == 3


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("e\u0301", "é"),
        ("a\tb\u00a0c\u3000d", "a b c d"),
        ("a\r\nb\u2028c", "a\nb\nc"),
        ("co\u00adop", "coop"),
        ("ＡＢＣ，１２３！", "ABC，123！"),
        ("㎡ ㎏ ﬁ ™ ²", "m² kg fi ™ ²"),
        ("1,234,567 and 12,34 and 1,23,456", "1234567 and 12,34 and 123456"),
        ("１，２３４．５", "1234.5"),
        ("it’s ‘so’", "it's ‘so’"),
        ("−5 and 3–4", "-5 and 3~4"),
        ("٣ १", "3 1"),
        ("！？，。：；（）", "！？，。：；（）"),
        ("ㅋㅎ", "ㅋㅎ"),
        ("ｶﾞﾊﾟｱ", "ガパア"),
        ("\ufdd0x", "x"),
    ],
)
def test_characters(written: str, plain: str) -> None:
    assert characters(written) == plain


@pytest.mark.parametrize(
    ("written", "mode", "plain"),
    [
        ("ⅩⅣ", "en", "14"),
        ("ⅩⅣ", "zh", "十四"),
        ("ⅢⅣⅤ", "zh", "三、四、五"),
        ("1①", "ja", "1, 1"),
        ("①次", "ja", "1、次"),
        ("①番", "ja", "1番"),
        ("㈱", "ja", "株式会社"),
        ("㈱", "zh", "(株)"),
        ("￥5 ￥", "zh", "¥5 ￥"),
    ],
)
def test_characters_by_mode(written: str, mode: str, plain: str) -> None:
    assert characters(written, mode) == plain


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40), st.sampled_from(LANGUAGES))
def test_sources_stay_in_order(text: str, mode: str) -> None:
    draft = Draft.of(text)
    correct_characters(draft, mode)
    known = [source for source in draft.text.sources if source >= 0]
    assert known == sorted(set(known))
    assert len(draft.text.text) == len(draft.text.sources)
    assert all(0 <= change.source < max(1, len(text)) for change in draft.changes)


@settings(max_examples=300, deadline=None)
@given(st.text("ab重が가0123456789%$¥.,~-/:℃km ", max_size=30))
def test_expressions_are_put_back(text: str) -> None:
    def whole(bare: str) -> list[Segment]:
        return [Segment("zh", bare[:5]), Segment("en", bare[5:])]

    assert "".join(s.text for s in segments_with_expressions(text, whole)) == text


def test_expressions_keep_their_signs_and_units() -> None:
    (sentence,) = frontend.analyze("明天有62%的概率降雨3.5㎜。", "zh", "cut0")
    assert [piece.language for piece in sentence.pieces] == ["zh"]
    assert sentence.norm_text == "明天有百分之六十二的概率降雨三点五毫米."


def test_keys_of_a_lexicon_are_folded_as_the_text_is() -> None:
    own: Lexicon = frontend.voice_lexicon(
        {"en": {"ＮＶＩＤＩＡ": "EH0 N V"}, "ko": {"값어치": "가버치"}}
    )
    assert "nvidia" in own.english
    assert fold("값") == "값"
    assert frontend.analyze("ＮＶＩＤＩＡ works", "en", lexicon=own)[0].symbols[:3] == (
        "EH0",
        "N",
        "V",
    )


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("你好", "en", False),
        ("你好", "zh", True),
        ("你好", "auto", True),
        ("😀", "auto", False),
        ("Hi", "ja", True),
        ("３", "all_ko", True),
        ("Привет", "auto", False),
        ("안녕", "ko", True),
        ("ｶﾅ", "ja", True),
    ],
)
def test_words_of_a_mode(text: str, mode: str, expected: bool) -> None:
    assert has_words(text, mode) is expected
