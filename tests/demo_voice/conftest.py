"""The training's scripts are importable as they are, and a toy run of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path[:0] = [str(TOOLS / "demo_voice"), str(TOOLS)]


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of two toy teachers, up to the tokens; not to be written to."""
    from toy_teachers import make_run

    with pytest.MonkeyPatch.context() as patch:
        return make_run(patch, tmp_path_factory.mktemp("toy") / "run")


@pytest.fixture
def run(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the toy run, in which steps can train."""
    import shutil

    import places

    folder = tmp_path / "run"
    shutil.copytree(toy_run, folder)
    monkeypatch.setattr(places, "RUN", folder)
    for name in ("data.HELD_OUT", "gpt.HELD_OUT"):
        monkeypatch.setattr(name, 4)
    return folder
