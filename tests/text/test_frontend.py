"""The whole way from a request's text to sentences of phoneme ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_text import text_frontend

from gsv.constants import MAX_TRANSCRIPT
from gsv.errors import ConfigurationError, InvalidRequest
from gsv.options import LANGUAGES, SPLIT_METHODS
from gsv.text.frontend import MAX_READ, TextFrontend
from gsv.text.japanese import DictionaryMissing
from gsv.text.symbols import symbol_ids
from gsv.text.types import Segment, Sentence

frontend = text_frontend()


def consistent(sentence: Sentence) -> bool:
    """Whether a sentence's fields are those of its pieces, and its pieces' fields fit together."""
    pieces = sentence.pieces
    return (
        sentence.symbols == tuple(s for piece in pieces for s in piece.symbols)
        and sentence.ids == symbol_ids(sentence.symbols)
        and sentence.norm_text == "".join(piece.norm_text for piece in pieces)
        and all(
            piece.word2ph is None
            or (sum(piece.word2ph), len(piece.word2ph)) == (len(piece.ids), len(piece.norm_text))
            for piece in pieces
        )
    )


def test_a_text_becomes_sentences() -> None:
    first, second = frontend.analyze("今天天气真好。Let us go out!", "zh")
    assert [piece.language for piece in first.pieces] == ["zh"]
    assert [piece.language for piece in second.pieces] == ["en"]
    assert first.norm_text == "今天天气真好."
    assert first.pieces[0].word2ph == (2, 2, 2, 2, 2, 2, 1)
    assert consistent(first)
    assert consistent(second)
    assert first.pause_after is None


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("method", SPLIT_METHODS)
def test_every_mode_and_method(language: str, method: str) -> None:
    found = frontend.analyze("你好，world。こんにちは！안녕하세요 123?", language, method)
    assert all(map(consistent, found))


def test_repeated_marks_are_collapsed_before_anything_else() -> None:
    assert frontend.analyze("Really?!... Yes!!!", "en", "cut0")[0].norm_text == "Really? Yes!"


def test_a_short_sentence_is_read_again_with_a_point() -> None:
    sentence = frontend.read("你", "zh")
    assert sentence.retried
    assert sentence.text == "你"
    assert sentence.symbols == (".", "n", "i3")
    assert not frontend.read("你好世界啊", "zh").retried


def test_pauses() -> None:
    found = frontend.analyze(
        "[pause:0.5s]你好世界。[pause:1s][pause:2s]再见朋友[pause:0s]们好", "zh"
    )
    assert [s.norm_text for s in found] == ["你好世界.", "再见朋友.", ".们好."]
    assert [s.pause_after for s in found] == [3.0, 0.0, None]
    assert [s.pause_before for s in found] == [0.5, 0.0, 0.0]


def test_a_pause_after_the_last_sentence() -> None:
    (only,) = frontend.analyze("你好世界。[pause:2s]", "zh")
    assert only.pause_after == 2.0


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "！！！", "[pause:1s]", "。[pause:1s]...", "\u200b"]
)
def test_nothing_to_speak_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="^TEXT: nothing to speak"):
        frontend.analyze(text, "zh")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"text": "a" * 10_001}, "TEXT: got 10001 characters; allowed: up to 10000"),
        ({"text": "ab\ud800"}, r"TEXT: character 3 is a lone surrogate \(U\+D800\)"),
        ({"text": "hello", "language": "fr"}, "LANGUAGE: got 'fr'; allowed: auto, "),
        ({"text": "hello", "split_method": "cut6"}, "SPLIT_METHOD: got 'cut6'; allowed: cut0, "),
    ],
)
def test_arguments_out_of_range_are_refused(kwargs: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        frontend.analyze(**kwargs)


def test_pinyin_replaces_a_reading() -> None:
    plain = frontend.analyze("我们重庆见面。", "zh")[0]
    given = frontend.analyze("我们重{zhong4}庆见面。", "zh")[0]
    assert given.text == plain.text
    assert given.norm_text == plain.norm_text
    assert plain.symbols[4:6] == ("ch", "ong2")
    assert given.symbols == (*plain.symbols[:4], "zh", "ong4", *plain.symbols[6:])


def test_readings_find_their_place_in_any_cut() -> None:
    text = "第1句，还{huan2}好。2只羊，重{chong2}来，ok tomato{T AH0 M AA1 T OW0} 我还{hai2}在。"
    for method in SPLIT_METHODS:
        symbols = " ".join(s for p in frontend.analyze(text, "zh", method) for s in p.symbols)
        assert "h uan2 h ao3" in symbols
        assert "ch ong2 l ai2" in symbols
        assert "T AH0 M AA1 T OW0" in symbols
        assert "h ai2 z ai4" in symbols


def test_jyutping_in_cantonese() -> None:
    found = frontend.analyze("香{hoeng2}港人好", "all_yue")[0]
    assert found.symbols[:2] == ("Yh", "Yoeng2")


def test_phonemes_replace_a_word() -> None:
    given = frontend.analyze("I say NVIDIA{EH0 N V IH1 D IY0 AH0} twice.", "en")[0]
    assert " ".join(given.symbols) == "AY1 S EY1 EH0 N V IH1 D IY0 AH0 T W AY1 S ."
    assert given.norm_text == "I say NVIDIA twice."


@pytest.mark.parametrize(
    ("text", "language", "message"),
    [
        ("我重{chong9}庆", "zh", "TEXT: character 3: .*'chong9'"),
        ("我重{xxa1}庆", "zh", "TEXT: character 3: .*'xxa1'"),
        ("我香{chuang6}港", "yue", "TEXT: character 3: .*'chuang6'"),
        ("日本{ben3}語です", "ja", "TEXT: character 3: .*read as Japanese"),
        ("你好", "zh", ""),
    ],
)
def test_readings_that_a_language_lacks_are_refused(text: str, language: str, message: str) -> None:
    if not message:
        assert frontend.analyze(text, language)
        return
    with pytest.raises(InvalidRequest, match=message):
        frontend.analyze(text, language)


def test_markup_in_braces_that_is_none_changes_nothing() -> None:
    for text in ("函数f{x}返回{name}。", "{a1}好的啊", "数组[1]和[pause]"):
        whole = frontend.analyze(text, "zh")
        bare = frontend.analyze(text.replace("{", "").replace("}", ""), "zh")
        assert [s.norm_text for s in whole] == [s.norm_text for s in bare]


def test_a_prompt_is_one_sentence() -> None:
    prompt = frontend.prompt("\n你好。我是小明\n", "zh")
    assert prompt.norm_text == "你好.我是小明."
    assert frontend.prompt("Hello", "en").text == "Hello."
    assert frontend.prompt("重{chong2}庆你好", "zh").symbols[:2] == ("ch", "ong2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing is spoken"),
        (" 。！", "nothing is spoken"),
        ("好[pause:1s]", "a transcript has no"),
        ("好" * (MAX_TRANSCRIPT + 1), "allowed: up to 510"),
        ("1/2、" * 125, "written out"),
    ],
)
def test_prompts_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^REFERENCE_TEXT: .*{message}"):
        frontend.prompt(text, "all_zh")


def test_pieces_fit_into_bert() -> None:
    text = "1/2、" * 125
    assert len(text) < MAX_READ < len(frontend.read(text, "all_zh").norm_text)
    found = frontend.analyze(text, "all_zh", "cut0")
    assert len(found) == 2
    assert all(len(p.norm_text) <= MAX_READ for s in found for p in s.pieces)
    assert sum(s.norm_text.count("二分之一") for s in found) == 125


def test_a_segment_that_no_language_claims_is_a_pause() -> None:
    assert frontend.segment(Segment("newline", "\n")).symbols == (",",)


@pytest.mark.parametrize(("mark", "symbol"), [("￥", "SP2"), ("^", "SP3"), ("￥^", "SP2")])
def test_long_pauses(mark: str, symbol: str) -> None:
    piece = frontend.segment(Segment("zh", f"你好，世{mark}界"))
    assert [s for s in piece.symbols if s in (",", "SP2", "SP3")] == [symbol, symbol]


def test_data_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        TextFrontend(tmp_path / "none")


def test_a_language_without_its_data_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def missing(self: object) -> None:
        raise DictionaryMissing("no dictionary")

    monkeypatch.setattr("gsv.text.japanese.Japanese.load", missing)
    without = TextFrontend()
    without.warm_up(["ja"])
    assert "Japanese text will be refused: no dictionary" in caplog.text
    with pytest.raises(InvalidRequest, match="TEXT: 'こんにちは。' is Japanese text"):
        without.analyze("こんにちは。", "ja")
    assert without.analyze("안녕하세요", "ko")
