"""Lexica and dictionaries for the text frontend: found, checked and copied into its version folder.

``ITEMS`` is the whole table of what is looked for and where. The folder that is filled has the
layout that ``gsv.text.data_files`` reads; that module also says what each absence costs.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gsv.checkpoints.unpickle import unpickle
from gsv.errors import CheckpointError
from gsv.text.chinese.simplify import read_character_table
from gsv.text.data_files import JAPANESE_WORDS, DataItem, data_status
from gsv.text.installed import installed_folder
from gsv.text.japanese import DictionaryMissing, find_dictionary

_TAGGER = "averaged_perceptron_tagger_eng"
_COMPILING = 300.0  # seconds for the user dictionary; it takes less than one
_WORD_FIELDS = 5  # of a line of MeCab's dictionaries, at least (mecab, dictionary.cpp)


@dataclasses.dataclass(frozen=True)
class Item:
    """One file or folder of text data.

    Attributes:
        target: its place in the frontend's ``text_data`` folder.
        upstream: its places in an upstream checkout, below ``GPT_SoVITS``.
        folder: its places in a folder of text data, besides the target's own.
        holds: for a folder, files that must be in it.
    """

    target: str
    upstream: tuple[str, ...] = ()
    folder: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()


ITEMS = (
    Item("upstream/cmudict.rep", ("text/cmudict.rep",), ("cmudict.rep",)),
    Item("upstream/cmudict-fast.rep", ("text/cmudict-fast.rep",), ("cmudict-fast.rep",)),
    Item("upstream/engdict-hot.rep", ("text/engdict-hot.rep",), ("engdict-hot.rep",)),
    Item(
        "upstream/names.json",
        ("text/namedict_cache.pickle",),
        ("names.json", "namedict_cache.pickle"),
    ),
    Item("simplified.json", ("text/zh_normalization/char_convert.py",), ("char_convert.py",)),
    Item(
        f"nltk_data/taggers/{_TAGGER}",
        folder=(_TAGGER, f"taggers/{_TAGGER}"),
        holds=tuple(f"{_TAGGER}.{part}.json" for part in ("weights", "tagdict", "classes")),
    ),
    Item(
        "naist-jdic",
        folder=("open_jtalk", "open_jtalk_dic_utf_8-1.11"),
        holds=("sys.dic", "unk.dic", "matrix.bin", "char.bin"),
    ),
    Item(
        JAPANESE_WORDS,
        ("text/ja_userdic/userdict.csv",),
        ("ja_userdic/userdict.csv", "userdict.csv"),
    ),
    Item("lid.176.bin", ("pretrained_models/fast_langdetect/lid.176.bin",)),
    Item("G2PWModel", ("text/G2PWModel",), holds=("g2pW.onnx",)),
    Item("upstream/polyphonic.rep", ("text/g2pw/polyphonic.rep",), ("polyphonic.rep",)),
    Item("upstream/polyphonic-fix.rep", ("text/g2pw/polyphonic-fix.rep",), ("polyphonic-fix.rep",)),
)


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where to look, the first that has an item first.

    Attributes:
        folder: a folder of text data.
        upstream: an upstream checkout.
        downloaded: a folder that ``gsv.checkpoints.text_download`` has filled.
        earlier: the ``text_data`` of the repository that is replaced.
        installed: what `make venv` has brought (``data_files.installed_folder``).
    """

    upstream: Path | None = None
    folder: Path | None = None
    downloaded: Path | None = None
    earlier: Path | None = None
    installed: Path | None = dataclasses.field(default_factory=lambda: installed_folder())

    def find(self, item: Item) -> Path | None:
        """The item's file or folder; what was named on the command line goes first, and what
        `make venv` has brought last."""
        candidates: list[Path] = []
        inside = (item.target, *item.folder)
        if self.folder is not None:
            candidates += [self.folder / place for place in inside]
        if self.upstream is not None:
            root = upstream_root(self.upstream)
            candidates += [root / place for place in item.upstream]
        if self.downloaded is not None:
            candidates += [self.downloaded / place for place in inside]
        if self.earlier is not None:
            candidates.append(self.earlier / item.target)
        if self.installed is not None:
            candidates.append(self.installed / item.target)
        return next((path for path in candidates if _is_complete(path, item)), None)

    def has(self, place: str) -> bool:
        """Whether the item is found that has this place in a folder of text data."""
        items = [item for item in ITEMS if place in (item.target, *item.folder)]
        return any(self.find(item) is not None for item in items)


def upstream_root(folder: Path) -> Path:
    """The ``GPT_SoVITS`` folder of a checkout; CheckpointError when ``folder`` is none."""
    for root in (folder / "GPT_SoVITS", folder):
        if (root / "text").is_dir():
            return root
    raise CheckpointError(f"{folder}: no checkout of upstream (no GPT_SoVITS/text in it)")


def _is_complete(path: Path, item: Item) -> bool:
    if item.holds:
        return all((path / name).is_file() for name in item.holds)
    return path.is_file()


def install(sources: Sources, target: Path, report: Callable[[str], None]) -> list[DataItem]:
    """Copy all that is found into ``target``.

    Args:
        sources: where to look.
        target: the frontend's ``text_data`` folder.
        report: called with a line for each item that was found.

    Returns:
        What the frontend then lacks, with its cost.

    Raises:
        CheckpointError: a source is not what it was said to be, or a pickle is not a plain table.
    """
    for named in (sources.upstream, sources.folder):
        if named is not None and not named.is_dir():
            raise CheckpointError(f"{named}: no such folder")
    target.mkdir(parents=True, exist_ok=True)
    for item in ITEMS:
        source = sources.find(item)
        if source is None:
            continue
        report(f"{item.target} from {source}")
        place = target / item.target
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place)
        elif source.suffix == ".csv":
            try:
                _compile_words(source, place)
            except CheckpointError as error:  # Japanese is read without it, less well
                report(str(error))
        else:
            _COPIES.get(source.suffix, shutil.copyfile)(source, place)
    _copy_own_files(sources.earlier, target)
    return [item for item in data_status(target) if not item.present]


def _copy_own_files(earlier: Path | None, target: Path) -> None:
    """Files that the operator has put into the folder by hand (a lexicon of their own) stay."""
    if earlier is None or not earlier.is_dir():
        return
    for path in earlier.rglob("*"):
        place = target / path.relative_to(earlier)
        if path.is_file() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _write_names(pickled: Path, target: Path) -> None:
    """Upstream's table of names, a pickle, as JSON: name → its pronunciations."""
    try:
        with pickled.open("rb") as file:
            table: Any = unpickle(io.BytesIO(file.read())).value
    except CheckpointError as error:
        raise CheckpointError(f"{pickled}: {error}") from error
    if not isinstance(table, dict) or not all(map(_is_entry, table.items())):
        raise CheckpointError(f"{pickled}: no table of names and pronunciations")
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":"))
    target.write_text(text + "\n", encoding="utf-8")


def _write_characters(source: Path, target: Path) -> None:
    """Upstream's table of traditional characters, literals in a Python file, as JSON."""
    table = read_character_table(source)
    target.write_text(json.dumps(table, ensure_ascii=False) + "\n", encoding="utf-8")


_COPIES: dict[str, Callable[[Path, Path], Any]] = {
    ".pickle": _write_names,
    ".py": _write_characters,
}


def _compile_words(source: Path, target: Path) -> None:
    """Upstream's Japanese user dictionary in the form that OpenJTalk loads.

    pyopenjtalk compiles it, in a process of its own, because it writes its progress to stdout and
    may crash over a broken file.
    """
    inside = target.parents[1] / "naist-jdic"
    try:
        dictionary = find_dictionary(inside if inside.is_dir() else None)
    except DictionaryMissing as error:
        raise CheckpointError(f"{source}: can't be compiled: {error}") from error
    _check_words(source)
    program = (
        "import os, sys, pyopenjtalk; source, target, dictionary = sys.argv[1:]; "
        "pyopenjtalk.mecab_dict_index(source, target, os.fsencode(dictionary))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, str(source), str(target), str(dictionary)],
            capture_output=True,
            text=True,
            timeout=_COMPILING,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(f"{source}: can't be compiled: {error}") from error
    if done.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        why = (done.stderr.strip().splitlines() or ["no file came of it"])[-1]
        raise CheckpointError(f"{source}: can't be compiled: {why}")


def _check_words(source: Path) -> None:
    """What pyopenjtalk, as it was compiled, may crash over or take for a dictionary."""
    try:
        with source.open(encoding="utf-8", newline="") as file:
            for row in (lines := csv.reader(file)):
                if row and len(row) < _WORD_FIELDS:
                    raise CheckpointError(
                        f"{source}: can't be compiled: line {lines.line_num} has {len(row)} "
                        "fields; allowed: word, two context ids, cost and MeCab's features"
                    )
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"{source}: can't be compiled: {error}") from error


def _is_entry(entry: tuple[Any, Any]) -> bool:
    name, readings = entry
    return (
        isinstance(name, str)
        and isinstance(readings, list)
        and bool(readings)
        and all(isinstance(r, list) and all(isinstance(p, str) for p in r) for r in readings)
    )
