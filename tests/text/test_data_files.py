"""What text data is found, and what its absence is said to cost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from golden_text import text_data_dir

from gsv.errors import ConfigurationError
from gsv.text.data_files import TextData, data_status, package_folder, required_package
from gsv.text.english.tagger import BUNDLED


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    data = TextData.find(tmp_path)
    assert (data.upstream, data.names, data.language_model, data.lexicon) == (None,) * 4
    assert data.tagger == BUNDLED
    items = data_status(tmp_path)
    assert not items[0].present
    assert all(item.name and item.cost for item in items)


def test_what_lies_in_a_folder_is_found(tmp_path: Path) -> None:
    for name in ("upstream/cmudict.rep", "upstream/names.json", "lid.176.bin", "lexicon.toml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    data = TextData.find(tmp_path)
    assert data.upstream == tmp_path / "upstream"
    assert data.names == tmp_path / "upstream" / "names.json"
    assert data.language_model == tmp_path / "lid.176.bin"
    assert data.lexicon == tmp_path / "lexicon.toml"
    present = {item.name for item in data_status(tmp_path) if item.present}
    assert {
        "English words (upstream/cmudict.rep)",
        "English names (upstream/names.json)",
    } <= present


def test_the_shared_folder_is_laid_out_so() -> None:
    if text_data_dir() is None:
        pytest.skip("no text data: set GSV_TEXT_DATA")
    data = TextData.find(text_data_dir())
    assert data.upstream
    assert data.names
    assert data.tagger


def test_packages_are_found_without_being_imported() -> None:
    loaded = set(sys.modules)
    assert package_folder("g2p_en") is not None
    assert "g2p_en" not in set(sys.modules) - loaded
    assert package_folder("no_such_package") is None
    with pytest.raises(ConfigurationError, match="pip install no_such_package==1"):
        required_package("no_such_package", "no_such_package==1")


def test_packages_alone() -> None:
    data = TextData.of_packages()
    assert data.folder is data.upstream is data.japanese_words is None
    assert data.tagger == BUNDLED


def test_what_the_environment_has_is_found_without_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "share"
    for name in ("upstream/cmudict.rep", "ja_userdic/user.dict"):
        (machine / name).parent.mkdir(parents=True)
        (machine / name).touch()
    monkeypatch.setattr("gsv.text.data_files.installed_folder", lambda: machine)
    assert TextData.find().folder == machine
    assert TextData.find().upstream == machine / "upstream"
    (tmp_path / "own").mkdir()
    own = TextData.find(tmp_path / "own")
    assert own.upstream is None
    assert own.japanese_words == machine / "ja_userdic" / "user.dict"
