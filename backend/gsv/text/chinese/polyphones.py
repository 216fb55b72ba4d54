"""Characters with several readings, read by their context with the g2pW model.

g2pW (Chen et al., "g2pW: A Conditional Weighted Softmax BERT for Polyphone Disambiguation in
Mandarin", 2022; https://github.com/GitYCC/g2pW, Apache-2.0) is optional: an operator puts it into
the frontend's data folder, as ``G2PWModel/``:

    g2pW.onnx                               the network
    POLYPHONIC_CHARS.txt                    character, tab, one of its readings in bopomofo
    MONOPHONIC_CHARS.txt                    character, tab, its reading in bopomofo
    bopomofo_to_pinyin_wo_tune_dict.json    bopomofo → pinyin, both without tone
    config.py                               read for two settings, never executed
    vocab.txt                               of bert-base-chinese; or that of the frontend's BERT
    polyphonic.rep, polyphonic-fix.rep      optional: known words, which overrule the network

The model knows traditional characters, so a stretch is converted to those of Taiwan for it. The
network gets only the stretch from 16 characters before its first polyphone to 16 after its last.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.errors import ConfigurationError
from gsv.text.chinese.simplify import Simplifier
from gsv.text.chinese.syllables import Syllable, mark, syllable, word_reading

FOLDER = "G2PWModel"
CORRECTIONS = ("polyphonic.rep", "polyphonic-fix.rep")  # the second overrules the first
_NETWORKS = ("g2pW.onnx", "g2pw.onnx")
_CONTEXT = 16  # characters around the polyphones
_LONGEST = 510  # characters that fit into BERT
_STRETCH = re.compile(f"[一-龥]{{1,{_LONGEST}}}")
_CORRECTION = re.compile(r"(?P<word>[^:]+):\s*\[(?P<readings>[^\]]*)\]")
_THREADS = 2
_OPENING = Lock()

# The network is not asked about these: it reads them worse than a dictionary does.
_NOT_POLYPHONIC = frozenset("一不和咋嗲剖差攢倒難奔勁拗肖瘙誒泊听噢")
_NOT_MONOPHONIC = frozenset("似攢")


def find_network(folder: Path) -> Path | None:
    """The network's file in a ``G2PWModel`` folder, if there is one."""
    return next((folder / name for name in _NETWORKS if (folder / name).is_file()), None)


def open_g2pw(data: Path | None) -> G2PW | None:
    """The model in the frontend's data folder, loaded once; None if there is none.

    Raises:
        ConfigurationError: as ``G2PW``.
    """
    if data is None or find_network(data / FOLDER) is None:
        return None
    with _OPENING:
        return _open(data)


@cache
def _open(data: Path) -> G2PW:
    simplifier = Simplifier(data)
    return G2PW(data / FOLDER, data.parent / "bert" / "vocab.txt", simplifier.simplify_text)


class G2PW:
    """Reads stretches of simplified characters; methods may be called from any thread.

    Args:
        folder: the ``G2PWModel`` folder.
        vocabulary: BERT's ``vocab.txt``, where the folder has none of its own.
        simplify: traditional → simplified, character by character.

    Raises:
        ConfigurationError: a file is missing or not what it should be, or onnxruntime is missing.
    """

    def __init__(
        self, folder: Path, vocabulary: Path | None, simplify: Callable[[str], str]
    ) -> None:
        from opencc import OpenCC

        self._simplify = simplify
        self._to_traditional: Callable[[str], str] = OpenCC("s2tw").convert
        settings = _settings(folder / "config.py")
        polyphones = _pairs(folder / "POLYPHONIC_CHARS.txt")
        self._by_character = bool(settings.get("use_char_phoneme", False))
        names = [f"{char} {sound}" if self._by_character else sound for char, sound in polyphones]
        self._labels = sorted(set(names))
        characters = sorted({char for char, _ in polyphones})
        self._character_ids = {char: index for index, char in enumerate(characters)}
        self._polyphonic = frozenset(characters) - _NOT_POLYPHONIC
        self._masks = _masks(polyphones, names, self._labels, bool(settings.get("use_mask", True)))
        self._monophonic = {
            char: sound
            for char, sound in _pairs(folder / "MONOPHONIC_CHARS.txt")
            if char not in _NOT_MONOPHONIC
        }
        self._pinyin = _read_json(folder / "bopomofo_to_pinyin_wo_tune_dict.json")
        own = folder / "vocab.txt"
        self._tokens = _vocabulary(own if vocabulary is None or own.is_file() else vocabulary)
        self._corrections = _corrections([folder, folder.parent / "upstream", folder.parent])
        self._network = _Network(folder, len(self._labels))

    def read(self, text: str) -> list[Syllable]:
        """One syllable for each character; marks stand for themselves."""
        syllables = [mark(char) for char in text]
        for match in _STRETCH.finditer(text):
            syllables[match.start() : match.end()] = self._read_stretch(match.group())
        return syllables

    def correct(self, word: str, reading: Sequence[Syllable]) -> list[Syllable]:
        """The word's known reading, else ``reading`` with its characters' known readings."""
        known = self._corrections.get(word)
        if known is not None and len(known) == len(word):
            return [syllable(pinyin) for pinyin in known]
        return [
            syllable(self._corrections[char][0]) if char in self._corrections else read
            for char, read in zip(word, reading, strict=True)
        ]

    def _read_stretch(self, text: str) -> Iterator[Syllable]:
        traditional = self._to_traditional(text)
        if len(traditional) != len(text):
            traditional = text
        asked = [index for index, char in enumerate(traditional) if char in self._polyphonic]
        predicted = dict(zip(asked, self._predict(traditional, asked), strict=True))
        plain = word_reading(self._simplify(traditional))
        for index, char in enumerate(traditional):
            bopomofo = predicted.get(index) or self._monophonic.get(char)
            pinyin = self._to_pinyin(bopomofo) if bopomofo else None
            if pinyin:
                yield syllable(pinyin)
            else:
                yield word_reading(text[index])[0] if bopomofo else plain[index]

    def _to_pinyin(self, bopomofo: str) -> str | None:
        sound = self._pinyin.get(bopomofo[:-1])
        return f"{sound}{bopomofo[-1]}" if sound else None

    def _predict(self, text: str, asked: Sequence[int]) -> list[str]:
        """The likeliest reading, in bopomofo, of each character asked about."""
        if not asked:
            return []
        start = max(0, asked[0] - _CONTEXT)
        window = text[start : asked[-1] + _CONTEXT + 1]
        tokens = [self._tokens.get(char, self._tokens["[UNK]"]) for char in window.lower()]
        probabilities = self._network(
            [self._tokens["[CLS]"], *tokens, self._tokens["[SEP]"]],
            positions=[index - start + 1 for index in asked],
            characters=[self._character_ids[text[index]] for index in asked],
            masks=np.stack([self._masks[text[index]] for index in asked]),
        )
        best = [self._labels[label] for label in probabilities.argmax(axis=1)]
        return [label.split(" ")[1] for label in best] if self._by_character else best


class _Network:
    """The ONNX file behind one call for one stretch and all its polyphones."""

    def __init__(self, folder: Path, labels: int) -> None:
        path = find_network(folder)
        if path is None:
            raise ConfigurationError(f"{folder}: holds no {_NETWORKS[0]}")
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as failures
        except ImportError as error:
            raise ConfigurationError(
                f"{path}: needs onnxruntime; install gsv[g2pw], or take the model away to read "
                "polyphones with pypinyin"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _THREADS
        options.log_severity_level = 3  # errors only
        self._failures = (failures.Fail, failures.InvalidArgument, failures.RuntimeException)
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the only common base of onnxruntime's errors
            raise ConfigurationError(f"{path}: onnxruntime can't load it: {error}") from error
        self._one_row = False
        self._one_row = self._shares_a_row(labels)

    def __call__(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        characters: Sequence[int],
        masks: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Probabilities [polyphones, labels].

        Args:
            tokens: ids of the stretch with [CLS] and [SEP].
            positions: place of each polyphone in ``tokens``.
            characters: id of each polyphone.
            masks: [polyphones, labels], 1 for the readings that the character can have.
        """
        rows = 1 if self._one_row else len(positions)
        ids = np.tile(np.array(tokens, dtype=np.int64), (rows, 1))
        (probabilities,) = self._session.run(
            None,
            {
                "input_ids": ids,
                "token_type_ids": np.zeros_like(ids),
                "attention_mask": np.ones_like(ids),
                "phoneme_mask": masks,
                "char_ids": np.array(characters, dtype=np.int64),
                "position_ids": np.array(positions, dtype=np.int64),
            },
        )
        result: NDArray[np.float32] = probabilities
        return result

    def _shares_a_row(self, labels: int) -> bool:
        """Whether all polyphones of a stretch can be asked about with one row of tokens.

        The released file can, and then runs BERT once and not once for each; others may not.
        """
        question: tuple[Any, ...] = ([1, 2, 3, 4], [1, 2], [0, 0], np.ones((2, labels), np.float32))
        expected = self(*question)
        self._one_row = True
        try:
            return np.allclose(self(*question), expected, atol=1e-4)
        except self._failures:
            return False


def _settings(path: Path) -> dict[str, Any]:
    """The constants that a Python file assigns, without executing it; {} where there is none."""
    if not path.is_file():
        return {}
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ConfigurationError(f"{path}: not a readable Python file: {error}") from error
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: not a readable text file: {error}") from error


def _pairs(path: Path) -> list[tuple[str, str]]:
    """Lines of two fields with a tab between."""
    pairs = []
    for number, line in enumerate(_lines(path), start=1):
        fields = line.split("\t")
        if len(fields) != 2:
            raise ConfigurationError(f"{path}:{number}: expected a character, a tab, a reading")
        pairs.append((fields[0], fields[1]))
    return pairs


def _masks(
    polyphones: Sequence[tuple[str, str]], names: Sequence[str], labels: Sequence[str], used: bool
) -> dict[str, NDArray[np.float32]]:
    """Character → 1 for each label that it can have, or for all where the model uses no masks."""
    places = {label: place for place, label in enumerate(labels)}
    masks: dict[str, NDArray[np.float32]] = {}
    for (char, _), name in zip(polyphones, names, strict=True):
        mask = masks.setdefault(char, np.full(len(labels), 0 if used else 1, np.float32))
        mask[places[name]] = 1
    return masks


def _read_json(path: Path) -> dict[str, str]:
    try:
        data = json.loads("\n".join(_lines(path)))
    except ValueError as error:
        raise ConfigurationError(f"{path}: not a readable JSON file: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(sound, str) for sound in data.values()):
        raise ConfigurationError(f"{path}: must be an object of text → text")
    return data


def _vocabulary(path: Path) -> dict[str, int]:
    tokens = {token: index for index, token in enumerate(_lines(path))}
    missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in tokens]
    if missing:
        raise ConfigurationError(f"{path}: not a vocabulary of BERT, it lacks {missing}")
    return tokens


def _corrections(folders: Iterable[Path]) -> dict[str, tuple[str, ...]]:
    """Word → readings, from the first of the folders that has each file.

    A line is ``word: ['pin1', 'yin1']``, the way upstream writes them.
    """
    places = list(folders)
    corrections: dict[str, tuple[str, ...]] = {}
    for name in CORRECTIONS:
        path = next((place / name for place in places if (place / name).is_file()), None)
        for number, line in enumerate(_lines(path) if path else (), start=1):
            match = _CORRECTION.fullmatch(line.strip())
            if match is None:
                raise ConfigurationError(f"{path}:{number}: expected word: ['pin1', 'yin1']")
            readings = tuple(part.strip(" '\"") for part in match.group("readings").split(","))
            corrections[match.group("word").strip()] = readings
    return corrections
