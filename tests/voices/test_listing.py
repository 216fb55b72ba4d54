"""The Triton model that lists voices, as the client reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from voices.voice_files import make_voice

from gsv.errors import InvalidRequest, VoiceError
from gsv.stages.base import Place
from gsv.stages.voices import Request, Result, Settings, VoicesStage
from gsv_client.answers import Voices

CALM = "[references.calm]\nreference = 'reference.wav'\ntext = 'Calm.'\n[sampling]\ntop_k = 5"


def stage_of(folder: Path) -> VoicesStage:
    make_voice(folder / "voices" / "alice", CALM, text="你好")
    make_voice(folder / "voices" / "bob")
    make_voice(folder / "voices" / "eve", language="xx")
    place = Place(folder / "repository" / "voices" / "1")
    stage = VoicesStage(place, Settings(default_voice="bob"))
    stage.warm_up()
    return stage


def test_the_client_reads_the_list(tmp_path: Path) -> None:
    (answer,) = stage_of(tmp_path).run_batch([Request()])
    assert isinstance(answer, Result)
    listed = Voices.from_json(answer.voices)
    alice, bob = listed
    assert (alice.name, alice.language, alice.text) == ("alice", "en", "你好")
    assert alice.references == ("calm",)
    assert alice.details["sampling"] == {"top_k": 5}
    assert (bob.name, bob.default, alice.default) == ("bob", True, False)
    assert "voice eve: language 'xx'" in listed.broken[0]
    assert str(tmp_path) not in answer.voices


def test_one_voice_and_an_unknown_one(tmp_path: Path) -> None:
    one, unknown = stage_of(tmp_path).run_batch([Request("alice"), Request("nobody")])
    assert isinstance(one, Result)
    assert [voice.name for voice in Voices.from_json(one.voices)] == ["alice"]
    assert isinstance(unknown, InvalidRequest)


def test_names_that_are_not_utf8_do_not_end_the_list(tmp_path: Path) -> None:
    stage = stage_of(tmp_path)
    os.rename(
        make_voice(tmp_path / "voices" / "odd"), os.fsencode(tmp_path / "voices") + b"/od\xff\xfed"
    )
    cache = tmp_path / "voices" / "alice" / ".cache"
    cache.mkdir(exist_ok=True)
    with open(os.fsencode(cache) + b"/semantic-\xff.bin", "wb") as file:
        file.write(b"x")
    (answer,) = stage.run_batch([Request()])
    assert isinstance(answer, Result)
    listed = Voices.from_json(answer.voices.encode("utf-8").decode("utf-8"))
    assert [voice.name for voice in listed] == ["alice", "bob"]
    assert any("od\\udcff\\udcfed" in text for text in listed.broken), listed.broken


@pytest.mark.parametrize(
    "sampling", ["top_p = 1" + "0" * 400, "top_k = 1" + "0" * 400, "top_k = 0x" + "f" * 5_000]
)
def test_a_hostile_folder_does_not_end_the_list(tmp_path: Path, sampling: str) -> None:
    make_voice(tmp_path / "voices" / "evil", f"[sampling]\n{sampling}")
    linked = make_voice(tmp_path / "voices" / "linked", gpt="g.ckpt")
    with open(os.fsencode(linked) + b"/\xff.ckpt", "wb") as file:
        file.write(b"x")
    os.symlink(b"\xff.ckpt", linked / "g.ckpt")
    stage = stage_of(tmp_path)  # which looks at all of them, as the server does when it loads it
    answer, evil = stage.run_batch([Request(), Request("evil")])
    assert isinstance(answer, Result)
    listed = Voices.from_json(answer.voices.encode("utf-8").decode("utf-8"))
    assert [voice.name for voice in listed] == ["alice", "bob"]
    assert [text.partition(":")[0] for text in listed.broken] == [
        "voice eve", "voice evil", "voice linked",
    ]  # fmt: skip
    assert isinstance(evil, VoiceError)


def test_a_voice_that_is_not_in_the_list_is_told_briefly(tmp_path: Path) -> None:
    for number in range(60):
        make_voice(tmp_path / "voices" / f"{'x' * 50}{number:02}")
    stage = stage_of(tmp_path)
    found = stage._voices.get("alice").pinned
    (answer,) = stage.run_batch([Request(found)])
    assert isinstance(answer, InvalidRequest)
    assert len(str(answer)) < 2_000
