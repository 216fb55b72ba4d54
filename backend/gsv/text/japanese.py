"""Japanese: OpenJTalk's full-context labels as phonemes with accent signs.

``pyopenjtalk`` (0.4.1) with the dictionary naist-jdic 1.11 gives the symbols that the models were
trained on. The fork pyopenjtalk-plus has the same module name, wheels and a dictionary of its own,
but other accent rules: it works, with fewer sentences equal to the models' own reading.

Between two accent phrases stands ``#``, which is not in the symbol table and so becomes ``UNK``:
the models know the boundary by that name.

Where upstream would crash: OpenJTalk copies its input into a buffer of 8 KiB, and the reading of
kana that are no words into one of 1 KiB, without looking at their lengths. Runs that are too long
for that are read in parts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from gsv.errors import ConfigurationError
from gsv.text.installed import installed_folder
from gsv.text.types import Phonemes

DEBIAN_DICTIONARY = Path("/var/lib/mecab/dic/open-jtalk/naist-jdic")
DICTIONARY_VARIABLE = "OPEN_JTALK_DICT_DIR"  # pyopenjtalk's own
_DICTIONARY_FILES = ("sys.dic", "matrix.bin", "char.bin", "unk.dic")

_REPEATED_MARKS = re.compile("([!?…,.-])[!?…,.-]+")
# Decimal digits of every script, and of the full-width signs digits 1-9, A-Z, a-z.
_READ = r"A-Za-z\d々\u3040-\u30ff\u4e00-\u9fff１-９Ａ-Ｚａ-ｚｦ-ﾝ"
_TAKEN = re.compile(f"[{_READ}]")
_RUN_OR_MARK = re.compile(rf"(?P<run>[{_READ}]+)|[^{_READ}]")
# OpenJTalk has room for 2,730 characters, at three bytes each, and for 341 kana in a row; and it
# takes time by the square of a run's length. No sentence as it is written has so long a run.
_LONGEST_RUN = 512
_CACHED_RUNS = 64
_LONGEST_KANA = re.compile(r"[\u3040-\u30ffｦ-ﾝ]{300}")
_MARKS = {
    **dict.fromkeys("：；，、·", ","),
    **dict.fromkeys("。\n", "."),
    "！": "!",
    "？": "?",
}

_LABEL = re.compile(
    r"-(?P<phoneme>[^+]*)\+.*?"
    r"/A:(?P<from_accent>-?\d+|xx)\+(?P<mora>\d+|xx)\+(?P<moras_left>\d+|xx)/B:.*?"
    r"/F:(?P<moras>\d+|xx)_"
)
_VOWELS = frozenset("aiueo")
_AFTER_A_MORA = frozenset("[]#_")
_PHRASE_ENDS = _VOWELS | {"N", "cl"}  # what a mora can end with
_UNSET = -50  # a field that says "xx": differs from every count


class DictionaryMissing(ConfigurationError):
    """Japanese can't be read: no OpenJTalk package or no dictionary is installed."""


class Japanese:
    """Japanese. The dictionary is read at first use; methods may be called from any thread.

    Args:
        dictionary: folder of an OpenJTalk dictionary. Without one the folder named by
            ``OPEN_JTALK_DICT_DIR``, that of the environment (``gsv.text.installed``), Debian's
            naist-jdic, and the dictionary that the installed package brings are tried, in this
            order. Nothing is ever downloaded.
        user_dictionary: compiled user dictionary, for words that the dictionary lacks.
    """

    def __init__(self, dictionary: Path | None = None, user_dictionary: Path | None = None) -> None:
        self._dictionary = dictionary
        self._user_dictionary = user_dictionary
        self._engine: Any = None
        self._loading = Lock()
        # A run is analysed once for what is not read in it, and once for its phonemes.
        self._words = lru_cache(maxsize=_CACHED_RUNS)(self._analyse)

    def load(self) -> None:
        """Read the dictionary now.

        Raises:
            DictionaryMissing: no package or no dictionary; the message says what to do.
            ConfigurationError: a folder or file that was named is not a dictionary.
        """
        with self._loading:
            if self._engine is None:
                self._engine = _open(self._dictionary, self._user_dictionary)

    def normalize(self, text: str) -> str:
        """The text with each run of ``! ? … , . -`` as its first character."""
        return _REPEATED_MARKS.sub(r"\1", text)

    def phonemes(self, normalized: str) -> Phonemes:
        """Phonemes, accent signs (``[`` rise, ``]`` fall, ``#`` phrase boundary) and marks.

        Raises:
            DictionaryMissing: as ``load``.
        """
        self.load()
        symbols: list[str] = []
        spoken: list[tuple[str, int]] = []
        for match in _RUN_OR_MARK.finditer(normalized.replace("％", "パーセント").lower()):
            run = match.group()
            if match.lastgroup == "run":
                for part in _parts(run):
                    read = list(self._read(part))
                    symbols += read
                    spoken += _characters(self._words(part), read)
            elif run != " ":
                symbols.append(_MARKS.get(run, run))
                spoken.append(("", 1))
        return Phonemes(tuple(symbols), words=tuple(spoken))

    def takes(self, char: str) -> bool:
        """Whether a character is given to OpenJTalk; all others are marks to it."""
        return bool(_TAKEN.fullmatch(char))

    def unread(self, text: str) -> list[str]:
        """Stretches of a text that OpenJTalk takes for marks though they have letters.

        Raises:
            DictionaryMissing: as ``load``.
        """
        self.load()
        silent = []
        for match in _RUN_OR_MARK.finditer(text):
            if match.lastgroup != "run":
                if match.group().isalpha():
                    silent.append(match.group())
                continue
            for part in _parts(match.group()):
                silent += [
                    word["string"]
                    for word in self._words(part)
                    if word["pron"] in ("、", "") and any(map(str.isalnum, word["string"]))
                ]
        return silent

    def _analyse(self, run: str) -> list[dict[str, Any]]:
        """OpenJTalk's words of a run, with their readings."""
        words: list[dict[str, Any]] = self._engine.run_frontend(run)
        return words

    def _read(self, run: str) -> Iterator[str]:
        labels = self._engine.make_label(self._words(run))
        return _prosody([_Label.parse(label) for label in labels])


def _characters(
    words: Sequence[dict[str, Any]], symbols: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """The characters of a run with their symbols, those of a word shared out evenly.

    Args:
        words: OpenJTalk's, each with its text and its number of moras.
        symbols: of the run; a mora ends with a vowel, N or cl.
    """
    first = 0
    for index, word in enumerate(words):
        moras, end = 0, first
        while end < len(symbols) and moras < int(word["mora_size"]):
            moras += symbols[end] in _PHRASE_ENDS
            end += 1
        # Accent signs and pauses belong to the word before them.
        while end < len(symbols) and symbols[end] in _AFTER_A_MORA:
            end += 1
        if index == len(words) - 1:
            end = len(symbols)
        text, count = str(word["string"]), end - first
        if not any(map(str.isalnum, text)):
            yield "", count
        else:
            places = [round(count * n / len(text)) for n in range(len(text) + 1)]
            for char, begin, stop in zip(text, places, places[1:], strict=False):
                yield char, stop - begin
        first = end


def _parts(run: str) -> Iterator[str]:
    """The run, in as many parts as its length makes necessary."""
    if not run.strip("ー"):
        return  # nothing to lengthen: no sound, but a line on stderr for each
    for part in _LONGEST_KANA.sub(lambda kana: f"{kana.group()}\n", run).split("\n"):
        for start in range(0, len(part), _LONGEST_RUN):
            yield part[start : start + _LONGEST_RUN]


def _open(dictionary: Path | None, user_dictionary: Path | None) -> Any:
    try:
        import pyopenjtalk
    except ImportError as error:
        raise DictionaryMissing(
            "Japanese needs the package pyopenjtalk: install gsv[japanese], which compiles it, or "
            "gsv[japanese-wheels]"
        ) from error
    package = Path(pyopenjtalk.__file__).parent
    bundled = next((path.parent for path in sorted(package.glob("*/sys.dic"))), None)
    folder = find_dictionary(dictionary, bundled)
    if user_dictionary is not None and not user_dictionary.is_file():
        raise ConfigurationError(f"{user_dictionary}: no such user dictionary")
    user = os.fsencode(user_dictionary) if user_dictionary else b""
    try:
        return pyopenjtalk.OpenJTalk(dn_mecab=os.fsencode(folder), userdic=user)
    except RuntimeError as error:
        raise ConfigurationError(f"{folder}: OpenJTalk can't read this dictionary") from error


def find_dictionary(given: Path | None = None, bundled: Path | None = None) -> Path:
    """The folder of the dictionary to use; see ``Japanese`` for the places and their order.

    Args:
        given: the operator's choice.
        bundled: where the installed package has its own, if it has one.

    Raises:
        DictionaryMissing: none of the places holds one.
        ConfigurationError: ``given``, or the folder that the variable names, holds none.
    """
    named = given or (Path(value) if (value := os.environ.get(DICTIONARY_VARIABLE)) else None)
    if named is not None:
        missing = [name for name in _DICTIONARY_FILES if not (named / name).is_file()]
        if missing:
            raise ConfigurationError(
                f"{named}: not an OpenJTalk dictionary, it lacks {', '.join(missing)}"
            )
        return named
    for place in (installed_folder() / "naist-jdic", DEBIAN_DICTIONARY, bundled):
        if place and all((place / name).is_file() for name in _DICTIONARY_FILES):
            return place
    raise DictionaryMissing(
        "Japanese needs a dictionary: bring naist-jdic 1.11 with `gsv prepare --download-text`, "
        f"install Debian's open-jtalk-mecab-naist-jdic, or name its folder in {DICTIONARY_VARIABLE}"
    )


@dataclass(frozen=True, slots=True)
class _Label:
    """What a full-context label says of its phoneme's mora and accent phrase.

    Attributes:
        phoneme: the phoneme; ``sil`` at the ends of a run, ``pau`` at a pause in it.
        from_accent: mora counted from the accented one, 0 there.
        mora: mora counted from the phrase's beginning, from 1.
        moras_left: mora counted from the phrase's end, from 1.
        moras: of the phrase.
    """

    phoneme: str
    from_accent: int = _UNSET
    mora: int = _UNSET
    moras_left: int = _UNSET
    moras: int = _UNSET

    @classmethod
    def parse(cls, label: str) -> _Label:
        match = _LABEL.search(label)
        if match is None:
            return cls("sil")
        phoneme, *numbers = match.groups()
        return cls(phoneme, *(_UNSET if value == "xx" else int(value) for value in numbers))


def _prosody(labels: Sequence[_Label]) -> Iterator[str]:
    """The phonemes of a run with the accent signs between them.

    After ESPnet's ``pyopenjtalk_g2p_prosody``, which follows Kurihara et al., "Prosodic features
    control by symbols as input of sequence-to-sequence acoustic modeling for neural TTS" (2021).
    """
    for label, following in zip(labels, labels[1:], strict=False):
        if label.phoneme == "sil":
            continue
        if label.phoneme == "pau":
            yield "_"
            continue
        # Capital vowels are devoiced; the models know only one kind.
        phoneme = label.phoneme.lower() if label.phoneme in "AIUEO" else label.phoneme
        yield phoneme
        if label.moras_left == 1 and following.mora == 1 and phoneme in _PHRASE_ENDS:
            yield "#"
        elif (
            label.from_accent == 0
            and following.mora == label.mora + 1
            and label.mora != label.moras
        ):
            yield "]"
        elif label.mora == 1 and following.mora == 2:
            yield "["
