"""What the text frontend's parts hand to each other.

A language class (``gsv.text.english.English``, ``gsv.text.chinese.Chinese``, ...) offers two
methods, collected here as the protocol ``Language``: ``normalize`` writes the text as it is spoken,
``phonemes`` reads normalised text. ``gsv.text.frontend`` cuts text into sentences and sentences
into one-language segments, and adds ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gsv.text.corrections.changes import Change
from gsv.text.symbols import SILENT


@dataclass(frozen=True, slots=True)
class Phonemes:
    """The reading of normalised text.

    Attributes:
        symbols: symbols of the table in ``gsv.text.symbols``, or others, which become ``UNK``.
        word2ph: for Chinese and Cantonese, the number of symbols of each character of the
            normalised text (its length is the text's, its sum the number of symbols); None for
            languages without BERT features.
        words: what is spoken, each word with its number of symbols, marks as ""; () where nobody
            knows.
    """

    symbols: tuple[str, ...]
    word2ph: tuple[int, ...] | None = None
    words: tuple[tuple[str, int], ...] = ()


class Language(Protocol):
    """One language's normaliser and grapheme-to-phoneme step.

    Neither method raises for any text without lone surrogates, unless data is missing; the empty
    string gives the empty string and no symbols.
    """

    def load(self) -> None:
        """Load now what is otherwise loaded at first use; ConfigurationError if it is missing."""
        ...

    def normalize(self, text: str) -> str:
        """The text as it is spoken: numbers in words, kept marks only."""
        ...

    def phonemes(self, normalized: str) -> Phonemes:
        """The symbols of text that ``normalize`` returned."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a sentence in one language (``zh``, ``ja``, ``en``, ``ko``, ``yue``, or a label
    that no language claims, such as ``punctuation``)."""

    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment after normalisation and grapheme-to-phoneme conversion.

    Attributes:
        language: one of ``zh ja en ko yue``, or a label that no language claims.
        text: the segment as it stood in the sentence.
        norm_text: what was read.
        symbols: phoneme symbols, all in the table.
        ids: the symbols' places in the table.
        word2ph: symbols per character of ``norm_text`` for ``zh`` and ``yue``, else None.
        changes: what was changed before it was read, in the written text and in the segment.
        unread: characters of the segment that have no reading, each once.
        spoken_words: as the language's ``Phonemes`` have them.
    """

    language: str
    text: str
    norm_text: str
    symbols: tuple[str, ...]
    ids: tuple[int, ...]
    word2ph: tuple[int, ...] | None
    changes: tuple[Change, ...] = ()
    unread: tuple[str, ...] = ()
    spoken_words: tuple[tuple[str, int], ...] = ()

    @property
    def words(self) -> tuple[tuple[str, int], ...]:
        """What is spoken, in order: each word, or character of Chinese, Cantonese and Japanese,
        with its number of symbols. Marks are "". The numbers sum to that of ``symbols``.
        """
        words = self.spoken_words
        if self.word2ph is not None:
            counted = zip(self.norm_text, self.word2ph, strict=True)
            words = tuple((char if char.isalnum() else "", count) for char, count in counted)
        if sum(count for _, count in words) != len(self.symbols):
            words = ((self.norm_text.strip(), len(self.symbols)),)
        return words


@dataclass(frozen=True, slots=True)
class Sentence:
    """What the semantic model speaks in one go.

    Attributes:
        text: the sentence after pre-segmentation.
        pieces: its one-language pieces, in order.
        symbols, ids, norm_text: the pieces' fields, joined.
        retried: a short sentence was read a second time with ``.`` in front.
        pause_after: seconds of silence after the sentence where the text asks for it
            (``[pause:0.8s]``), None for the request's usual pause.
        pause_before: seconds of silence before the sentence; not 0 only for a pause at the very
            beginning of the text.
        left_out: characters of sentences beside it that are not spoken, for nothing in them is
            read.
    """

    text: str
    pieces: tuple[Piece, ...]
    symbols: tuple[str, ...]
    ids: tuple[int, ...]
    norm_text: str
    retried: bool
    pause_after: float | None = None
    pause_before: float = 0.0
    left_out: tuple[str, ...] = ()

    @property
    def spoken(self) -> bool:
        """Whether anything but marks and pauses is said."""
        return any(symbol not in SILENT for symbol in self.symbols)

    @property
    def unread(self) -> tuple[str, ...]:
        """Characters without a reading, each once."""
        inside = (char for piece in self.pieces for char in piece.unread)
        return tuple(dict.fromkeys([*inside, *self.left_out]))
