"""Text to phoneme ids: the whole way, for texts to speak and for transcripts of references.

    text → parts between pauses → sentences → one-language segments → normalised text → symbols

A sentence goes through the segmenter, each segment through its language, and what comes out is
joined; a sentence of fewer than six symbols is read once more with a point in front. Languages,
their dictionaries and the identification model are loaded when they are first needed.

Where the result differs from upstream's, it does so on purpose: see ``gsv.text.differences``.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from gsv.errors import InvalidRequest
from gsv.options import LANGUAGES as MODES
from gsv.options import SPLIT_METHODS, TEXT_LIMIT, check_choice
from gsv.text import lexicon as lexicons
from gsv.text import markup, split
from gsv.text.data_files import TextData
from gsv.text.lexicon import Lexicon, Words
from gsv.text.markup import Reading
from gsv.text.reader import SegmentReader
from gsv.text.segment import Segmenter
from gsv.text.symbols import LANGUAGES
from gsv.text.types import Piece, Segment, Sentence

MAX_TRANSCRIPT = 510  # characters; ten seconds of speech have 200 at most
MAX_READ = 510  # characters of a Mandarin piece as it is read: BERT has 512 positions

_MIN_SYMBOLS = 6  # a sentence with fewer is read again with a point in front
_WORD = re.compile(r"\w")
_SURROGATE = re.compile("[\ud800-\udfff]")


class TextFrontend:
    """Reads texts in any of the eleven language modes."""

    def __init__(self, data: Path | TextData | None = None, lexicon: Path | None = None) -> None:
        """Find the data; nothing is loaded yet.

        Args:
            data: folder of text data, or what was found in one (``gsv.text.data_files``); None for
                what the machine and the Python packages bring.
            lexicon: a lexicon file; by default ``lexicon.toml`` in the data folder, if there.

        Raises:
            ConfigurationError: ``data`` is no folder, or the lexicon can't be read.
        """
        self.data = data if isinstance(data, TextData) else TextData.find(data)
        path = lexicon or self.data.lexicon
        self._words = lexicons.read_words(path) if path else {}
        self._segmenter = Segmenter(self.data.language_model)
        self._reader = SegmentReader(self.data)

    def warm_up(self, languages: Sequence[str] = LANGUAGES) -> None:
        """Load the segmenter, the lexicon and these languages now rather than at first use.

        What is loaded stays for good: some million objects, which Python's collector of garbage
        is told to leave alone. It would take a third of the time of loading, and stop the process
        for a tenth of a second ever so often afterwards.
        """
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._segmenter.load()
            self._reader.load(languages)
            _ = self._lexicon
        finally:
            if collecting:
                gc.enable()
        gc.freeze()

    @cached_property
    def _lexicon(self) -> Lexicon:
        return lexicons.build(self._words, self._reader.syllables)

    def voice_lexicon(self, own: Path | Words) -> Lexicon:
        """A voice's lexicon, laid over the frontend's own; to be passed to ``analyze``.

        Args:
            own: its file, or what ``gsv.text.lexicon`` read in it.

        Raises:
            ConfigurationError: the file can't be read, or has a reading that its language lacks.
        """
        above = lexicons.read_words(own) if isinstance(own, Path) else own
        return lexicons.build(lexicons.overlaid(self._words, above), self._reader.syllables)

    def analyze(
        self,
        text: str,
        language: str = "auto",
        split_method: str = "cut5",
        lexicon: Lexicon | None = None,
    ) -> list[Sentence]:
        """Sentences of a text, with phonemes, ids and the pauses that the text asks for.

        Args:
            text: up to ``gsv.options.TEXT_LIMIT`` characters, with markup (``gsv.text.markup``).
            language: one of ``gsv.options.LANGUAGES``.
            split_method: one of ``gsv.options.SPLIT_METHODS``.
            lexicon: a voice's lexicon, from ``voice_lexicon``.

        Returns:
            At least one sentence.

        Raises:
            InvalidRequest: an argument is not allowed, the markup can't be read, or nothing in the
                text can be spoken.
        """
        _check_text(text, "TEXT", TEXT_LIMIT)
        check_choice("LANGUAGE", language, MODES)
        check_choice("SPLIT_METHOD", split_method, SPLIT_METHODS)
        spoken: list[Sentence] = []
        silence = 0.0  # asked for before anything is spoken
        for part in markup.parse(text):
            spoken += self._sentences(part, language, split_method, lexicon)
            pause = part.pause or 0.0
            if part.pause is not None and spoken:
                spoken[-1] = replace(spoken[-1], pause_after=(spoken[-1].pause_after or 0) + pause)
            elif not spoken:
                silence += pause
        if not spoken:
            raise InvalidRequest(
                f"TEXT: nothing to speak in {text[:40]!r}; give words or digits that LANGUAGE reads"
            )
        spoken[0] = replace(spoken[0], pause_before=silence)
        return spoken

    def prompt(self, text: str, language: str = "auto", lexicon: Lexicon | None = None) -> Sentence:
        """The transcript of a reference as one sentence.

        Args:
            text: up to ``MAX_TRANSCRIPT`` characters; readings are allowed in it, pauses are not.
            language: one of ``gsv.options.LANGUAGES``.
            lexicon: a voice's lexicon, from ``voice_lexicon``.

        Raises:
            InvalidRequest: an argument is not allowed, or nothing in the text can be spoken.
        """
        tensor = "REFERENCE_TEXT"
        _check_text(text, tensor, MAX_TRANSCRIPT)
        check_choice("REFERENCE_LANGUAGE", language, MODES)
        (part,) = markup.parse(text, tensor, pauses=False)
        transcript = split.prompt_text(part.text, language)
        if not _WORD.search(part.text):
            raise InvalidRequest(
                f"{tensor}: nothing is spoken in {text[:40]!r}; give the words that the reference "
                "says, v4 cannot do without"
            )
        sentence = self.read(transcript, language, part.readings, lexicon, tensor)
        if _too_long(sentence):
            raise InvalidRequest(
                f"{tensor}: written out, it has more than {MAX_READ} characters; allowed: the "
                "words of a reference of 3 to 10 s"
            )
        return sentence

    def read(
        self,
        text: str,
        language: str,
        readings: Sequence[Reading] = (),
        lexicon: Lexicon | None = None,
        tensor: str = "TEXT",
    ) -> Sentence:
        """One sentence's phonemes and ids; blank text has none.

        Args:
            text: a sentence without markup, of at most a few hundred characters.
            language: one of ``gsv.options.LANGUAGES``.
            readings: readings in it, counted from its first anchor.
            lexicon: a voice's lexicon, from ``voice_lexicon``.
            tensor: the request's text, for messages.
        """
        words = lexicon or self._lexicon
        sentence = self._read_once(text, language, readings, words, tensor)
        if len(sentence.ids) >= _MIN_SYMBOLS or not (text.strip() or language == "en"):
            return sentence
        again = self._read_once("." + text, language, readings, words, tensor)
        return replace(again, text=text, retried=True)

    def segment(self, segment: Segment, lexicon: Lexicon | None = None) -> Piece:
        """Text whose language is known, without segmenting it and without a second reading."""
        return self._reader.piece(segment, lexicon or self._lexicon)

    def _read_once(
        self,
        text: str,
        language: str,
        readings: Sequence[Reading],
        lexicon: Lexicon,
        tensor: str,
    ) -> Sentence:
        pieces = []
        segments = self._segmenter.segments(text, language)
        theirs = _shared_out(readings, [segment.text for segment in segments], tensor)
        for segment, mine in zip(segments, theirs, strict=True):
            piece = self._reader.piece(segment, lexicon, mine, tensor)
            if piece.ids or piece.norm_text:
                pieces.append(piece)
        return Sentence(
            text=text,
            pieces=tuple(pieces),
            symbols=tuple(symbol for piece in pieces for symbol in piece.symbols),
            ids=tuple(index for piece in pieces for index in piece.ids),
            norm_text="".join(piece.norm_text for piece in pieces),
            retried=False,
        )

    def _sentences(
        self, part: markup.Part, language: str, method: str, lexicon: Lexicon | None
    ) -> Iterator[Sentence]:
        """Sentences of a text between pauses, without those of which nothing is read."""
        cut = split.sentences(split.collapse_marks(part.text), language, method)
        for text, readings in zip(cut, _shared_out(part.readings, cut, "TEXT"), strict=True):
            for sentence in self._fitting(text, language, readings, lexicon):
                if sentence.norm_text:
                    yield sentence

    def _fitting(
        self, text: str, language: str, readings: Sequence[Reading], lexicon: Lexicon | None
    ) -> Iterator[Sentence]:
        """A sentence, or as many parts of it as it takes for each to fit into BERT's positions."""
        sentence = self.read(text, language, readings, lexicon)
        if not _too_long(sentence) or len(text) < 2:
            yield sentence
            return
        halves = split.halves(text)
        for half, mine in zip(halves, _shared_out(readings, halves, "TEXT"), strict=True):
            yield from self._fitting(half, language, mine, lexicon)


def _too_long(sentence: Sentence) -> bool:
    return any(len(p.norm_text) > MAX_READ for p in sentence.pieces if p.language == "zh")


def _shared_out(
    readings: Sequence[Reading], texts: Sequence[str], tensor: str
) -> list[Sequence[Reading]]:
    """The readings of a text, to each of the texts that it was cut into."""
    if not readings:
        return [()] * len(texts)
    shared: list[Sequence[Reading]] = []
    start = given = 0
    for text in texts:
        end = start + len(markup.anchors(text))
        mine = [r.counted_from(start) for r in readings if start <= r.start and r.end <= end]
        given += len(mine)
        shared.append(mine)
        start = end
    if given < len(readings):
        raise markup.refuse(
            tensor,
            readings[0].position,
            "this reading, or one after it in the same sentence, is for text that is cut or left "
            "out; put a mark before the word, or set LANGUAGE",
        )
    return shared


def _check_text(text: str, tensor: str, limit: int) -> None:
    if len(text) > limit:
        raise InvalidRequest(f"{tensor}: got {len(text)} characters; allowed: up to {limit}")
    if found := _SURROGATE.search(text):
        raise InvalidRequest(
            f"{tensor}: character {found.start() + 1} is a lone surrogate "
            f"(U+{ord(found.group()):04X}); allowed: text that can be written as UTF-8"
        )
