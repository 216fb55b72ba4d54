"""Words whose reading an operator or a voice fixes, one syllable for each character."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gsv.errors import ConfigurationError, InvalidRequest


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
        lengths: dict[str, set[int]] = {}
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
            key = written(word)
            self._readings[key] = tuple(readings)
            lengths.setdefault(key[0], set()).add(len(key))
        self._lengths = {char: sorted(found, reverse=True) for char, found in lengths.items()}

    def readings(self, text: str) -> dict[int, str]:
        """Index in ``text`` → reading, for the longest words of the lexicon from left to right."""
        found: dict[int, str] = {}
        index = 0
        while index < len(text):
            lengths = self._lengths.get(text[index], ())
            word = next(
                (w for n in lengths if (w := text[index : index + n]) in self._readings), ""
            )
            found.update(enumerate(self._readings.get(word, ()), start=index))
            index += len(word) or 1
        return found
