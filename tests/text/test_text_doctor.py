"""`gsv doctor` on the text data: what is missing, its cost, and who reads polyphones."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import CliRunner
from golden_text import text_data_dir

from gsv.commands import doctor
from gsv.commands.doctor import check_text
from gsv.text import data_files
from gsv_client.cli import doctor as client_doctor
from gsv_client.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "text_frontend" / "1" / "text_data"
    made.mkdir(parents=True)
    return made


def lines(repository: Path) -> list[str]:
    return [
        f"{f.level} {f.subject}: {f.message} → {f.advice}" for f in check_text(repository, None)
    ]


def one(found: list[str], words: str) -> str:
    (line,) = [line for line in found if words in line]
    return line


def test_what_is_missing_is_told_with_its_cost(folder: Path, tmp_path: Path) -> None:
    found = lines(tmp_path)
    words = one(found, "English words")
    assert words.startswith("warning text data: no English words (upstream/cmudict.rep): ")
    assert "English sentences in 100 differ" in words
    assert "gsv prepare --download-text" in words
    assert "auto and auto_yue" in one(found, "lid.176.bin")
    assert all(line.startswith(("ok", "warning")) for line in found)


def test_what_is_there_is_told(folder: Path, tmp_path: Path) -> None:
    data = text_data_dir()
    if data is None:
        pytest.skip("no text data: set GSV_TEXT_DATA")
    (folder / "upstream").symlink_to(data / "upstream")
    found = lines(tmp_path)
    assert one(found, "English words").startswith("ok text data")
    assert one(found, "English names").startswith("ok text data")


def test_who_reads_polyphones(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert one(lines(tmp_path), "pypinyin").startswith("ok polyphones: read by pypinyin")
    (folder / "G2PWModel").mkdir()
    (folder / "G2PWModel" / "g2pW.onnx").touch()
    monkeypatch.setattr(doctor, "package_folder", lambda name: tmp_path)
    assert one(lines(tmp_path), "polyphones: ").startswith("ok polyphones: read by g2pW")
    monkeypatch.setattr(doctor, "package_folder", lambda name: None)
    assert one(lines(tmp_path), "polyphones: ").startswith("error polyphones")
    assert "gsv[g2pw]" in one(lines(tmp_path), "polyphones: ")


def test_a_broken_lexicon(folder: Path, tmp_path: Path) -> None:
    (folder / "lexicon.toml").write_text("[en]\nfoo = 'F UW1'\n[zh]\n'重' = 'chong2'\n", "utf-8")
    assert one(lines(tmp_path), "lexicon").startswith("ok lexicon: lexicon.toml: 1 en, 1 zh words")
    (folder / "lexicon.toml").write_text("[en]\nfoo = 'F UW9'\n")
    assert "'UW9' is not an ARPAbet phoneme" in one(lines(tmp_path), "error lexicon")


def test_without_a_frontend(tmp_path: Path) -> None:
    assert list(check_text(None, None)) == []
    assert lines(tmp_path)[0].startswith("error text data")


def test_a_wrong_dictionary_is_an_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data_files.DICTIONARY_VARIABLE, str(tmp_path))
    assert "not an OpenJTalk dictionary" in one(lines(tmp_path), "error text data")


def test_the_command_prints_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("text", "gsv.commands.doctor:check_text", client_doctor.ENTRY_POINTS)
    monkeypatch.setattr(client_doctor, "points", lambda group: [point])
    shown = CliRunner().invoke(main, ["doctor", "--repository", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "no English names (upstream/names.json)" in shown.output
    assert "read by pypinyin" in shown.output
