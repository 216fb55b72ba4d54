"""When each word of an answer is spoken: from phonemes' places among the tokens to seconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gsv.constants import TOKEN_RATE


@dataclasses.dataclass(frozen=True)
class SpokenWord:
    """A word, or a character of a script without blanks, and how many phonemes it takes.

    Attributes:
        text: "" for marks, which are heard as pauses.
        phonemes: at least one, but for text that is not read.
    """

    text: str
    phonemes: int


@dataclasses.dataclass(frozen=True)
class WordTime:
    """A word with its place in the answer, in seconds."""

    word: str
    start: float
    end: float
    sentence: int


def sentences_of(analysis: str) -> list[list[SpokenWord]]:
    """The words of each sentence, from the text frontend's ANALYSIS."""
    return [
        [
            SpokenWord(str(text), int(count))
            for segment in sentence["segments"]
            for text, count in segment["words"]
        ]
        for sentence in json.loads(analysis)["sentences"]
    ]


def word_times(
    words: Sequence[SpokenWord],
    borders: NDArray[np.float64],
    *,
    sentence: int,
    start: float,
    speed: float = 1.0,
) -> Iterator[WordTime]:
    """The times of a sentence's words; marks are not told.

    Args:
        words: of the sentence.
        borders: of its phonemes, in tokens, from the semantic GPT's alignment.
        sentence: its index.
        start: second of the answer at which it begins.
        speed: as the request wants it.
    """
    seconds = borders / TOKEN_RATE / speed + start
    first = 0
    for word in words:
        last = min(first + word.phonemes, len(seconds) - 1)
        if word.text and last > first:
            yield WordTime(word.text, float(seconds[first]), float(seconds[last]), sentence)
        first = last


def times_json(times: Sequence[WordTime]) -> str:
    """The ``TIMES`` tensor's JSON; milliseconds are enough."""
    return json.dumps(
        [
            {
                "word": time.word,
                "start": round(time.start, 3),
                "end": round(time.end, 3),
                "sentence": time.sentence,
            }
            for time in times
        ],
        ensure_ascii=False,
    )
