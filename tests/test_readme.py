"""The READMEs keep what they promise: tables from the configs, commands and files that exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gsv_client.cli import main as gsv

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import readme_tables  # noqa: E402

READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.name)
def test_tensor_tables_are_fresh(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert readme_tables.updated(text) == text, "run python tools/readme_tables.py"


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.name)
def test_links_point_to_files(path: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.name)
def test_make_targets_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.name)
def test_gsv_commands_and_options_exist(path: Path) -> None:
    lines = re.findall(r"^gsv (\S+)(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert lines
    for command, rest in lines:
        inner = rest.split()[:1] if command == "voices" else []  # the one group of commands
        shown = CliRunner().invoke(gsv, [command, *inner, "--help"])
        assert shown.exit_code == 0, command
        for option in re.findall(r"(?<=\s)--[a-z-]+", rest.split("#")[0]):
            assert option in shown.output, f"gsv {command} {option}"


def test_both_readmes_have_the_same_sections() -> None:
    counts = [p.read_text(encoding="utf-8").count("\n## ") for p in READMES]
    assert counts[0] == counts[1], "README.zh-CN.md is to be kept in step"


def test_every_model_and_parameter_is_explained() -> None:
    text = READMES[0].read_text(encoding="utf-8")
    for model in (ROOT / "model_repository").iterdir():
        assert f"`{model.name}`" in text, model.name
