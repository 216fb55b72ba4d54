"""Words with their symbols: the numbers sum to the symbols, whatever the text."""

from __future__ import annotations

import pytest

from gsv.errors import InvalidRequest
from gsv.stages.text_frontend import describe
from gsv.stages.word_times import SpokenWord, sentences_of
from gsv.text.frontend import TextFrontend


@pytest.fixture(scope="module")
def frontend() -> TextFrontend:
    return TextFrontend()


def words(frontend: TextFrontend, text: str, language: str) -> list[tuple[str, int]]:
    sentences = frontend.analyze(text, language, "cut0")
    for piece in (piece for sentence in sentences for piece in sentence.pieces):
        assert sum(count for _, count in piece.words) == len(piece.symbols)
    return [word for s in sentences for piece in s.pieces for word in piece.words]


def test_english(frontend: TextFrontend) -> None:
    assert words(frontend, "Smith's dog cost $3.", "en") == [
        ("Smith's", 5), ("dog", 3), ("cost", 4), ("three", 3), ("dollars", 5), ("", 1),
    ]  # fmt: skip


def test_a_short_english_segment_has_a_mark_before_it(frontend: TextFrontend) -> None:
    found = words(frontend, "No.", "en")
    assert found[0][0] == ""
    assert ("No", 2) in found


def test_a_word_with_a_reading_of_its_own_keeps_its_name(frontend: TextFrontend) -> None:
    lexicon = frontend.voice_lexicon({"en": {"zorbnik": "Z AO1 R"}})
    (sentence,) = frontend.analyze("A Zorbnik came.", "en", lexicon=lexicon)
    assert ("Zorbnik", 3) in sentence.pieces[0].words


def test_chinese_and_english(frontend: TextFrontend) -> None:
    assert words(frontend, "我们去Google公园三次。", "auto") == [
        ("我", 2), ("们", 2), ("去", 2), ("Google", 5), ("公", 2), ("园", 2), ("三", 2),
        ("次", 2), ("", 1),
    ]  # fmt: skip


def test_korean(frontend: TextFrontend) -> None:
    found = words(frontend, "오늘 날씨가 좋네요, 만나요.", "ko")
    assert [word for word, _ in found if word] == ["오늘", "날씨가", "좋네요", "만나요"]


def test_japanese(frontend: TextFrontend) -> None:
    try:
        found = words(frontend, "今日は、東京へ行きました。", "ja")
    except InvalidRequest as error:
        pytest.skip(str(error))
    assert "".join(word for word, _ in found) == "今日は東京へ行きました"
    assert all(len(word) <= 1 for word, _ in found)


def test_the_analysis_carries_them(frontend: TextFrontend) -> None:
    import json

    sentences = frontend.analyze("Hello there. Good dog.", "en", "cut5")
    found = sentences_of(json.dumps(describe(sentences)))
    assert len(found) == len(sentences)
    assert SpokenWord("there", 3) in found[0]
    for words_of, sentence in zip(found, sentences, strict=True):
        assert sum(word.phonemes for word in words_of) == len(sentence.ids)
