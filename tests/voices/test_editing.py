"""Adding and removing voices: all checks before anything is written, and nothing left behind."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from checkpoints.files import marker_bomb, save_pickle
from voices.voice_files import RATE, make_voice, speech, write_wave
from voices.weights_files import full_file, gpt_file, lora_file, tiny_shapes

from gsv.checkpoints.lora import Lora, read_lora
from gsv.checkpoints.voice_editing import NewVoice, add_voice, remove_voice
from gsv.checkpoints.voice_weights import parameters_in, read_gpt, read_sovits
from gsv.errors import CheckpointError, GsvError, VoiceError
from gsv.voices import VoiceFolder

SHAPES = tiny_shapes()


def new(tmp_path: Path, name: str = "alice", seconds: float = 4.0, **values: Any) -> NewVoice:
    recording = write_wave(tmp_path / "take.wav", seconds)
    return NewVoice(name, recording, values.pop("text", "Some words."), "en", **values)


def test_a_plain_voice_keeps_its_recording_byte_for_byte(tmp_path: Path) -> None:
    asked = new(tmp_path, sampling={"top_k": 5}, text='She says: "no \\ yes".\n你好\x7f')
    added = add_voice(tmp_path / "voices", asked, SHAPES)
    voice = VoiceFolder(tmp_path / "voices").get("alice")
    assert voice == added.entry.base
    assert voice.text == asked.text
    assert voice.sampling == {"top_k": 5}
    assert voice.reference.read_bytes() == asked.recording.read_bytes()


def test_a_voice_with_its_own_weights(tmp_path: Path) -> None:
    gpt, lora = gpt_file(tmp_path / "a-e15.ckpt"), lora_file(tmp_path / "a_l8.pth")
    added = add_voice(tmp_path / "voices", new(tmp_path, gpt=gpt, sovits=lora), SHAPES)
    assert added.weights["sovits"].rank == 8
    base = added.entry.base
    assert base.gpt is not None
    assert base.sovits is not None
    assert {base.gpt.suffix, base.sovits.suffix} == {".safetensors"}
    stored = read_gpt(base.gpt, SHAPES.gpt)
    original = read_gpt(gpt, SHAPES.gpt)
    assert all(torch.equal(stored[name], value) for name, value in original.items())
    assert parameters_in(base.gpt) == sum(value.numel() for value in original.values())
    kept, first = read_sovits(base.sovits, SHAPES.sovits), read_lora(lora, SHAPES.sovits)
    assert isinstance(kept, Lora)
    assert kept.rank == 8
    assert kept.projections.keys() == first.projections.keys()
    assert kept.replaced.keys() == first.replaced.keys()
    for name, pair in first.projections.items():
        assert torch.equal(kept.projections[name].up, pair.up)
        assert torch.equal(kept.projections[name].down, pair.down)


def test_a_full_sovits(tmp_path: Path) -> None:
    full = full_file(tmp_path / "full.pth")
    added = add_voice(tmp_path / "voices", new(tmp_path, sovits=full), SHAPES)
    assert added.weights["sovits"].kind == "SoVITS"
    assert added.entry.base.sovits is not None
    assert isinstance(read_sovits(added.entry.base.sovits, SHAPES.sovits), dict)


def test_further_references(tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    gpt = gpt_file(tmp_path / "a.ckpt")
    add_voice(folder, new(tmp_path, gpt=gpt), SHAPES)
    add_voice(folder, new(tmp_path, "alice/happy", 5.0, text="Hurray!"), SHAPES)
    with pytest.raises(VoiceError, match="exists already"):
        add_voice(folder, new(tmp_path, "alice/happy"), SHAPES)
    add_voice(folder, new(tmp_path, "alice/happy", text="Hooray!"), SHAPES, replace=True)
    happy = VoiceFolder(folder).get("alice/happy")
    assert happy.text == "Hooray!"
    assert happy.gpt == folder / "alice" / "gpt.safetensors"
    with pytest.raises(VoiceError, match="no weights"):
        add_voice(folder, new(tmp_path, "alice/sad", gpt=gpt), SHAPES)
    with pytest.raises(VoiceError, match="nobody"):
        add_voice(folder, new(tmp_path, "nobody/sad"), SHAPES)
    remove_voice(folder, "alice/happy")
    assert VoiceFolder(folder).get("alice").references == ()
    with pytest.raises(VoiceError, match="no reference 'happy'"):
        remove_voice(folder, "alice/happy")


def test_kept_features_are_left_to_the_server(tmp_path: Path) -> None:
    """Another process may be writing them while the folder is copied."""
    folder = tmp_path / "voices"
    add_voice(folder, new(tmp_path), SHAPES)
    (folder / "alice" / ".cache").mkdir()
    (folder / "alice" / ".cache" / "text-key.safetensors").symlink_to("gone")
    add_voice(folder, new(tmp_path, "alice/happy", 5.0, text="Hurray!"), SHAPES)
    assert not (folder / "alice" / ".cache").exists()
    remove_voice(folder, "alice")
    assert list(folder.iterdir()) == []


def test_a_long_recording_gets_an_offer(tmp_path: Path) -> None:
    asked = new(tmp_path, seconds=14.0)
    with pytest.raises(VoiceError, match=r"14.0 s long; allowed: 3 to 10 s. The best part is .* "
                       r"--window auto") as caught:  # fmt: skip
        add_voice(tmp_path / "voices", asked, SHAPES)
    assert not (tmp_path / "voices").exists()
    offered = str(caught.value).split("--window ")[1].split(" ")[0]
    added = add_voice(tmp_path / "voices", new(tmp_path, seconds=14.0, window="auto"), SHAPES)
    assert added.window is not None
    assert offered == f"{added.window[0]:.2f}:{added.window[1]:.2f}"
    samples, rate = soundfile.read(added.entry.base.reference, dtype="float32")
    begin = round(added.window[0] * rate)
    np.testing.assert_allclose(samples, speech(14.0)[begin : begin + len(samples)], atol=1 / 32_000)


@pytest.mark.parametrize("window", ["1:2:3", "a:b", "5:3", "-1:5", "3:99", "nan:5", ":"])
def test_windows_that_make_no_sense(tmp_path: Path, window: str) -> None:
    with pytest.raises(VoiceError, match="START:END|3 to 10 s"):
        add_voice(tmp_path / "voices", new(tmp_path, seconds=14.0, window=window), SHAPES)


@pytest.mark.parametrize("name", ["../x", "/x", "a b", ".x", "x/../y", "x/", "", "a/b/c", "x\n"])
def test_names_with_tricks(tmp_path: Path, name: str) -> None:
    with pytest.raises(VoiceError, match="allowed: letters, digits"):
        add_voice(tmp_path / "voices", new(tmp_path, name), SHAPES)
    with pytest.raises(VoiceError, match="no voice"):
        remove_voice(tmp_path / "voices", name)
    assert not (tmp_path / "voices").exists()


def refused(tmp_path: Path, message: str, **values: Any) -> None:
    """Nothing is added and nothing is left behind."""
    make_voice(tmp_path / "voices" / "other")
    with pytest.raises(GsvError, match=message) as caught:
        add_voice(tmp_path / "voices", new(tmp_path, **values), SHAPES)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "voices").iterdir()] == ["other"]


def test_bad_recordings(tmp_path: Path) -> None:
    refused(tmp_path, "2.00 s long", seconds=2.0)
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, np.zeros(4 * RATE), RATE)
    with pytest.raises(VoiceError, match="nothing but silence"):
        add_voice(tmp_path / "voices", NewVoice("a", quiet, "b", "en"), SHAPES)
    quiet.write_bytes(b"no sound")
    with pytest.raises(VoiceError, match="not a readable sound"):
        add_voice(tmp_path / "voices", NewVoice("a", quiet, "b", "en"), SHAPES)


def test_bad_texts_languages_and_defaults(tmp_path: Path) -> None:
    refused(tmp_path, "text must be a text", text=" ")
    refused(tmp_path, "text: is not UTF-8", text="caf\udce9 au lait")
    refused(tmp_path, "text has 511 characters; allowed: up to 510", text="a " * 255 + "a")
    refused(tmp_path, "TOP_K: got 0", sampling={"top_k": 0})
    asked = NewVoice("a", write_wave(tmp_path / "x.wav"), "b", "klingon")
    with pytest.raises(VoiceError, match="klingon"):
        add_voice(tmp_path / "voices", asked, SHAPES)


def test_hostile_and_wrong_checkpoints(tmp_path: Path) -> None:
    marker = tmp_path / "exploded"
    bomb = save_pickle(pickle.dumps({"weight": marker_bomb(marker)}), tmp_path / "bomb.pth")
    refused(tmp_path, "bomb.pth", sovits=bomb)
    refused(tmp_path, "bomb.pth", gpt=bomb)
    assert not marker.exists()
    refused(
        tmp_path, "this is a v3 SoVITS LoRA", sovits=lora_file(tmp_path / "3.pth", header=b"03")
    )
    gpt = gpt_file(tmp_path / "g.ckpt")
    refused(tmp_path, "this is a GPT file", sovits=gpt)
    refused(tmp_path, "wanted: the semantic model", gpt=full_file(tmp_path / "f.pth"))
    (tmp_path / "cut.ckpt").write_bytes(gpt.read_bytes()[:5_000])
    refused(tmp_path, "cut.ckpt", gpt=tmp_path / "cut.ckpt")
    official = tiny_shapes().__class__()
    with pytest.raises(CheckpointError, match="hidden_dim .* instead of 512.*fine-tuned from"):
        add_voice(tmp_path / "voices", new(tmp_path, gpt=gpt), official)


def test_an_existing_voice_is_only_replaced_when_told(tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    add_voice(folder, new(tmp_path), SHAPES)
    with pytest.raises(CheckpointError, match="exists already"):
        add_voice(folder, new(tmp_path, text="Other."), SHAPES)
    add_voice(folder, new(tmp_path, text="Other."), SHAPES, replace=True)
    assert VoiceFolder(folder).get("alice").text == "Other."
    remove_voice(folder, "alice")
    assert list(folder.iterdir()) == []


def test_stored_weights_that_were_tampered_with(tmp_path: Path) -> None:
    added = add_voice(tmp_path / "voices", new(tmp_path, gpt=gpt_file(tmp_path / "g.ckpt")), SHAPES)
    path = added.entry.base.gpt
    assert path is not None
    with pytest.raises(CheckpointError, match="holds a GPT, wanted: a SoVITS"):
        read_sovits(path, SHAPES.sovits)
    with pytest.raises(CheckpointError, match="wrong shapes"):
        read_gpt(path, tiny_shapes().gpt.__class__(hidden_dim=128, heads=4, layers=2))
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + size]))
    header["__metadata__"]["gsv_voice"] = header["__metadata__"]["gsv_voice"].replace("1", "9", 1)
    changed = json.dumps(header).encode().ljust(size)
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + bytes(data[8 + size :]))
    with pytest.raises(CheckpointError, match="another version"):
        read_gpt(path, SHAPES.gpt)
    path.write_bytes(bytes(data[:200]))
    with pytest.raises(CheckpointError, match="damaged"):
        read_gpt(path, SHAPES.gpt)


def test_what_people_wrote_stays(tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    add_voice(folder, new(tmp_path), SHAPES)
    file = folder / "alice" / "voice.toml"
    written = (
        "# Alice, recorded in May\n"
        + file.read_text(encoding="utf-8")
        + "\n[sampling]  # tried by ear\ntop_k = 5  # not 6\n"
    )
    file.write_text(written, encoding="utf-8")
    add_voice(folder, new(tmp_path, "alice/happy", 5.0, text="Hurray!"), SHAPES)
    text = file.read_text(encoding="utf-8")
    for line in written.splitlines():
        assert line in text.splitlines()
    assert VoiceFolder(folder).get("alice/happy").text == "Hurray!"
    remove_voice(folder, "alice/happy")
    assert file.read_text(encoding="utf-8").strip() == written.strip()


@pytest.mark.parametrize(
    "references",
    [
        '\n[references]\nsad = { reference = "reference.wav", text = "x", language = "en" }\n',
        '\n[references.sad]  # a\nreference = "reference.wav"\ntext = "x"\nlanguage = "en"\n',
        '\n[references]\n[references."s.d"]\nreference = "reference.wav"\n'
        'text = "x"\nlanguage = "en"\n[sampling]\ntop_k = 3\n'
        '[references.sad]\nreference = "reference.wav"\ntext = "x"\nlanguage = "en"\n',
    ],
)
def test_other_ways_to_write_references(tmp_path: Path, references: str) -> None:
    folder = tmp_path / "voices"
    add_voice(folder, new(tmp_path), SHAPES)
    file = folder / "alice" / "voice.toml"
    file.write_text(file.read_text(encoding="utf-8") + references, encoding="utf-8")
    before = VoiceFolder(folder).get("alice").references
    add_voice(folder, new(tmp_path, "alice/happy", 5.0, text='Hurray "!" \n\x7f'), SHAPES)
    assert VoiceFolder(folder).get("alice/happy").text == 'Hurray "!" \n\x7f'
    remove_voice(folder, "alice/sad")
    left = {*before, "happy"} - {"sad"}
    assert set(VoiceFolder(folder).get("alice").references) == left
