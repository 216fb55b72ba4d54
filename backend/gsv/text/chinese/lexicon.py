"""Words whose reading an operator or a voice fixes, one syllable for each character."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gsv.errors import ConfigurationError, InvalidRequest
from gsv.text.word_finder import WordFinder


class SyllableLexicon:
    """Word → syllables, for Mandarin (pinyin) and Cantonese (jyutping).

    Args:
        words: word → one reading for each of its characters.
        written: the form in which normalised text has a word (simplified characters).
        check: raises InvalidRequest for a reading that the language does not know.

    Raises:
        ConfigurationError: a word is empty, has too few or too many readings, or one that ``check``
            refuses.
    """

    def __init__(
        self,
        words: Mapping[str, Sequence[str]],
        written: Callable[[str], str],
        check: Callable[[str], object],
    ) -> None:
        self._readings: dict[str, tuple[str, ...]] = {}
        for word, readings in words.items():
            if not word or len(readings) != len(word):
                raise ConfigurationError(
                    f"lexicon: {word!r} has {len(word)} characters and {len(readings)} readings; "
                    "give one reading for each character"
                )
            for reading in readings:
                try:
                    check(reading)
                except InvalidRequest as error:
                    raise ConfigurationError(f"lexicon: {word!r}: {error}") from error
            self._readings[written(word)] = tuple(readings)
        self._finder = WordFinder(self._readings)

    def readings(self, text: str) -> dict[int, str]:
        """Index in ``text`` → reading, for the longest words of the lexicon from left to right."""
        found: dict[int, str] = {}
        for start, word in self._finder.find(text):
            found.update(enumerate(self._readings[word], start))
        return found
