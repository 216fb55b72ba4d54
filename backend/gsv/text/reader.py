"""One-language segments to phonemes: the languages, and what upstream adds around them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from gsv.errors import InvalidRequest
from gsv.text import markup
from gsv.text.corrections.changes import Draft
from gsv.text.corrections.chinese import correct_chinese
from gsv.text.corrections.english import correct_english
from gsv.text.corrections.japanese import correct_japanese, correct_kanji, foreign
from gsv.text.corrections.korean import correct_korean
from gsv.text.data_files import TextData, required_package
from gsv.text.english.placeholders import Placeholders
from gsv.text.japanese import DictionaryMissing
from gsv.text.lexicon import Lexicon
from gsv.text.markup import Reading
from gsv.text.symbols import known, symbol_ids
from gsv.text.types import Language, Phonemes, Piece, Segment

if TYPE_CHECKING:
    # Each is imported, with the libraries that it needs, when a text first has its language.
    from gsv.text.cantonese import Cantonese
    from gsv.text.chinese import Chinese
    from gsv.text.chinese.lexicon import SyllableLexicon
    from gsv.text.english import English
    from gsv.text.japanese import Japanese
    from gsv.text.korean import Korean

_LOGGER = logging.getLogger(__name__)
_NAMES = {
    **{"zh": "Mandarin", "ja": "Japanese", "en": "English", "ko": "Korean"},
    "yue": "Cantonese",
}
# Read once when a language is loaded, so that no first request waits for what comes with first use.
_SAMPLES = {
    **{"zh": "今天3点不去公园。", "yue": "佢哋3点去公园。", "ja": "今日は、3時です。"},
    **{"ko": "오늘 3시.", "en": "They read it at 3."},
}
_MIN_ENGLISH_SYMBOLS = 4  # an English segment with fewer gets a comma in front
_KANA = re.compile("[\u3041-\u3096\u30a1-\u30fa\uff66-\uff9d]")
# The first of these that a Mandarin segment has turns all its commas into a pause symbol.
_LONG_PAUSES = {"￥": "SP2", "^": "SP3"}


class SegmentReader:
    """Reads segments, each with its language's class, which is loaded when it is first needed."""

    def __init__(self, data: TextData, *, corrected: bool = True) -> None:
        """Nothing is loaded yet.

        Args:
            data: what text data there is.
            corrected: rewrite what upstream loses before it is read (``gsv.text.corrections``).
        """
        self._data = data
        self._corrected = corrected

    def load(self, languages: Iterable[str]) -> None:
        """Load these languages (``zh ja en ko yue``) now; one whose data is missing is logged."""
        for language in languages:
            reader = self._language(language)
            try:
                reader.load()
                reader.phonemes(reader.normalize(_SAMPLES[language]))
            except DictionaryMissing as error:
                _LOGGER.warning("%s text will be refused: %s", _NAMES[language], error)

    def syllables(self, language: str, words: Mapping[str, Sequence[str]]) -> SyllableLexicon:
        """Words of ``zh`` or ``yue``, checked; ConfigurationError for an unknown reading."""
        return self._chinese_for(language).lexicon(words)

    def piece(
        self,
        segment: Segment,
        lexicon: Lexicon,
        readings: Sequence[Reading] = (),
        tensor: str = "TEXT",
        guessed: str | None = None,
    ) -> Piece:
        """The segment's normalised text, symbols and ids.

        Args:
            segment: text in one language.
            lexicon: fixed readings of words.
            readings: readings written into the segment, counted from its first anchor.
            tensor: the request's text, for messages.
            guessed: ``zh`` or ``yue`` where the segment's language was guessed: what was taken for
                Japanese, has no kana and can't be read is then read so.

        Raises:
            InvalidRequest: a reading that the segment's language can't take.
        """
        language = segment.language
        if language == "ja" and guessed and not self._is_japanese(segment.text):
            language = guessed
            segment = Segment(language, segment.text)
        if language in ("zh", "yue"):
            draft, normalized, spoken = self._chinese_spoken(segment, lexicon, readings, tensor)
        elif language in ("ja", "ko"):
            _refuse(readings, language, tensor)
            draft, normalized, spoken = self._respelled(segment, lexicon, tensor)
        else:
            draft, normalized, spoken = self._english_spoken(segment, lexicon, readings, tensor)
        symbols = known(spoken.symbols)
        unread = self._unread(language, draft.text.text)
        return Piece(
            language,
            segment.text,
            normalized,
            symbols,
            symbol_ids(symbols),
            spoken.word2ph,
            tuple(draft.changes),
            unread,
            spoken.words,
        )

    def _is_japanese(self, text: str) -> bool:
        """Whether text that the model took for Japanese can be read so: it has kana, or its kanji
        are known."""
        if _KANA.search(text):
            return True
        try:
            return not (self._corrected and foreign(self._japanese.unread(text)))
        except DictionaryMissing:
            return False

    def _draft(self, language: str, text: str) -> Draft:
        """The segment as it will be read: corrected, unless upstream's own reading is wanted."""
        draft = Draft.of(text)
        if not self._corrected:
            return draft
        if language in ("zh", "yue"):
            correct_chinese(draft, partial(self._chinese_for(language).reads, all_characters=True))
        elif language == "ja":
            correct_japanese(draft)
            correct_kanji(draft, self._japanese.unread)
        elif language == "ko":
            correct_korean(draft)
        else:
            correct_english(draft)
        return draft

    def _unread(self, language: str, text: str) -> tuple[str, ...]:
        """Letters and digits of a corrected segment that have no reading, each once."""
        odd = list(dict.fromkeys(filter(_is_letter, text)))
        if language == "ja":
            if not odd:
                return ()
            silent = "".join(self._japanese.unread(text))
            outside = [char for char in odd if not self._japanese.takes(char)]
            return tuple(dict.fromkeys([*filter(_is_letter, silent), *outside]))
        if language == "ko":
            return tuple(char for char in odd if not self._korean.can_read(char))
        if language in ("zh", "yue"):
            chinese = self._chinese_for(language)
            return tuple(
                char for char in odd if not chinese.reads(char, all_characters=self._corrected)
            )
        return tuple(char for char in odd if not self._english.can_read(char))

    def _chinese_spoken(
        self, segment: Segment, lexicon: Lexicon, readings: Sequence[Reading], tensor: str
    ) -> tuple[Draft, str, Phonemes]:
        language, text = segment.language, segment.text
        chinese = self._chinese_for(language)
        pause = None
        if language == "zh":
            pause = next((mark for mark in _LONG_PAUSES if mark in text), None)
            text = text.replace(pause, ",") if pause else text
        draft = self._draft(language, text)
        normalized, sources = chinese.normalize_with_offsets(
            draft.text, all_characters=self._corrected
        )
        given = _placed(readings, text, sources, language, tensor)
        spoken = chinese.phonemes(normalized, given, lexicon.syllables.get(language))
        if pause:
            symbols = (_LONG_PAUSES[pause] if s == "," else s for s in spoken.symbols)
            spoken = Phonemes(tuple(symbols), spoken.word2ph)
        return draft, normalized, spoken

    def _respelled(
        self, segment: Segment, lexicon: Lexicon, tensor: str
    ) -> tuple[Draft, str, Phonemes]:
        language = self._language(segment.language)
        try:
            draft = self._draft(segment.language, lexicon.respell(segment.language, segment.text))
            normalized = language.normalize(draft.text.text)
            return draft, normalized, language.phonemes(normalized)
        except DictionaryMissing as error:
            raise InvalidRequest(
                f"{tensor}: {segment.text[:40]!r} is {_NAMES[segment.language]} text, which this "
                f"server can't read: {error}"
            ) from error

    def _english_spoken(
        self, segment: Segment, lexicon: Lexicon, readings: Sequence[Reading], tensor: str
    ) -> tuple[Draft, str, Phonemes]:
        # Upstream reads a space, as English, for a segment that no language claims.
        text = segment.text if segment.language == "en" else " "
        named = [reading for reading in readings if not reading.english]
        _refuse(named or (readings if segment.language != "en" else ()), "en", tensor)
        words = Placeholders(text)
        text = _with_placeholders(text, readings, words)
        text = words.replace_known(text, lexicon.english)
        draft = self._draft("en", text)
        normalized = self._english.normalize(draft.text.text)
        spoken = self._english.phonemes(normalized, words.phones)
        if len(spoken.symbols) < _MIN_ENGLISH_SYMBOLS:
            spoken = Phonemes((",", *spoken.symbols), words=(("", 1), *spoken.words))
        restored = tuple((words.restored(word), count) for word, count in spoken.words)
        return draft, words.restored(normalized), replace(spoken, words=restored)

    def _language(self, language: str) -> Language:
        if language in ("zh", "yue"):
            return self._chinese_for(language)
        if language == "ja":
            return self._japanese
        return self._korean if language == "ko" else self._english

    def _chinese_for(self, language: str) -> Chinese | Cantonese:
        return self._cantonese if language == "yue" else self._chinese

    @cached_property
    def _chinese(self) -> Chinese:
        from gsv.text.chinese import Chinese

        return Chinese(self._data.folder)

    @cached_property
    def _cantonese(self) -> Cantonese:
        from gsv.text.cantonese import Cantonese

        return Cantonese(self._data.folder)

    @cached_property
    def _japanese(self) -> Japanese:
        from gsv.text.japanese import Japanese

        return Japanese(self._data.japanese, self._data.japanese_words)

    @cached_property
    def _korean(self) -> Korean:
        from gsv.text.korean import Korean

        return Korean()

    @cached_property
    def _english(self) -> English:
        from gsv.text.english import English

        return English(
            g2p_en=required_package("g2p_en", "g2p_en==2.1.0"),
            wordsegment=required_package("wordsegment", "wordsegment==1.3.1"),
            upstream=self._data.upstream,
            cmudict=self._data.cmudict,
            names=self._data.names,
            tagger=self._data.tagger,
        )


def _is_letter(char: str) -> bool:
    """Whether a character is something that one would say: a letter, a digit, a currency."""
    return char >= "0" and (char.isalnum() or unicodedata.category(char) in ("Sc", "So"))


def _refuse(readings: Sequence[Reading], language: str, tensor: str) -> None:
    """Refuse the first of readings that the language has no use for."""
    for reading in readings:
        raise markup.refuse(
            tensor,
            reading.position,
            f"{' '.join(reading.phones)!r} is given for text that is read as "
            f"{_NAMES.get(language, 'English')}; set LANGUAGE, or leave it out",
        )


def _placed(
    readings: Sequence[Reading], text: str, sources: Sequence[int], language: str, tensor: str
) -> dict[int, str]:
    """Index in the normalised text → syllable.

    Args:
        readings: readings of single characters of ``text``, counted from its first anchor.
        text: a Mandarin or Cantonese segment.
        sources: for each normalised character, where in ``text`` it stood.
        language: ``zh`` or ``yue``.
        tensor: the request's text, for messages.
    """
    if not readings:
        return {}
    from gsv.text.cantonese import parse_jyutping
    from gsv.text.chinese.syllables import parse_pinyin

    check: Callable[[str], object] = parse_jyutping if language == "yue" else parse_pinyin
    places = markup.anchors(text)
    placed = {}
    for reading in readings:
        if reading.english:
            _refuse([reading], language, tensor)
        if places[reading.start] not in sources:
            raise markup.refuse(
                tensor,
                reading.position,
                "the character before it is not read by itself but in a number, a date or a unit; "
                "leave the reading out",
            )
        (syllable,) = reading.phones
        try:
            check(syllable)
        except InvalidRequest as error:
            raise markup.refuse(tensor, reading.position, str(error)) from error
        placed[sources.index(places[reading.start])] = syllable
    return placed


def _with_placeholders(text: str, readings: Sequence[Reading], words: Placeholders) -> str:
    """The text with a made-up word for each word that has a reading of its own."""
    places = markup.anchors(text) if readings else []
    for reading in sorted(readings, key=lambda reading: reading.start, reverse=True):
        start, end = places[reading.start], places[reading.end - 1] + 1
        made_up = words.placeholder(text[start:end], reading.phones)
        text = text[:start] + made_up + text[end:]
    return text
