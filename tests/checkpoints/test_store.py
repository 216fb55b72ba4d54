"""Tensors and folders on disk: complete or not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch

from gsv.checkpoints.store import (
    StoredTensors,
    exchange,
    load_module_state,
    save_tensors,
    staged_folder,
)
from gsv.errors import CheckpointError


def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    matrix = torch.randn(4, 6)
    tensors = {
        "a": matrix,
        "tied": matrix,
        "row": matrix[1],
        "transposed": matrix.t(),
        "half": matrix.half(),
        "bfloat": matrix.bfloat16(),
    }
    save_tensors(tensors, tmp_path / "deep" / "a.safetensors")
    read = load_module_state(tmp_path / "deep" / "a.safetensors")
    assert set(read) == set(tensors)
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value)


def test_unreadable_tensors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file; prepare"):
        load_module_state(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="damaged"):
        load_module_state(tmp_path / "a.safetensors")


def listing(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    with staged_folder(target, replace=False) as staged:
        (staged / "file").write_text("new")
        assert not target.exists()
    assert (target / "file").read_text() == "new"
    assert listing(target.parent) == ["target"]


def fill(target: Path, content: str, *, then: BaseException | None = None) -> None:
    with staged_folder(target, replace=True) as staged:
        (staged / "file").write_text(content)
        if then is not None:
            raise then


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "target", "half", then=KeyboardInterrupt())
    assert listing(tmp_path) == []


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    with pytest.raises(OSError, match="full"):
        fill(target, "half", then=OSError(28, "disk full"))
    assert (target / "file").read_text() == "old"
    assert listing(tmp_path) == ["target"]


def test_replacing(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("old")
    with (
        pytest.raises(
            CheckpointError, match="exists already; choose another folder or use --force"
        ),
        staged_folder(target, replace=False),
    ):
        raise AssertionError("never reached")
    with staged_folder(target, replace=True) as staged:
        (staged / "new").write_text("new")
    assert listing(target) == ["new"]
    assert listing(tmp_path) == ["target"]


def test_a_failing_exchange_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    rename = Path.rename

    def fails_for_the_new(self: Path, to: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "broken disk")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(OSError, match="broken disk"):
        fill(target, "new")
    assert (target / "file").read_text() == "old"
    assert listing(tmp_path) == ["target"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match="can't be written"),
        staged_folder(tmp_path / "file" / "target", replace=False),
    ):
        raise AssertionError("never reached")


def test_ctrl_c_between_the_names_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    rename, calls = Path.rename, []

    def interrupted(self: Path, to: Path) -> Path:
        calls.append(self.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fill(target, "new")
    assert (target / "file").read_text() == "old"
    assert listing(tmp_path) == ["target"]


def test_an_exchange_that_was_interrupted_after_both_names(tmp_path: Path) -> None:
    for name in ("target", "staged"):
        (tmp_path / name).mkdir()
    exchange(tmp_path / "target", tmp_path / "staged", tmp_path / "old")
    assert listing(tmp_path) == ["old", "target"]


def test_something_else_in_a_folder_holds_up_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with staged_folder(tmp_path / "target", replace=False) as staged:
        (staged / "link").symlink_to(tmp_path / "pipe")
        (staged / "nowhere").symlink_to(tmp_path / "absent")
        os.mkfifo(staged / "pipe")
    assert listing(tmp_path / "target") == ["link", "nowhere", "pipe"]


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(CheckpointError, match="a: can't be written: No space left"):
        save_tensors({"a": torch.zeros(1)}, tmp_path / "a")


def test_stored_tensors_that_are_replaced_between_two_looks(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_tensors({"a": torch.zeros(5)}, file)
    stored = StoredTensors(file)
    save_tensors({"b": torch.zeros(9)}, file)
    with pytest.raises(CheckpointError, match="it changed while it was read"):
        stored.read()


def test_stored_tensors_come_back_and_some_of_them(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(3, 5), "b": torch.randn(7).half(), "c": torch.zeros(0)}
    save_tensors(tensors, file, {"made": "here"})
    stored = StoredTensors(file)
    assert stored.metadata["made"] == "here"
    assert stored.shapes == {"a": [3, 5], "b": [7], "c": [0]}
    for wanted in ({"a", "b", "c"}, {"b"}, set()):
        read = stored.read(wanted.__contains__)
        assert set(read) == wanted
        for name, value in read.items():
            assert value.dtype == tensors[name].dtype
            assert torch.equal(value, tensors[name])


def header_of(values: object) -> bytes:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return len(text).to_bytes(8, "little") + text


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff" * 8, header_of([]), header_of(b"["), header_of(b"[" * 100_000),
        header_of({"__metadata__": 1}), header_of({"a": 1}) + bytes(8),
        header_of({"a": {**ENTRY, "data_offsets": [8, 0]}}) + bytes(8),
        header_of({"a": {**ENTRY, "data_offsets": [-8, 8]}}) + bytes(8),
        header_of({"a": {**ENTRY, "data_offsets": [0, 10**12]}}) + bytes(8),
        header_of({"a": {**ENTRY, "shape": [3]}}) + bytes(8),
        header_of({"a": {**ENTRY, "dtype": "X"}}) + bytes(8), header_of({"a": ENTRY}) + bytes(7),
    ],
)  # fmt: skip
def test_stored_tensors_that_are_damaged(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged safetensors file"):
        StoredTensors(tmp_path / "a.safetensors").read()


CUT = """
import os, sys
from pathlib import Path
from gsv.checkpoints.store import StoredTensors
from gsv.errors import CheckpointError
path = Path(sys.argv[1])
stored = StoredTensors(path)
os.truncate(path, 10_000)
try:
    stored.read()
except CheckpointError as error:
    print(error)
"""


def test_a_file_that_is_cut_while_it_is_read_ends_no_process(tmp_path: Path) -> None:
    """As one that is copied over. Memory mapped over it would be gone (SIGBUS)."""
    file = tmp_path / "a.safetensors"
    save_tensors({"a": torch.zeros(1_000_000)}, file)
    done = subprocess.run(
        [sys.executable, "-c", CUT, str(file)], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "damaged safetensors file" in done.stdout


def test_a_pipe_is_no_stored_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(OSError, match="not a regular file"):
        StoredTensors(tmp_path / "a.safetensors")
