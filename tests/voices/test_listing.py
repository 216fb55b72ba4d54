"""The Triton model that lists voices, as the client reads it."""

from __future__ import annotations

from pathlib import Path

from voices.voice_files import make_voice

from gsv.errors import InvalidRequest
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
