"""Changed, missing and half-copied files are found before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gsv.checkpoints.manifest import verify_manifest, write_manifest
from gsv.errors import CheckpointError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    (tmp_path / "sub" / "b.json").write_text("{}")
    (tmp_path / "model.py").write_text("code")
    write_manifest(tmp_path, {"demo": True})
    return tmp_path


def test_an_untouched_folder(folder: Path) -> None:
    assert verify_manifest(folder) == {"demo": True}
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    assert set(listed) == {"a.safetensors", "sub/b.json"}


def test_files_beside_are_left_alone(folder: Path) -> None:
    (folder / "model.py").write_text("other code")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"")
    (folder / "lexicon.toml").write_text("")
    verify_manifest(folder)


def test_bounds_may_be_calibrated_again(folder: Path) -> None:
    """`gsv calibrate` writes them into a folder that was prepared with some."""
    (folder / "guard.json").write_text("{}")
    write_manifest(folder, {})
    (folder / "guard.json").write_text('{"languages": {}}')
    verify_manifest(folder)
    (folder / "guard.json").unlink()
    verify_manifest(folder)


def test_every_change_is_found_and_named(folder: Path) -> None:
    (folder / "a.safetensors").write_bytes(b"Weights")
    with pytest.raises(CheckpointError, match="a.safetensors: not the file that was prepared"):
        verify_manifest(folder)
    (folder / "a.safetensors").write_bytes(b"weight")
    with pytest.raises(CheckpointError, match="a.safetensors: not the file"):
        verify_manifest(folder)
    (folder / "a.safetensors").write_bytes(b"weights")
    (folder / "sub" / "b.json").unlink()
    with pytest.raises(CheckpointError, match="sub/b.json: missing"):
        verify_manifest(folder)


def test_a_missing_or_broken_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = path.read_text()
    path.write_text(whole.replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="format 2; allowed: 1"):
        verify_manifest(folder)
    for content in (whole[:-20], "[]", "{}", '{"format": 1, "files": {"a": 1}, "source": {}}'):
        path.write_text(content)
        with pytest.raises(CheckpointError, match="damaged; run `gsv prepare` again"):
            verify_manifest(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file; prepare"):
        verify_manifest(folder)
