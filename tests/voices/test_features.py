"""Features beside the voice: found again, checked, bounded, and no way out of the folder."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from voices.voice_files import make_voice, write_wave

from gsv.voices import VoiceFolder
from gsv.voices.features import FOLDER, Arrays, FeatureStore, Layout, kept_files

LAYOUT = {"ids": Layout(np.int32, (None,), below=10), "mel": Layout(np.float32, (4, None))}
CALM = "[references.calm]\nreference = 'calm.wav'\ntext = 'Calm.'"


def arrays(value: int = 1) -> Arrays:
    return {
        "ids": np.array([value, 2], np.int32),
        "mel": np.full((4, 3), value / 8, np.float32),
    }


@pytest.fixture
def voices(tmp_path: Path) -> VoiceFolder:
    write_wave(make_voice(tmp_path / "alice", CALM, seed=1) / "calm.wav", seed=2)
    return VoiceFolder(tmp_path)


def store(encoder: str | None = "weights", kind: str = "acoustic") -> FeatureStore:
    return FeatureStore(kind, encoder, LAYOUT)


def only_file(voices: VoiceFolder) -> Path:
    (path,) = (voices.folder / "alice" / FOLDER).iterdir()
    return path


def test_another_instance_finds_them(voices: VoiceFolder) -> None:
    alice, first, second = voices.get("alice"), store(), store()
    key = first.key(alice)
    assert first.load(alice, key) is None
    first.save(alice, key, arrays())
    found = second.load(alice, second.key(alice))
    assert found is not None
    for name, value in arrays().items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype


def test_the_key_is_all_that_they_depend_on(voices: VoiceFolder) -> None:
    """Audio, text and language, weights, kind, and the voice's own part; nothing else."""
    folder = voices.folder / "alice"
    keys = {store().key(voices.get("alice"))}

    def another(key: str) -> None:
        assert key not in keys
        keys.add(key)

    another(store("others").key(voices.get("alice")))
    another(store(kind="text").key(voices.get("alice")))
    another(store().key(voices.get("alice"), "own quantizer"))
    another(store().key(voices.get("alice/calm")))
    make_voice(folder, CALM, seed=1, text="Other words.")
    another(store().key(voices.get("alice", fresh=True)))
    make_voice(folder, CALM, seed=5, text="Other words.")
    another(store().key(voices.get("alice", fresh=True)))
    make_voice(folder, CALM, seed=5, text="Other words.", language="zh")
    key = store().key(voices.get("alice", fresh=True))
    another(key)
    make_voice(folder, CALM + "\n[sampling]\ntop_k = 3", seed=5, text="Other words.", language="zh")
    assert store().key(voices.get("alice", fresh=True)) == key


def test_the_cache_is_no_change_of_the_voice(voices: VoiceFolder) -> None:
    before = voices.get("alice")
    store().save(before, store().key(before), arrays())
    assert voices.get("alice", fresh=True) is before
    entries, errors = voices.scan()
    assert ([entry.base.name for entry in entries], errors) == (["alice"], [])


def damaged(data: bytes) -> dict[str, bytes]:
    middle, header = len(data) - 5, data.index(b"mel")
    return {
        "empty": b"",
        "cut short": data[:-4],
        "a byte of an array": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "a byte of the header": data[:header] + b"m3l" + data[header + 3 :],
        "nonsense": b"\xff" * 100,
        "longer": data + b"\0" * 4,
    }


@pytest.mark.parametrize(
    "how",
    ["empty", "cut short", "a byte of an array", "a byte of the header", "nonsense", "longer"],
)
def test_a_broken_file_is_made_anew(
    voices: VoiceFolder, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    alice, kept = voices.get("alice"), store()
    key = kept.key(alice)
    kept.save(alice, key, arrays())
    path = only_file(voices)
    path.write_bytes(damaged(path.read_bytes())[how])
    with caplog.at_level(logging.WARNING):
        assert kept.load(alice, key) is None
    (record,) = caplog.records
    assert "voice alice: .cache/acoustic-" in record.message
    assert "is broken and made anew" in record.message
    (told,) = kept_files(voices.folder / "alice")
    assert told.problem
    kept.save(alice, key, arrays(3))
    found = kept.load(alice, key)
    assert found is not None
    assert found["ids"][0] == 3


def test_files_made_to_do_harm(voices: VoiceFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Well-formed, but not what the encoder makes: ids out of range, values, shapes, types."""
    alice, kept = voices.get("alice"), store()
    key = kept.key(alice)
    good = arrays()
    for wrong in (
        {"ids": np.array([10], np.int32)},
        {"ids": np.array([-1], np.int32)},
        {"ids": np.array([1], np.int64)},
        {"mel": np.full((4, 3), np.nan, np.float32)},
        {"mel": np.zeros((5, 3), np.float32)},
        {"more": np.zeros(3, np.float32)},
    ):
        kept.save(alice, key, good | wrong)
        assert kept.load(alice, key) is None
    assert len(caplog.records) == 6


def test_links_and_pipes_in_place_of_files(voices: VoiceFolder, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    alice, kept = voices.get("alice"), store()
    key = kept.key(alice)
    kept.save(alice, key, arrays())
    path = only_file(voices)
    path.rename(outside / "file")
    path.symlink_to(outside / "file")
    assert kept.load(alice, key) is None, "a link out of the folder is not followed"
    kept.save(alice, key, arrays(5))
    assert not path.is_symlink()
    path.unlink()
    os.mkfifo(path)
    assert kept.load(alice, key) is None
    assert kept_files(voices.folder / "alice")[0].problem
    shutil.rmtree(path.parent)
    (outside / "file").unlink()
    path.parent.symlink_to(outside)
    kept.save(alice, key, arrays())
    assert list(outside.iterdir()) == [], "nothing is written through a link"
    assert kept.load(alice, key) is None


def test_a_folder_that_can_t_be_written_is_no_error(
    voices: VoiceFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    alice, kept = voices.get("alice"), store()
    with monkeypatch.context() as patch:  # root may write anywhere
        patch.setattr(os, "mkdir", refuse)
        kept.save(alice, kept.key(alice), arrays())
    kept.save(alice, kept.key(alice), arrays())
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        kept.save(alice, "other", arrays())
    assert len(list(only_file(voices).parent.iterdir())) == 1, "nothing half-written stays"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_removed_voice_does_not_come_back(voices: VoiceFolder) -> None:
    alice, kept = voices.get("alice"), store()
    shutil.rmtree(alice.folder)
    kept.save(alice, kept.key(alice), arrays())
    assert not alice.folder.exists()


def test_without_a_manifest_nothing_is_kept(voices: VoiceFolder) -> None:
    alice, kept = voices.get("alice"), store(None)
    kept.save(alice, kept.key(alice), arrays())
    assert not (alice.folder / FOLDER).exists()
    assert kept.load(alice, kept.key(alice)) is None


def test_their_number_is_bounded(voices: VoiceFolder) -> None:
    alice = voices.get("alice")
    folder = alice.folder / FOLDER
    kinds = (store(), store(kind="text"))
    for index in range(20):
        for kept in kinds:
            kept.save(alice, f"{index:02}", arrays())
            path = folder / f"{kept._kind}-{index:02}.safetensors"
            os.utime(path, (index, index))
    (folder / ".left").write_bytes(b"by a crash")
    os.utime(folder / ".left", (0, 0))
    for kept in kinds:
        kept.save(alice, "last", arrays())
    names = sorted(path.name for path in folder.iterdir())
    for kept in kinds:
        mine = [name for name in names if name.startswith(kept._kind)]
        wanted = ["13", "14", "15", "16", "17", "18", "19", "last"]
        assert mine == [f"{kept._kind}-{index}.safetensors" for index in wanted]
    assert len(names) == 16


def test_what_is_kept_is_told(voices: VoiceFolder) -> None:
    assert kept_files(voices.folder / "alice") == []
    calm = voices.get("alice/calm")
    store(kind="text").save(calm, "k", arrays())
    (told,) = kept_files(voices.folder / "alice")
    assert (told.kind, told.content, told.problem) == ("text", calm.content, "")
    assert told.size == only_file(voices).stat().st_size
