"""How the sentences of an answer came about: the ``REPORT`` tensor, and counts for metrics."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.engine.gpt.guard import Outcome


def guarded(outcome: Outcome) -> dict[str, Any]:
    """What the semantic GPT tells of a guarded sentence, for JSON."""
    kept = outcome.attempts[outcome.kept].verdict
    return {
        "tokens": outcome.tokens,
        "retries": [signal.value for signal in outcome.retries],
        "seed": outcome.seed,
        "signals": [signal.value for signal in outcome.signals],
        "longest_run": kept.longest_run,
        "loop_period": kept.loop_period,
        "loop_tokens": kept.loop_tokens,
        "longest_silence": kept.longest_silence,
    }


def unguarded(tokens: int, seed: int) -> dict[str, Any]:
    """The same of a sentence that nobody judged."""
    return {"tokens": tokens, "retries": [], "seed": seed, "signals": []}


def drawn_json(
    sentences: Sequence[Mapping[str, Any]],
    phonemes: Sequence[int],
    borders: Sequence[NDArray[np.float64] | None],
) -> str:
    """The ``DRAWN`` tensor, by which the semantic GPT tells the public models of its sentences.

    Args:
        sentences: of each, what :func:`guarded` or :func:`unguarded` says.
        phonemes: how many it has.
        borders: float64 [phonemes + 1], where its phonemes begin and the last one ends, in tokens;
            None where nobody asked.
    """
    told = [
        {
            "phonemes": count,
            **sentence,
            **({} if places is None else {"borders": places.round(3).tolist()}),
        }
        for sentence, count, places in zip(sentences, phonemes, borders, strict=True)
    ]
    return json.dumps(told)


def report_json(
    texts: Sequence[str], seconds: Sequence[float], drawn: Sequence[Mapping[str, Any]]
) -> str:
    """The ``REPORT`` tensor.

    Args:
        texts: of each sentence.
        seconds: that it lasts, without the pause after it.
        drawn: what ``DRAWN`` says of it.
    """
    entries = [
        {
            "text": text,
            "seconds": round(float(length), 3),
            "tokens_per_phoneme": round(sentence["tokens"] / max(sentence["phonemes"], 1), 2),
            **{name: value for name, value in sentence.items() if name != "borders"},
        }
        for text, length, sentence in zip(texts, seconds, drawn, strict=True)
    ]
    return json.dumps(entries, ensure_ascii=False)


class GuardCounts:
    """Counts of what the guard did, by cause and language; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._retries: Counter[tuple[str, str]] = Counter()
        self._stayed_bad: Counter[tuple[str, str]] = Counter()
        self._sentences: Counter[str] = Counter()

    def add(self, outcome: Outcome, phonemes: Mapping[str, int]) -> None:
        """Count a sentence, as one of the language that most of its phonemes are of.

        Args:
            outcome: how it went.
            phonemes: how many of each language it has.
        """
        language = max(phonemes, key=lambda name: phonemes[name])
        with self._lock:
            self._sentences[language] += 1
            for signal in outcome.retries:
                self._retries[signal.value, language] += 1
            for signal in outcome.signals:
                self._stayed_bad[signal.value, language] += 1

    def retries(self) -> dict[tuple[str, str], int]:
        """Drawings again, by cause and language."""
        with self._lock:
            return dict(self._retries)

    def stayed_bad(self) -> dict[tuple[str, str], int]:
        """Sentences that had trouble in what was kept, by cause and language."""
        with self._lock:
            return dict(self._stayed_bad)

    def sentences(self) -> dict[str, int]:
        """All guarded sentences, by language."""
        with self._lock:
            return dict(self._sentences)
