"""Lexicon files."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_text import text_frontend

from gsv.errors import ConfigurationError
from gsv.text import lexicon
from gsv.text.frontend import TextFrontend


def write(folder: Path, text: str) -> Path:
    path = folder / "lexicon.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[fr]\na = 'b'", r"\[fr\]"),
        ("zh = 'a'", r"\[zh\]"),
        ("[zh]\na = 1", "'a' = 1"),
        ("[zh]\na = ''", "not empty"),
        ("[zh", "lexicon"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=named) as caught:
        lexicon.read_words(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml"):
        lexicon.read_words(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[en]\nfoo = 'F UW9'", "'UW9'"),
        ("[en]\n'two words' = 'T UW1'", "one word"),
        ("[zh]\n'重庆' = 'chong2'", "重庆"),
        ("[zh]\n'重' = 'chong9'", "chong9"),
        ("[yue]\n'香' = 'xoeng7'", "xoeng7"),
    ],
)
def test_a_bad_reading_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        text_frontend().voice_lexicon(write(tmp_path, text))


def test_a_voice_lies_over_the_model(tmp_path: Path) -> None:
    frontend = TextFrontend(lexicon=write(tmp_path, "[en]\nfoo = 'F UW1'\nbar = 'B AA1'"))
    voice = frontend.voice_lexicon(write(tmp_path, "[en]\nfoo = 'F OW1'"))
    assert " ".join(frontend.read("foo bar foo", "en").symbols) == "F UW1 B AA1 F UW1"
    assert " ".join(frontend.read("Foo BAR FOO", "en", lexicon=voice).symbols) == (
        "F OW1 B AA1 F OW1"
    )


@pytest.mark.parametrize(
    ("entry", "language", "text", "symbols"),
    [
        ("[en]\nNVIDIA = 'EH0 N'", "en", "NVIDIA's own. GPU", "EH0 N Z OW1 N . JH IY1 P IY1 Y UW1"),
        ("[en]\nnvidia = 'EH0 N'", "en", "an NVIDIA-based toy", "AE1 N EH0 N B EY1 S T T OY1"),
        ("[zh]\n'重庆' = 'zhong4 qing4'", "zh", "去重慶玩吧", None),
        ("[yue]\n'香港' = 'hoeng2 gong1'", "yue", "去香港啦啦啦", None),
    ],
)
def test_words_are_read_so(
    tmp_path: Path, entry: str, language: str, text: str, symbols: str | None
) -> None:
    frontend = text_frontend()
    voice = frontend.voice_lexicon(write(tmp_path, entry))
    found = frontend.read(text, language, lexicon=voice)
    if symbols is not None:
        assert " ".join(found.symbols) == symbols
        assert found.norm_text.startswith(text[:3])
        return
    plain = frontend.read(text, language)
    changed = [(a, b) for a, b in zip(plain.symbols, found.symbols, strict=True) if a != b]
    assert changed in (
        [("ch", "zh"), ("ong2", "ong4")],
        [("Yoeng1", "Yoeng2"), ("Yong2", "Yong1")],
    )


def test_japanese_and_korean_words_are_respelled() -> None:
    words = {"ja": {"東雲": "しののめ", "東": "ひがし"}, "ko": {"값": "갑"}}
    built = lexicon.build(words, text_frontend()._reader.syllables)
    assert built.respell("ja", "東雲の東") == "しののめのひがし"
    assert built.respell("ko", "값이 값") == "갑이 갑"
    assert built.respell("en", "東雲") == "東雲"
    assert built.respell("ja", "") == ""
    assert built.respell("ja", "雲東") == "雲ひがし"


@pytest.mark.parametrize("language", ["en", "zh", "ja"])
def test_a_word_of_a_thousand_characters_is_none(tmp_path: Path, language: str) -> None:
    content = f"[{language}]\n{'a' * 1_000} = 'F'"
    with pytest.raises(ConfigurationError, match=r"has 1,000 characters; allowed: up to 64$"):
        lexicon.read_words(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("[en]\na = '" + "x" * 500_000 + "'", "[en] 'a': the reading has 500,000 characters"),
        ("[zh]\n'重' = '" + "x" * 500_000 + "'", "[zh] '重': the reading has 500,000 characters"),
        ("[yue]\n'香' = '" + "x" * 1_001 + "'", "[yue] '香': the reading has 1,001 characters"),
        ("[en]\na = [" + "1," * 200_000 + "]", "[en] 'a' = [1, 1, "),
        ("[en]\na = 0x" + "f" * 5_000, "[en] 'a' = a whole number of some 6,021 digits: "),
        ("[en]\n" + "a" * 500_000 + " = ''", "[en] 'aaa"),
        ("[en]\na = 'T " + "X" * 990 + "'", "lexicon: [en] 'a': 'XXX"),
        ("[zh]\n'重' = '" + "x" * 990 + "'", "lexicon: '重': reading 'xxx"),
        ("[" + "x" * 500_000 + "]", "x.toml: ['xxx"),
        ("['" + "\\u2028" * 100 + "']", "x.toml: ['"),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_a_message_is_bounded(content: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        lexicon.check(lexicon.parse(content.encode(), "x.toml"))
    assert named in str(caught.value)
    assert len(str(caught.value)) < 1_500


def test_the_longest_readings_are_taken() -> None:
    words = {"zh": {"双" * 64: " ".join(["shuang1"] * 64)}, "en": {"a" * 64: "AH0 " * 128}}
    text = "\n".join(
        f"[{language}]\n'{word}' = '{reading}'"
        for language, entries in words.items()
        for word, reading in entries.items()
    )
    found = lexicon.parse(text.encode(), "x.toml")
    lexicon.check(found)
    assert found == words
