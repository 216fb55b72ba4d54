"""English: letters to ARPAbet, as GPT-SoVITS reads it.

Tokens are those of nltk's TweetTokenizer on the alphabet that ``normalize`` leaves. A token is
looked up, in this order, as a letter, a homograph (by its part of speech), a word, a name, a short
word to be spelled, a possessive, a compound of known words, and is spelled by a network otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path

from gsv.text.english import normalizer
from gsv.text.english.compounds import CompoundSplitter
from gsv.text.english.lexicon import EnglishLexicon, Pronunciation
from gsv.text.english.speller import Speller
from gsv.text.english.tagger import Tagger
from gsv.text.symbols import is_symbol
from gsv.text.types import Phonemes

_CACHED_WORDS = 8_192
_SPELL_OUT = 3  # unknown words of so many letters are read letter by letter
_DEFAULT_TAG = "NN"  # what every word is taken for where there is no tagger

# The alternatives of TweetTokenizer that can match letters, apostrophes, spaces and . , ? ! -
_TOKEN = re.compile(
    r"""
    [a-z0-9]+ (?:[.\-][a-z0-9]+){0,126} [.][a-z]{2,13}\b     # a bare domain: example.com
    | [^\W\d_] (?:[^\W\d_]|['\-_])+ [^\W\d_]                 # a word, inner ' and - included
    | \w+
    | \.(?:[^\S\r\n]*\.)+                                    # dots
    | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_LONG_RUN = re.compile(r"([^\w]|_)\1{3,}")  # TweetTokenizer shortens these to three

_VOICELESS = frozenset(["P", "T", "K", "F", "TH", "HH"])
_SIBILANT = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])


def tokens(text: str) -> list[str]:
    """Words, marks and bare domains of normalised text."""
    return _TOKEN.findall(_LONG_RUN.sub(r"\1\1\1", text))


class English:
    """English normaliser and grapheme-to-phoneme step. Data is loaded at first use."""

    def __init__(
        self,
        g2p_en: Path,
        wordsegment: Path,
        upstream: Path | None = None,
        cmudict: Path | None = None,
        names: Path | None = None,
        tagger: Path | None = None,
    ) -> None:
        """Where the data lies.

        Args:
            g2p_en: folder of the g2p_en package (``checkpoint20.npz``, ``homographs.en``).
            wordsegment: folder of the wordsegment package (``unigrams.txt``, ``bigrams.txt``).
            upstream: folder of upstream's dictionaries; the best choice, parity needs it.
            cmudict: a ``cmudict.dict`` file, read where there is no upstream folder.
            names: upstream's names as JSON.
            tagger: folder of nltk's ``averaged_perceptron_tagger_eng``; without it homographs are
                read as nouns.
        """
        self._g2p_en = g2p_en
        self._wordsegment = wordsegment
        self._upstream = upstream
        self._cmudict = cmudict
        self._names = names
        self._tagger_folder = tagger
        self._word = lru_cache(maxsize=_CACHED_WORDS)(self._look_up)

    def load(self) -> None:
        """Load every dictionary and model."""
        self.phonemes("They record a blockchainify record.")
        self._speller.phonemes("zxq")  # no word above is left to it

    def normalize(self, text: str) -> str:
        """The text as it is spoken, in letters, apostrophes, spaces and ``. , ? ! -``."""
        return normalizer.normalize(text)

    def can_read(self, char: str) -> bool:
        """Whether anything is left of a letter or digit when it is written as it is spoken."""
        return any(letter.isalpha() for letter in normalizer.normalize(char))

    def phonemes(
        self, normalized: str, readings: Mapping[str, Pronunciation] | None = None
    ) -> Phonemes:
        """ARPAbet symbols and marks of normalised text; ``word2ph`` is None.

        Args:
            normalized: text that ``normalize`` returned.
            readings: pronunciations of lower-case words that take precedence over everything.
        """
        readings = readings or {}
        words = tokens(normalized)
        tags = self._tags(words)
        symbols: list[str] = []
        spoken: list[tuple[str, int]] = []
        for word, tag in zip(words, tags, strict=True):
            # ' is written as the mark that stands for a break; what has no symbol is not spoken.
            read = ["-" if s == "'" else s for s in self._token(word, tag, readings)]
            read = [symbol for symbol in read if is_symbol(symbol)]
            symbols += read
            spoken.append((word if any(map(str.isalnum, word)) else "", len(read)))
        return Phonemes(tuple(symbols), words=tuple(spoken))

    @cached_property
    def _lexicon(self) -> EnglishLexicon:
        homographs = self._g2p_en / "homographs.en"
        return EnglishLexicon(homographs, self._upstream, self._cmudict, self._names)

    @cached_property
    def _tagger(self) -> Tagger | None:
        return None if self._tagger_folder is None else Tagger(self._tagger_folder)

    @cached_property
    def _speller(self) -> Speller:
        return Speller(self._g2p_en / "checkpoint20.npz")

    @cached_property
    def _compounds(self) -> CompoundSplitter:
        return CompoundSplitter(self._wordsegment)

    def _tags(self, words: list[str]) -> list[str]:
        """Tags, worked out only for sentences that have a homograph."""
        homographs = self._lexicon.homographs
        if self._tagger and any(word.lower() in homographs for word in words):
            return self._tagger.tag(words)
        return [_DEFAULT_TAG] * len(words)

    def _token(self, token: str, tag: str, readings: Mapping[str, Pronunciation]) -> Pronunciation:
        word = token.lower()
        if readings and (given := _given(word, readings)):
            return given
        if not re.search("[a-z]", word):
            return (word,)
        if len(word) == 1:
            return ("EY1",) if token == "A" else self._letter(word)
        if word in self._lexicon.homographs:
            fitting, otherwise, kind = self._lexicon.homographs[word]
            # A tag that is shorter than the table's (VB for VBP) fits as well.
            return fitting if tag.startswith(kind) or kind.startswith(tag) else otherwise
        return self._word(token)

    def _letter(self, letter: str) -> Pronunciation:
        return self._lexicon.word(letter) or (letter,)

    def _look_up(self, token: str) -> Pronunciation:
        word = token.lower()
        if len(word) > 1 and (known := self._lexicon.word(word)):
            return known
        if token.istitle() and (name := self._lexicon.name(word)):
            return name
        if len(word) <= _SPELL_OUT:
            spelled = [("EY1",) if letter == "a" else self._letter(letter) for letter in word]
            return tuple(symbol for symbols in spelled for symbol in symbols)
        if word.endswith("'s") and word[:-2].isalpha():
            return possessive(self._word(word[:-2]))
        parts = self._compounds.split(word)
        if len(parts) == 1:
            return self._speller.phonemes(word)
        return tuple(symbol for part in parts for symbol in self._word(part))


def possessive(phones: Pronunciation) -> Pronunciation:
    """A word's pronunciation with ``'s`` after it."""
    last = phones[-1] if phones else ""
    if last in _VOICELESS:
        return (*phones, "S")
    return (*phones, "AH0", "Z") if last in _SIBILANT else (*phones, "Z")


def _given(word: str, readings: Mapping[str, Pronunciation]) -> Pronunciation | None:
    """The reading given for a word, or for the word that it is the possessive of."""
    if word in readings:
        return readings[word]
    if word.endswith("'s") and word[:-2] in readings:
        return possessive(readings[word[:-2]])
    return None
