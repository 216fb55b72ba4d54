"""When each word of an answer is spoken: from phonemes' places among the tokens to seconds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


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
    seconds: float,
) -> Iterator[WordTime]:
    """The times of a sentence's words; marks are not told.

    Args:
        words: of the sentence.
        borders: float64 [phonemes + 1], where its phonemes begin and the last one ends, in tokens,
            from the semantic GPT's alignment.
        sentence: its index.
        start: second of the answer at which it begins.
        seconds: that it lasts; its tokens share them alike, at any speed.
    """
    places = start + borders * (seconds / max(float(borders[-1]), 1.0))
    first = 0
    for word in words:
        last = min(first + word.phonemes, len(places) - 1)
        if word.text and last > first:
            yield WordTime(word.text, float(places[first]), float(places[last]), sentence)
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
