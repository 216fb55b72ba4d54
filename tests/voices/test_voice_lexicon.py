"""A voice's own lexicon: read with the voice, live when it changes, refused when it is broken."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from click.testing import CliRunner
from voices.voice_files import make_voice, write_wave

from gsv.commands.voices import add_voice
from gsv.errors import VoiceError
from gsv.voices import VoiceFolder, describe, load_voice

NVIDIA = "[en]\nNVIDIA = 'EH0 N V IH1 D IY0 AH0'\n"


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def with_lexicon(folder: Path, text: str) -> Path:
    make_voice(folder)
    (folder / "lexicon.toml").write_text(text, encoding="utf-8")
    return folder


def test_it_comes_with_the_voice(tmp_path: Path) -> None:
    text = NVIDIA + "[zh]\n'重庆' = 'chong2 qing4'\n[yue]\n'香港' = 'hoeng1 gong2'\n"
    voice = load_voice(with_lexicon(tmp_path / "voices" / "alice", text))
    assert voice.lexicon["zh"] == {"重庆": "chong2 qing4"}
    (entry,), errors = VoiceFolder(tmp_path / "voices").scan()
    assert errors == []
    assert describe(entry)["lexicon"] == {"en": 1, "zh": 1, "yue": 1}
    assert describe(entry)["digest"] == voice.digest


def test_coming_changing_and_going_are_live(tmp_path: Path) -> None:
    made, clock = make_voice(tmp_path / "voices" / "alice"), Clock()
    voices = VoiceFolder(tmp_path / "voices", clock=clock)
    found = [voices.get("alice")]
    for text in (NVIDIA, NVIDIA.replace("IH1", "IY1"), None):
        if text is None:
            (made / "lexicon.toml").unlink()
        else:
            (made / "lexicon.toml").write_text(text)
        clock.now += 1.1
        found.append(voices.get("alice"))
    assert [dict(voice.lexicon.get("en", {})) for voice in found] == [
        {},
        {"NVIDIA": "EH0 N V IH1 D IY0 AH0"},
        {"NVIDIA": "EH0 N V IY1 D IY0 AH0"},
        {},
    ]
    assert len({voice.digest for voice in found}) == 3
    assert found[0].digest == found[3].digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[en", "lexicon lexicon.toml: can't be read"),
        ("x = " + "[" * 20_000, "lexicon lexicon.toml: can't be read"),
        ("[fr]\na = 'b'", r"\[fr\] must be a table of words; allowed: \[zh\]"),
        ("[en]\nfoo = 'F UW9'", "'UW9' is not an ARPAbet phoneme"),
        ("[zh]\n'重庆' = 'chong2'", "2 characters and 1 readings"),
        ("[zh]\n'重' = 'chong9'", "chong9"),
        ("[yue]\n'香' = 'xoeng7'", "xoeng7"),
        ("#" * 1_100_000, "1,100,000 bytes; allowed: up to 1,048,576"),
    ],
)
def test_a_broken_one_breaks_its_voice_alone(
    tmp_path: Path, text: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with_lexicon(tmp_path / "voices" / "bad", text)
    make_voice(tmp_path / "voices" / "good")
    voices = VoiceFolder(tmp_path / "voices")
    with caplog.at_level(logging.WARNING):
        entries, errors = voices.scan()
    assert [entry.base.name for entry in entries] == ["good"]
    assert len(errors) == len(caplog.records) == 1
    with pytest.raises(VoiceError, match=message) as caught:
        voices.get("bad")
    assert str(caught.value).startswith("voice bad: ")
    assert str(tmp_path) not in str(caught.value)


def test_links_that_lead_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret.toml"
    secret.write_text(NVIDIA)
    made = make_voice(tmp_path / "voices" / "eve")
    (made / "lexicon.toml").symlink_to(secret)
    with pytest.raises(VoiceError, match="'lexicon.toml' leaves the voice's folder"):
        load_voice(made)
    secret.unlink()
    with pytest.raises(VoiceError, match="'lexicon.toml' leaves the voice's folder"):
        load_voice(made)


def test_it_may_be_given_when_the_voice_is_added(tmp_path: Path) -> None:
    lexicon, folder = tmp_path / "words.toml", tmp_path / "voices"
    arguments = ["alice", "--reference", str(write_wave(tmp_path / "a.wav")), "--text", "a"]
    arguments += ["--language", "en", "--voices", str(folder), "--lexicon", str(lexicon)]
    lexicon.write_text("[en]\nfoo = 'F UW9'")
    failed = CliRunner().invoke(add_voice, arguments)
    assert failed.exit_code == 1
    assert "'UW9' is not an ARPAbet phoneme" in failed.output
    assert not (folder / "alice").exists()
    lexicon.write_text(NVIDIA)
    assert CliRunner().invoke(add_voice, arguments).exit_code == 0
    assert set(load_voice(folder / "alice").lexicon) == {"en"}
    further = CliRunner().invoke(add_voice, ["alice/calm", *arguments[1:]])
    assert "no weights, sampling or lexicon of its own" in further.output
