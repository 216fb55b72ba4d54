"""How the sentences of an answer came about: the ``REPORT`` tensor, and counts for metrics."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gsv.engine.gpt.guard import Outcome
from gsv.engine.gpt.judge import Judge, Limits, Verdict


def guarded(phonemes: int, limits: Limits, outcome: Outcome) -> dict[str, Any]:
    """What the semantic GPT tells of a guarded sentence, for ``DRAWN``.

    Args:
        phonemes: how many it has.
        limits: what is normal for it.
        outcome: how it went.
    """
    return {
        "phonemes": phonemes,
        "tokens": outcome.tokens,
        "expected": round(limits.expected, 1),
        "drawn": sum(len(attempt.tokens) - attempt.begun_from for attempt in outcome.attempts),
        "retries": [signal.value for signal in outcome.retries],
        "seed": outcome.seed,
        **_found(outcome.attempts[outcome.kept].verdict),
    }


def unguarded(
    phonemes: int, limits: Limits, tokens: Sequence[int], max_tokens: int, seed: int
) -> dict[str, Any]:
    """The same of a sentence without a guard: it was drawn once, and is judged only now.

    Args:
        tokens: all of them, however bad.
        max_tokens: where it was cut if it did not end.
    """
    judge = Judge(limits, max_tokens)
    judge.read(tokens)
    return {
        "phonemes": phonemes,
        "tokens": len(tokens),
        "expected": round(limits.expected, 1),
        "drawn": len(tokens),
        "retries": [],
        "seed": seed,
        **_found(judge.end()),
    }


def _found(verdict: Verdict) -> dict[str, Any]:
    return {
        "signals": [signal.value for signal in verdict.signals],
        "longest_run": verdict.longest_run,
        "loop_period": verdict.loop_period,
        "loop_tokens": verdict.loop_tokens,
        "longest_silence": verdict.longest_silence,
    }


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
