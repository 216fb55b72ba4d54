"""What ``TIMES`` and ``REPORT`` tell of an answer, put together sentence by sentence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gsv.stages.messages import Details
from gsv.stages.sentence_report import report_json
from gsv.stages.word_times import WordTime, sentences_of, times_json, word_times


class AnswerDetails:
    """Both tensors of an answer, or of each chunk of a stream.

    Args:
        details: what the semantic GPT was asked to tell.
        analysis: the text frontend's ``ANALYSIS``, of the whole text.
    """

    def __init__(self, details: int, analysis: str) -> None:
        self._with_times = details >= Details.TIMES
        self._words = sentences_of(analysis)
        self._texts = [str(sentence["text"]) for sentence in json.loads(analysis)["sentences"]]
        self._times: list[WordTime] = []
        self._entries: list[tuple[str, float, Mapping[str, Any]]] = []

    def add(self, index: int, drawn: Mapping[str, Any], start: float, seconds: float) -> None:
        """A sentence that is complete.

        Args:
            index: of the sentence.
            drawn: what ``DRAWN`` says of it.
            start: second of the answer at which it begins.
            seconds: that it lasts, without the pause after it.
        """
        if self._with_times:
            borders = np.array(drawn["borders"], np.float64)
            words = self._words[index]
            self._times += word_times(words, borders, sentence=index, start=start, seconds=seconds)
        self._entries.append((self._texts[index], seconds, drawn))

    def take(self) -> tuple[str | None, str]:
        """``TIMES`` (None if nobody asked for them) and ``REPORT`` of what was added since."""
        times, self._times = self._times, []
        entries, self._entries = self._entries, []
        texts, seconds, drawn = zip(*entries, strict=True) if entries else ((), (), ())
        return times_json(times) if self._with_times else None, report_json(texts, seconds, drawn)
