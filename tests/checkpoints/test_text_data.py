"""Text data: found in every place where people have it, and copied into one layout."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
from checkpoints.files import marker_bomb

from gsv.checkpoints import text_data
from gsv.checkpoints.text_data import Sources, install
from gsv.errors import CheckpointError
from gsv.text import data_files
from gsv.text.installed import installed_folder
from gsv.text.japanese import Japanese

NAMES = {"ada": [["EY1", "D", "AH0"]], "bob": [["B", "AA1", "B"]]}
TAGGER = "averaged_perceptron_tagger_eng"
TAGGER_PARTS = ("weights", "tagdict", "classes")
DICTIONARY = ("sys.dic", "unk.dic", "matrix.bin", "char.bin")


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    text = root / "GPT_SoVITS" / "text"
    (text / "zh_normalization").mkdir(parents=True)
    for name in ("cmudict.rep", "cmudict-fast.rep", "engdict-hot.rep"):
        (text / name).write_text(f"WORD  {name}\n")
    (text / "namedict_cache.pickle").write_bytes(pickle.dumps(NAMES))
    (text / "zh_normalization" / "char_convert.py").write_text(
        'simplified_charcters = "书马"\n\ntraditional_characters = "書馬"\n', encoding="utf-8"
    )
    (text / "ja_userdic").mkdir()
    (text / "ja_userdic" / "userdict.csv").write_text("x", encoding="utf-8")
    (text / "G2PWModel").mkdir()
    (text / "G2PWModel" / "g2pW.onnx").write_bytes(b"onnx")
    models = root / "GPT_SoVITS" / "pretrained_models" / "fast_langdetect"
    models.mkdir(parents=True)
    (models / "lid.176.bin").write_bytes(b"lid")
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / TAGGER).mkdir(parents=True)
    for part in TAGGER_PARTS:
        (root / TAGGER / f"{TAGGER}.{part}.json").write_text("{}")
    (root / "naist-jdic").mkdir()
    for name in DICTIONARY:
        (root / "naist-jdic" / name).write_bytes(b"dic")
    (root / "names.json").write_text('{"own": [["OW1", "N"]]}')
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_both_sources_fill_what_the_frontend_reads(
    upstream: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, lines = tmp_path / "text_data", list[str]()
    monkeypatch.setattr(text_data, "_compile_words", shutil.copyfile)
    missing = install(Sources(upstream, folder), target, lines.append)
    assert missing == []
    assert set(contents(target)) == {
        "upstream/cmudict.rep",
        "upstream/cmudict-fast.rep",
        "upstream/engdict-hot.rep",
        "upstream/names.json",
        "simplified.json",
        "lid.176.bin",
        "ja_userdic/user.dict",
        "G2PWModel/g2pW.onnx",
        *(f"nltk_data/taggers/{TAGGER}/{TAGGER}.{p}.json" for p in TAGGER_PARTS),
        *(f"naist-jdic/{name}" for name in DICTIONARY),
    }
    assert json.loads((target / "simplified.json").read_text()) == {"書": "书", "馬": "马"}
    # What was named more closely goes first.
    assert json.loads((target / "upstream" / "names.json").read_text()) == {"own": [["OW1", "N"]]}
    assert len(lines) == 10


def test_names_from_the_pickle(upstream: Path, tmp_path: Path) -> None:
    install(Sources(upstream / "GPT_SoVITS"), tmp_path / "out", lambda line: None)
    assert json.loads((tmp_path / "out" / "upstream" / "names.json").read_text()) == NAMES


def test_nothing_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "installed_folder", lambda: tmp_path / "none")
    missing = install(Sources(installed=None), tmp_path / "out", lambda line: None)
    assert any("cmudict.rep" in item.name for item in missing)
    assert all(item.cost for item in missing)
    assert contents(tmp_path / "out") == {}


def test_an_earlier_folder_is_taken_over(upstream: Path, tmp_path: Path) -> None:
    earlier, target = tmp_path / "earlier", tmp_path / "target"
    install(Sources(upstream, installed=None), earlier, lambda line: None)
    (earlier / "lexicon.toml").write_text("own = 1")
    install(Sources(earlier=earlier, installed=None), target, lambda line: None)
    assert contents(target) == contents(earlier)


@pytest.mark.parametrize("table", [[], {"a": "b"}, {"a": [["b", 1]]}, {1: [["b"]]}, {"a": []}])
def test_strange_pickles(upstream: Path, tmp_path: Path, table: object) -> None:
    path = upstream / "GPT_SoVITS" / "text" / "namedict_cache.pickle"
    path.write_bytes(pickle.dumps(table))
    with pytest.raises(CheckpointError, match="namedict_cache.pickle: no table of names"):
        install(Sources(upstream), tmp_path / "out", lambda line: None)


def test_a_malicious_pickle(upstream: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = upstream / "GPT_SoVITS" / "text" / "namedict_cache.pickle"
    path.write_bytes(pickle.dumps({"a": marker_bomb(marker)}))
    with pytest.raises(CheckpointError, match="nothing was run"):
        install(Sources(upstream), tmp_path / "out", lambda line: None)
    assert not marker.exists()


def test_folders_that_are_something_else(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkout of upstream"):
        install(Sources(upstream=tmp_path), tmp_path / "out", lambda line: None)
    with pytest.raises(CheckpointError, match="no such folder"):
        install(Sources(folder=tmp_path / "none"), tmp_path / "out", lambda line: None)


def test_the_user_dictionary_is_compiled_once(tmp_path: Path) -> None:
    dictionary = installed_folder() / "naist-jdic"
    if not dictionary.is_dir():
        pytest.skip("no naist-jdic: python -m gsv.checkpoints.text_install")
    words = tmp_path / "given" / "ja_userdic"
    words.mkdir(parents=True)
    row = "ぞろぞろ語,1348,1348,1,名詞,固有名詞,一般,*,*,*,ゾロゾロゴ,ヌヌヌ,ヌヌヌ,1/3,*\n"
    (words / "userdict.csv").write_text(row, encoding="utf-8")
    lines: list[str] = []
    install(Sources(folder=tmp_path / "given", installed=None), tmp_path / "out", lines.append)
    compiled = tmp_path / "out" / "ja_userdic" / "user.dict"
    assert compiled.is_file()
    assert "n u" not in " ".join(Japanese(dictionary).phonemes("ぞろぞろ語").symbols)
    read = Japanese(dictionary, compiled).phonemes("ぞろぞろ語").symbols
    assert [s for s in read if s.isalpha()] == ["n", "u"] * 3


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"nothing,of,the,kind\n", "line 1 has 4 fields; allowed: word, "),
        ("語,,,1,名詞\n".encode("shift-jis"), "'utf-8' codec can't decode"),
    ],
)
def test_a_broken_user_dictionary_is_told(tmp_path: Path, content: bytes, why: str) -> None:
    if not (installed_folder() / "naist-jdic").is_dir():
        pytest.skip("no naist-jdic: python -m gsv.checkpoints.text_install")
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "userdict.csv").write_bytes(content)
    lines: list[str] = []
    install(Sources(folder=tmp_path / "given", installed=None), tmp_path / "out", lines.append)
    assert any(f"userdict.csv: can't be compiled: {why}" in line for line in lines)
    assert not (tmp_path / "out" / "ja_userdic" / "user.dict").exists()
