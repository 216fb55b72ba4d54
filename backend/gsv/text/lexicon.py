"""Readings that an operator or a voice fixes, in a TOML file of words by language.

    [en]
    NVIDIA = "EH0 N V IH1 D IY0 AH0"        # ARPAbet with stress; case of the word is ignored
    "GPT-4" = "JH IY1 P IY1 T IY1 F AO1 R"  # letters, digits, ' and - ; one word without spaces
    [zh]
    "重庆" = "chong2 qing4"                  # one pinyin syllable with tone for each character
    [yue]
    "差人" = "caai1 jan4"                    # one jyutping syllable with tone for each character
    [ja]
    "東雲" = "しののめ"                        # kana, read in its place
    [ko]
    "값어치" = "가버치"                         # Hangul, read in its place

The frontend reads ``lexicon.toml`` in its data folder when it starts, and that of each voice which
has one beside its ``voice.toml``; the voice's entries win. A word counts where the sentence is read
in its language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gsv.errors import ConfigurationError, shown
from gsv.text.chinese.lexicon import SyllableLexicon
from gsv.text.english.arpabet import ARPABET
from gsv.text.english.placeholders import ENGLISH_WORD
from gsv.text.symbols import LANGUAGES
from gsv.text.word_finder import WordFinder
from gsv.toml_file import parse_toml

FILE = "lexicon.toml"
LONGEST_WORD = 64  # characters
LONGEST_READING = 1_000  # characters; as many syllables as the longest word has take half of that
Words = Mapping[str, Mapping[str, str]]  # language → word → reading


@dataclass(frozen=True)
class Lexicon:
    """Readings, checked and in the form that each language wants.

    Attributes:
        words: what was written, by language; kept so that another file can be laid over it.
        english: lower-case word → ARPAbet.
        syllables: ``zh`` and ``yue``, where there are entries.
        respelled: ``ja`` and ``ko``, where there are entries: what finds their words in a text.
    """

    words: Words = field(default_factory=dict)
    english: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    syllables: Mapping[str, SyllableLexicon] = field(default_factory=dict)
    respelled: Mapping[str, WordFinder] = field(default_factory=dict)

    def respell(self, language: str, text: str) -> str:
        """Text with the words of ``ja`` or ``ko`` in it replaced by how they are read."""
        finder = self.respelled.get(language)
        if finder is None:
            return text
        parts, end = [], 0
        for start, word in finder.find(text):
            parts += [text[end:start], self.words[language][word]]
            end = start + len(word)
        return "".join([*parts, text[end:]])


def read_words(path: Path) -> Words:
    """Words of a lexicon file by language.

    Raises:
        ConfigurationError: not a TOML file of that form; the message names the file and the word.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"lexicon {path}: {error}") from error
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Words:
    """Words of a lexicon file's content by language.

    Args:
        content: TOML in UTF-8.
        name: the file's, for messages.

    Raises:
        ConfigurationError: as ``read_words``.
    """
    try:
        tables = parse_toml(content)
    except ValueError as error:
        raise ConfigurationError(f"lexicon {name}: can't be read: {error}") from error
    found: dict[str, dict[str, str]] = {}
    for language, words in tables.items():
        if language not in LANGUAGES or not isinstance(words, dict):
            raise ConfigurationError(
                f"lexicon {name}: [{_header(language)}] must be a table of words; allowed: "
                + ", ".join(f"[{allowed}]" for allowed in LANGUAGES)
            )
        for word, reading in words.items():
            if not (isinstance(reading, str) and word.strip() and reading.strip()):
                raise ConfigurationError(
                    f"lexicon {name}: [{language}] {shown(word)} = {shown(reading)}: word and "
                    "reading must be text, not empty"
                )
            if len(word) > LONGEST_WORD:
                raise ConfigurationError(
                    f"lexicon {name}: [{language}] {word[:LONGEST_WORD]!r}… has {len(word):,} "
                    f"characters; allowed: up to {LONGEST_WORD}"
                )
            if len(reading) > LONGEST_READING:
                raise ConfigurationError(
                    f"lexicon {name}: [{language}] {word!r}: the reading has {len(reading):,} "
                    f"characters; allowed: up to {LONGEST_READING:,}"
                )
        found[language] = words
    return found


def _header(language: str) -> str:
    return language if language.isalnum() and len(language) <= LONGEST_WORD else shown(language)


def build(
    words: Words, checked: Callable[[str, Mapping[str, list[str]]], SyllableLexicon]
) -> Lexicon:
    """A lexicon of words by language.

    Args:
        words: as ``read_words`` gives them.
        checked: makes the lexicon of ``zh`` or ``yue``, which the language's own class can check.

    Raises:
        ConfigurationError: a reading that its language does not know.
    """
    english = {word.lower(): arpabet(word, text) for word, text in words.get("en", {}).items()}
    syllables = {
        language: checked(language, {w: r.split() for w, r in words[language].items()})
        for language in ("zh", "yue")
        if words.get(language)
    }
    respelled = {
        language: WordFinder(words[language]) for language in ("ja", "ko") if words.get(language)
    }
    return Lexicon(words, english, syllables, respelled)


def check(words: Words) -> None:
    """Check every reading as far as that needs no dictionary.

    Raises:
        ConfigurationError: as ``build``.
    """
    from gsv.text.cantonese import parse_jyutping
    from gsv.text.chinese.syllables import parse_pinyin

    known: dict[str, Callable[[str], object]] = {"zh": parse_pinyin, "yue": parse_jyutping}
    build(words, lambda language, entries: SyllableLexicon(entries, str, known[language]))


def overlaid(below: Words, above: Words) -> Words:
    """Words of both, with those of ``above`` winning."""
    return {
        language: {**below.get(language, {}), **above.get(language, {})}
        for language in {**below, **above}
    }


def arpabet(word: str, reading: str) -> tuple[str, ...]:
    """The phonemes of an English entry; ConfigurationError where one is none."""
    if not ENGLISH_WORD.fullmatch(word):
        raise ConfigurationError(
            f"lexicon: [en] {shown(word)} is not one word; allowed: letters, digits, inner ' and -"
        )
    phones = tuple(reading.split())
    unknown = [phone for phone in phones if phone not in ARPABET]
    if unknown:
        raise ConfigurationError(
            f"lexicon: [en] {shown(word)}: {shown(unknown[0])} is not an ARPAbet phoneme; allowed: "
            "consonants such as K or SH, vowels with their stress such as AH0 or IY1"
        )
    return phones
