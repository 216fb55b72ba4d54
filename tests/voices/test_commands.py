"""`gsv voices` on a folder and `gsv doctor --voices`, as people call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from voices.voice_files import make_voice, write_wave
from voices.weights_files import gpt_file

from gsv.commands import serve
from gsv.commands.doctor import check_voices
from gsv.repository import served_voices
from gsv.voices import VoiceFolder
from gsv.voices.features import FeatureStore, Layout
from gsv_client.cli import main


def gsv(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def add(folder: Path, name: str, recording: Path, *more: object) -> Result:
    text = ("--text", "你好", "--language", "zh")
    place = ("--voices", folder)
    return gsv("voices", "add", name, "--reference", recording, *text, *place, *more)


def test_add_list_show_remove(tmp_path: Path) -> None:
    folder, recording = tmp_path / "voices", write_wave(tmp_path / "a.wav")
    done = add(folder, "alice", recording, "--sampling", "top_k=5", "--sampling", "speed=1.1")
    assert done.exit_code == 0, done.output
    assert add(folder, "alice/calm", recording).exit_code == 0
    listed = gsv("voices", "list", "--voices", folder)
    assert "alice  zh  你好  (references: calm)" in listed.output
    shown = json.loads(gsv("voices", "show", "alice", "--voices", folder, "--json").stdout)
    assert shown["sampling"] == {"top_k": 5, "speed": 1.1}
    assert set(shown["recordings"]) == {"alice", "alice/calm"}
    assert shown["recordings"]["alice"]["seconds"] == 4.0
    assert "alice/calm: 4.00 s" in gsv("voices", "show", "alice", "--voices", folder).output
    assert gsv("voices", "remove", "alice/calm", "--voices", folder).exit_code == 0
    removed = gsv("voices", "remove", "alice", "--voices", folder, "--json")
    assert json.loads(removed.stdout) == {"removed": "alice"}
    assert json.loads(gsv("voices", "list", "--voices", folder, "--json").stdout) == []


def test_json_of_add(tmp_path: Path) -> None:
    recording = write_wave(tmp_path / "a.wav", seconds=12)
    done = add(tmp_path / "voices", "bo", recording, "--window", "auto", "--json")
    values: dict[str, Any] = json.loads(done.stdout)
    assert values["name"] == "bo"
    assert 5 <= values["window"][1] - values["window"][0] <= 9.01
    assert values["recording"]["remarks"] == []
    assert "took" in done.stderr


def one_line(done: Result, words: str, code: int = 1) -> None:
    assert done.exit_code == code, done.output
    assert words in done.output
    assert "Traceback" not in done.output
    assert len(done.stderr.strip().splitlines()) == 1 or code == 2


def test_errors_are_one_line(tmp_path: Path) -> None:
    folder, recording = tmp_path / "voices", write_wave(tmp_path / "a.wav")
    one_line(gsv("voices", "list", "--voices", folder), "no such folder")
    one_line(add(folder, "../x", recording), "allowed: letters, digits")
    one_line(add(folder, "x", recording, "--sampling", "seed=1"), "allowed: top_k", 2)
    one_line(add(folder, "x", recording, "--sampling", "top_k=x"), "must be an integer", 2)
    one_line(add(folder, "x", recording, "--sampling", "top_k=0"), "TOP_K: got 0")
    one_line(add(folder, "x", recording, "--gpt", recording), "a.wav: it is not a checkpoint")
    one_line(gsv("voices", "remove", "nobody", "--voices", folder), "no voice 'nobody'")
    make_voice(folder / "good")
    one_line(gsv("voices", "show", "nobody", "--voices", folder), "allowed: good")


def test_a_broken_voice_is_listed_as_such(tmp_path: Path) -> None:
    make_voice(tmp_path / "good")
    make_voice(tmp_path / "bad", language="xx")
    listed = gsv("voices", "list", "--voices", tmp_path)
    assert listed.exit_code == 1
    assert "good" in listed.stdout
    assert "broken: voice bad: language 'xx'" in listed.stderr


def test_kept_features_are_told(tmp_path: Path) -> None:
    made = make_voice(tmp_path / "alice", "[references.calm]\nreference='reference.wav'\ntext='b'")
    store = FeatureStore("text", "weights", {"ids": Layout(np.int32, (None,))})
    voice = VoiceFolder(tmp_path).get("alice/calm")
    store.save(voice, "key", {"ids": np.zeros(3, np.int32)})
    shown = gsv("voices", "show", "alice", "--voices", tmp_path)
    assert "features of alice: none kept yet" in shown.output
    assert "features of alice/calm: text" in shown.output
    told = {f.subject: (f.level, f.message) for f in check_voices(None, tmp_path)}
    assert told == {"voice alice": ("ok", "en, 2 recordings, features of 1 kept")}
    (made / ".cache" / "text-broken.safetensors").write_bytes(b"x")
    (made / ".cache" / "text-old.safetensors").write_bytes(
        (made / ".cache" / "text-key.safetensors").read_bytes()
    )
    make_voice(made, "[references.calm]\nreference='reference.wav'\ntext='c'")
    features = json.loads(gsv("voices", "show", "alice", "--voices", tmp_path, "--json").stdout)[
        "features"
    ]
    assert features["kept"] == {"alice": [], "alice/calm": []}
    assert features["outdated"] == 2
    assert features["broken"] == ["text-broken.safetensors"]
    (finding,) = check_voices(None, tmp_path)
    assert (finding.level, finding.message) == (
        "warning", ".cache/text-broken.safetensors is broken",
    )  # fmt: skip


def test_doctor(tmp_path: Path) -> None:
    make_voice(tmp_path / "good")
    make_voice(tmp_path / "bad", language="xx")
    small = make_voice(tmp_path / "small", gpt="gpt.ckpt")
    gpt_file(small / "gpt.ckpt")  # of the tiny model, not of the official one
    write_wave(make_voice(tmp_path / "short") / "reference.wav", seconds=2.6)
    found = {f.subject: (f.level, f.message) for f in check_voices(None, tmp_path)}
    assert found["voice good"] == ("ok", "en, 1 recordings")
    assert found["voices"][0] == "error"
    assert "xx" in found["voices"][1]
    assert "fine-tuned" in found["voice small"][1]
    assert found["voice short"] == ("error", "2.60 s long; allowed: 3 to 10 s")
    assert list(check_voices(None, None)) == []
    (empty,) = check_voices(None, tmp_path / "nothing")
    assert empty.level == "warning"
    assert gsv("doctor", "--voices", tmp_path).exit_code == 1


@pytest.mark.parametrize(
    ("text", "language"), [("😀", "en"), ("你好", "en"), ("Привет", "auto"), ("Привет", "zh")]
)
def test_a_transcript_without_words_of_its_language(
    tmp_path: Path, text: str, language: str
) -> None:
    recording = write_wave(tmp_path / "a.wav")
    done = gsv(
        *("voices", "add", "alice", "--reference", recording, "--voices", tmp_path / "voices"),
        *("--text", text, "--language", language),
    )
    one_line(done, f"has no words that are read as {language}")
    assert not (tmp_path / "voices" / "alice").exists()


def test_a_file_of_another_format_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    done = add(tmp_path / "voices", "alice", tmp_path / "a.m4a")
    one_line(done, "allowed: WAV, FLAC, OGG, MP3, AIFF; convert others, such as with: ffmpeg -i")


def test_a_length_just_outside_does_not_look_allowed(tmp_path: Path) -> None:
    recording = write_wave(tmp_path / "a.wav", seconds=10.001)
    one_line(add(tmp_path / "voices", "alice", recording), "10.0010 s long; allowed: 3 to 10 s")


def config(repository: Path, default: str) -> Path:
    place = repository / "gpt_sovits_v4" / "config.pbtxt"
    place.parent.mkdir(parents=True)
    place.write_text(
        'parameters [\n  { key: "voice_folder" value: { string_value: "../voices" } },\n'
        f'  {"{"} key: "default_voice" value: {"{"} string_value: "{default}" {"}"} {"}"}\n]\n'
    )
    return repository


def test_doctor_looks_for_the_default_voice(tmp_path: Path) -> None:
    make_voice(tmp_path / "voices" / "alice")
    for default, level in (("alice", "ok"), ("alice/calm", "ok"), ("sample", "error"), ("", "ok")):
        repository = config(tmp_path / f"repository{default.replace('/', '')}", default)
        found = {f.subject: f for f in check_voices(repository, None)}
        assert found["default voice"].level == level, default
        assert found["voice alice"].level == "ok"
    assert "sample is not in " in found_of(tmp_path / "repositorysample")


def found_of(repository: Path) -> str:
    return next(f.message for f in check_voices(repository, None) if f.subject == "default voice")


@pytest.mark.parametrize(
    ("default", "names", "shown"),
    [
        ("alice", ["alice"], 'try: gsv say "Hello there." --url'),
        ("sample", ["bob"], 'try: gsv say "Hello there." --voice bob --url'),
        ("", ["bob"], 'try: gsv say "Hello there." --voice bob --url'),
        ("sample", [], "no voices in "),
    ],
)
def test_serve_prints_a_command_that_works(
    tmp_path: Path, default: str, names: list[str], shown: str
) -> None:
    for name in names:
        make_voice(tmp_path / "voices" / name)
    repository = config(tmp_path / "repository", default)
    assert serve._what_to_try(repository, "http://127.0.0.1:8000").startswith(shown)
    served = served_voices(repository)
    assert served is not None
    assert (served.default, served.folder) == (default, (tmp_path / "voices").resolve())
