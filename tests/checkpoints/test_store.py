"""Tensors and folders on disk: complete or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsv.checkpoints.store import load_module_state, save_tensors, staged_folder
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
