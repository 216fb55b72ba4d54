"""Mandarin: normalisation and grapheme-to-phoneme.

Follows the models' own frontend, whose symbols they were trained on, and goes its own way only
where that one fails or says something false:

- a character whose reading the pinyin table lacks (兙, 甅 and ten others) is ``UNK``, one symbol;
  upstream raises;
- decimal digits of all scripts are read; upstream raises on other than ASCII and full-width ones;
- text of which nothing remains gives no symbols, and the caller skips it; upstream's BERT step
  raises;
- in a time range each time's own minutes are read (``chinese.rules``);
- a character is simplified only to one that can be read (``chinese.simplify``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from gsv.text.aligned import AlignedText
from gsv.text.chinese import g2p, segment
from gsv.text.chinese.lexicon import SyllableLexicon
from gsv.text.chinese.normalize import MANDARIN_MARKS, collapse_marks, spoken
from gsv.text.chinese.polyphones import G2PW, open_g2pw
from gsv.text.chinese.simplify import Simplifier
from gsv.text.chinese.syllables import can_read, parse_pinyin, word_reading
from gsv.text.symbols import MARKS, UNKNOWN
from gsv.text.types import Phonemes


class Chinese:
    """Mandarin. Dictionaries are read at first use; methods may be called from any thread.

    Args:
        data: the frontend's data folder, which may hold ``simplified.json`` (the reference's own
            character table) and ``G2PWModel/`` (see ``chinese.polyphones``).
    """

    def __init__(self, data: Path | None = None) -> None:
        self._data = data

    def load(self) -> None:
        """Read the dictionaries now; ConfigurationError when a data file is not as it should be."""
        segment.load()
        word_reading("好")
        _ = self._simplifier, self._polyphones

    def normalize(self, text: str) -> str:
        """The text in words: U+4E00–9FA5 and ``! ? … , . -`` only."""
        return self.normalize_with_offsets(text)[0]

    def normalize_with_offsets(
        self, text: str | AlignedText, *, all_characters: bool = False
    ) -> tuple[str, tuple[int, ...]]:
        """As ``normalize``, and for each character the index in ``text`` that it was written at.

        A character that stands for no single written one (the words of a number) has -1. So a
        reading given for ``text[i]`` belongs to the normalised character whose offset is ``i``;
        when there is none, the character is not read.

        Args:
            text: a segment; with offsets of its own, which are those that are returned.
            all_characters: keep characters outside U+4E00–9FA5 that have a reading.
        """
        aligned = AlignedText.of(text) if isinstance(text, str) else text
        readable = can_read if all_characters else None
        result = collapse_marks(spoken(aligned, self._simplifier, MANDARIN_MARKS, readable))
        return result.text, result.sources

    def reads(self, char: str, *, all_characters: bool = False) -> bool:
        """Whether a character by itself is read; digits and signs in words are."""
        written, _ = self.normalize_with_offsets(char, all_characters=all_characters)
        return any(UNKNOWN not in self.phonemes(c).symbols for c in written if c not in MARKS)

    def phonemes(
        self,
        normalized: str,
        readings: Mapping[int, str] | None = None,
        lexicon: SyllableLexicon | None = None,
    ) -> Phonemes:
        """The symbols of text that ``normalize`` returned.

        Args:
            normalized: the text.
            readings: index in it → pinyin with tone (``chong2``), taken as it is: no tone rule
                changes it. A place outside the text, or at a mark, is ignored.
            lexicon: words whose readings are taken likewise, where ``readings`` says nothing.

        Raises:
            InvalidRequest: a reading is not pinyin with a tone.
        """
        fixed = {**(lexicon.readings(normalized) if lexicon else {}), **(readings or {})}
        return g2p.phonemes(normalized, fixed, self._polyphones)

    def lexicon(self, words: Mapping[str, Sequence[str]]) -> SyllableLexicon:
        """Words and their readings (``{"重庆": ("chong2", "qing4")}``), checked.

        Raises:
            ConfigurationError: a word has too few or too many readings, or a reading is not
                pinyin.
        """
        return SyllableLexicon(words, self._simplifier.simplify_text, parse_pinyin)

    @cached_property
    def _simplifier(self) -> Simplifier:
        return Simplifier(self._data)

    @cached_property
    def _polyphones(self) -> G2PW | None:
        return open_g2pw(self._data)
