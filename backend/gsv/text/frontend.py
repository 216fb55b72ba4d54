"""Text to phoneme ids: the whole way, for texts to speak and for transcripts of references.

    text → parts between pauses → sentences → one-language segments → normalised text → symbols

A sentence goes through the segmenter, each segment through its language, and what comes out is
joined; a sentence of fewer than six symbols is read once more with a point in front. Languages,
their dictionaries and the identification model are loaded when they are first needed.

Two readings are offered. ``upstream`` is what upstream's own front end gives, odd readings
included, except where that fails. ``corrected``, the default, rewrites what upstream loses or
misreads before it is read (``gsv.text.corrections``). Both differ from upstream on purpose only:
see ``gsv.text.deviations``.
"""

from __future__ import annotations

import gc
import re
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path

from gsv.constants import MAX_TRANSCRIPT
from gsv.errors import ConfigurationError, InvalidRequest
from gsv.options import LANGUAGES as MODES
from gsv.options import READINGS, SPLIT_METHODS, TEXT_LIMIT, check_choice
from gsv.text import lexicon as lexicons
from gsv.text import markup, split
from gsv.text.aligned import AlignedText
from gsv.text.corrections.changes import Change, Draft
from gsv.text.corrections.characters import correct_characters, fold
from gsv.text.corrections.expressions import segments_with_expressions
from gsv.text.data_files import TextData
from gsv.text.lexicon import Lexicon, Words
from gsv.text.markup import Reading
from gsv.text.reader import SegmentReader
from gsv.text.segment import Segmenter
from gsv.text.symbols import LANGUAGES
from gsv.text.types import Piece, Segment, Sentence

MAX_READ = 510  # characters of a Mandarin piece as it is read: BERT has 512 positions

_MIN_SYMBOLS = 6  # a sentence with fewer is read again with a point in front
_DIGIT_FIRST = re.compile(r"\s*[-+$€£¥₩~]?\s?\d")  # a point before it would be a decimal point
_SURROGATE = re.compile("[\ud800-\udfff]")


class TextFrontend:
    """Reads texts in any of the eleven language modes."""

    def __init__(
        self,
        data: Path | TextData | None = None,
        lexicon: Path | None = None,
        reading: str = READINGS[0],
    ) -> None:
        """Find the data; nothing is loaded yet.

        Args:
            data: folder of text data, or what was found in one (``gsv.text.data_files``); None for
                what the machine and the Python packages bring.
            lexicon: a lexicon file; by default ``lexicon.toml`` in the data folder, if there.
            reading: one of ``gsv.options.READINGS``.

        Raises:
            ConfigurationError: ``data`` is not a folder, the lexicon can't be read, or there is no
                such reading.
        """
        if reading not in READINGS:
            raise ConfigurationError(f"reading: got {reading!r}; allowed: {', '.join(READINGS)}")
        self._corrected = reading == "corrected"
        self.data = data if isinstance(data, TextData) else TextData.find(data)
        path = lexicon or self.data.lexicon
        self._words = lexicons.read_words(path) if path else {}
        self._segmenter = Segmenter(self.data.language_model, keep_all=self._corrected)
        self._reader = SegmentReader(self.data, corrected=self._corrected)

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
        return self._built(self._words)

    def _built(self, words: Words) -> Lexicon:
        """The lexicon of words, their characters as those of the texts will be."""
        if self._corrected:
            words = {
                language: {fold(word): reading for word, reading in entries.items()}
                for language, entries in words.items()
            }
        return lexicons.build(words, self._reader.syllables)

    def voice_lexicon(self, own: Path | Words) -> Lexicon:
        """A voice's lexicon, laid over the frontend's own; to be passed to ``analyze``.

        Args:
            own: its file, or what ``gsv.text.lexicon`` read in it.

        Raises:
            ConfigurationError: the file can't be read, or has a reading that its language lacks.
        """
        above = lexicons.read_words(own) if isinstance(own, Path) else own
        return self._built(lexicons.overlaid(self._words, above))

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
            InvalidRequest: an argument is not allowed, the markup can't be read, or all that is
                read of the text is marks.
        """
        steps = self.analyze_in_steps(text, language, split_method, lexicon)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                sentences: list[Sentence] = end.value
                return sentences

    def analyze_in_steps(
        self,
        text: str,
        language: str = "auto",
        split_method: str = "cut5",
        lexicon: Lexicon | None = None,
    ) -> Generator[None, None, list[Sentence]]:
        """As ``analyze``, a sentence a step, so that others can be served in between.

        Returns:
            A generator, whose return value are the sentences.
        """
        _check_text(text, "TEXT", TEXT_LIMIT)
        check_choice("LANGUAGE", language, MODES)
        check_choice("SPLIT_METHOD", split_method, SPLIT_METHODS)
        spoken: list[Sentence] = []
        silence = 0.0  # asked for before anything is spoken
        left_out: tuple[str, ...] = ()
        for part in markup.parse(text):
            for sentence in self._sentences(part, language, split_method, lexicon):
                yield
                if sentence.spoken if self._corrected else sentence.norm_text:
                    spoken.append(replace(sentence, left_out=left_out))
                    left_out = ()
                else:
                    left_out += sentence.unread
            pause = part.pause or 0.0
            if part.pause is not None and spoken:
                spoken[-1] = replace(spoken[-1], pause_after=(spoken[-1].pause_after or 0) + pause)
            elif not spoken:
                silence += pause
        if not any(sentence.spoken for sentence in spoken):
            raise InvalidRequest(
                f"TEXT: nothing to speak in {text[:40]!r} as LANGUAGE {language}; give words or "
                f"digits that it reads{_listed(spoken, left_out)}"
            )
        if left_out:
            spoken[-1] = replace(spoken[-1], left_out=spoken[-1].left_out + left_out)
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
        whole, readings, changes = self._characters(part.text, part.readings, language, tensor)
        transcript = split.prompt_text(whole, language)
        sentence = self._read(transcript, language, readings, changes, lexicon, tensor)
        if not sentence.spoken:
            raise InvalidRequest(
                f"{tensor}: nothing is spoken in {text[:40]!r} as {tensor.split('_')[0]}_LANGUAGE "
                f"{language}; give the words that the reference says, v4 cannot do without"
                f"{_listed([sentence])}"
            )
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
        text, readings, changes = self._characters(text, readings, language, tensor)
        return self._read(text, language, readings, changes, lexicon, tensor)

    def segment(self, segment: Segment, lexicon: Lexicon | None = None) -> Piece:
        """Text whose language is known, without segmenting it and without a second reading."""
        return self._reader.piece(segment, lexicon or self._lexicon)

    def _characters(
        self, text: str, readings: Sequence[Reading], language: str, tensor: str
    ) -> tuple[str, Sequence[Reading], list[Placed]]:
        """A text with its characters corrected, its readings there, and what was changed."""
        if not self._corrected:
            return text, readings, []
        draft = Draft.of(text)
        correct_characters(draft, language)
        if not draft.changes:
            return text, readings, []
        anchors = _Anchors(draft.text)
        changes = [Placed(change, anchors.before(change.source)) for change in draft.changes]
        return draft.text.text, _moved(readings, text, draft.text, tensor), changes

    def _read(
        self,
        text: str,
        language: str,
        readings: Sequence[Reading],
        changes: Sequence[Placed],
        lexicon: Lexicon | None,
        tensor: str,
    ) -> Sentence:
        """A sentence whose characters are corrected already."""
        words = lexicon or self._lexicon
        sentence = self._read_once(text, language, readings, changes, words, tensor)
        if len(sentence.ids) >= _MIN_SYMBOLS or not (text.strip() or language == "en"):
            return sentence
        point = "。" if self._corrected and _DIGIT_FIRST.match(text) else "."
        again = self._read_once(point + text, language, readings, changes, words, tensor)
        return replace(again, text=text, retried=True)

    def _read_once(
        self,
        text: str,
        language: str,
        readings: Sequence[Reading],
        changes: Sequence[Placed],
        lexicon: Lexicon,
        tensor: str,
    ) -> Sentence:
        pieces = []
        segments = self._segments(text, language)
        texts = [segment.text for segment in segments]
        theirs = _shared_out(readings, texts, tensor)
        changed = _spread(changes, texts)
        # In auto modes the model can take Chinese for Japanese, which may have no dictionary here.
        chinese = {"auto": "zh", "auto_yue": "yue"}.get(language)
        for segment, mine, before in zip(segments, theirs, changed, strict=True):
            piece = self._reader.piece(segment, lexicon, mine, tensor, chinese)
            if piece.ids or piece.norm_text or piece.unread:
                made = tuple(placed.change for placed in before)
                pieces.append(replace(piece, changes=(*made, *piece.changes)))
        return Sentence(
            text=text,
            pieces=tuple(pieces),
            symbols=tuple(symbol for piece in pieces for symbol in piece.symbols),
            ids=tuple(index for piece in pieces for index in piece.ids),
            norm_text="".join(piece.norm_text for piece in pieces),
            retried=False,
        )

    def _segments(self, text: str, language: str) -> list[Segment]:
        if not self._corrected or language == "en":
            return self._segmenter.segments(text, language)
        return segments_with_expressions(
            text, lambda bare: self._segmenter.segments(bare, language)
        )

    def _sentences(
        self, part: markup.Part, language: str, method: str, lexicon: Lexicon | None
    ) -> Iterator[Sentence]:
        """Sentences of a text between pauses, without those of which nothing is read."""
        text, readings, changes = self._characters(part.text, part.readings, language, "TEXT")
        cut = split.sentences(
            split.collapse_marks(text), language, method, inner_marks=not self._corrected
        )
        theirs = _shared_out(readings, cut, "TEXT")
        for text, mine, before in zip(cut, theirs, _spread(changes, cut), strict=True):
            for sentence in self._fitting(text, language, mine, before, lexicon):
                if sentence.norm_text or sentence.unread:
                    yield sentence

    def _fitting(
        self,
        text: str,
        language: str,
        readings: Sequence[Reading],
        changes: Sequence[Placed],
        lexicon: Lexicon | None,
    ) -> Iterator[Sentence]:
        """A sentence, or as many parts of it as it takes for each to fit into BERT's positions."""
        sentence = self._read(text, language, readings, changes, lexicon, "TEXT")
        if not _too_long(sentence) or len(text) < 2:
            yield sentence
            return
        halves = split.halves(text)
        theirs = _shared_out(readings, halves, "TEXT")
        for half, mine, before in zip(halves, theirs, _spread(changes, halves), strict=True):
            yield from self._fitting(half, language, mine, before, lexicon)


@dataclass(frozen=True, slots=True)
class Placed:
    """A change in a text, and the number of anchors (``gsv.text.markup``) before it."""

    change: Change
    anchors: int


class _Anchors:
    """The anchors of a corrected text, to be counted by places of the written one."""

    def __init__(self, text: AlignedText) -> None:
        # For each character the last written place up to it: sources without gaps, in order.
        self._places = list(accumulate(text.sources, max))
        self._anchors = markup.anchors(text.text)

    def before(self, source: int) -> int:
        """Anchors before what was written at ``source``."""
        places = self._places
        later = bisect_left(places, source)
        # What was put in place of a change has no source: it begins after the last one before it.
        end = bisect_left(places, places[later - 1]) + 1 if later else 0
        return bisect_left(self._anchors, end)


def _moved(
    readings: Sequence[Reading], written: str, corrected: AlignedText, tensor: str
) -> Sequence[Reading]:
    """Readings of a written text in the corrected one."""
    if not readings:
        return readings
    old = markup.anchors(written)
    new = {corrected.sources[place]: n for n, place in enumerate(markup.anchors(corrected.text))}
    moved = []
    for reading in readings:
        places = [new.get(old[anchor]) for anchor in range(reading.start, reading.end)]
        if any(place is None for place in places):
            raise markup.refuse(
                tensor,
                reading.position,
                "what is before it is not read by itself but in a number; leave the reading out",
            )
        first = places[0] or 0
        moved.append(replace(reading, start=first, end=first + len(places)))
    return moved


def _spread(changes: Sequence[Placed], texts: Sequence[str]) -> list[list[Placed]]:
    """The changes of a text, to each of the texts that it was cut into."""
    spread: list[list[Placed]] = [[] for _ in texts]
    if not changes or not texts:
        return spread
    ends = list(accumulate(len(markup.anchors(text)) for text in texts))
    for placed in changes:
        index = min(bisect_right(ends, placed.anchors), len(texts) - 1)
        start = ends[index - 1] if index else 0
        spread[index].append(replace(placed, anchors=max(0, placed.anchors - start)))
    return spread


def _listed(sentences: Sequence[Sentence], more: Sequence[str] = ()) -> str:
    """What was not read, for a message."""
    inside = (char for sentence in sentences for char in sentence.unread)
    unread = list(dict.fromkeys([*inside, *more]))
    return f" (not read: {' '.join(unread[:20])})" if unread else ""


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
