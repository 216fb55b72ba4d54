"""The report and the counts of guarded sentences."""

from __future__ import annotations

import json

import numpy as np

from gsv.engine.gpt.guard import Attempt, Outcome
from gsv.engine.gpt.judge import BoundsTable, Signal, Verdict
from gsv.stages.sentence_report import GuardCounts, guarded, report_json, unguarded
from gsv_client import SentenceReport


def attempt(seed: int, *signals: Signal) -> Attempt:
    return Attempt(seed, 0, np.ones(30, np.int32), Verdict(signals, 30, 20, 4, 3, 24, 2))


GOOD = Outcome((attempt(1, Signal.LOOP), attempt(9)), kept=1, tokens=20)
BAD = Outcome((attempt(1, Signal.RUN), attempt(8, Signal.TOO_SHORT)), kept=0, tokens=20)


def test_the_client_reads_the_report() -> None:
    limits = BoundsTable().limits({"en": 5})
    bare = unguarded(5, limits, [3] * 30, 1500, 7)
    drawn = [guarded(4, limits, GOOD), {**bare, "borders": [0, 30], "confidence": 0.5}]
    text = report_json(["Hi.", "Ho."], [0.8, 1.2], drawn)
    assert "borders" not in text
    first, second = (SentenceReport.of(values) for values in json.loads(text))
    assert (first.text, first.phonemes, first.tokens, first.seconds) == ("Hi.", 4, 20, 0.8)
    assert (first.retries, first.seed, first.signals) == (("loop",), 9, ())
    assert first.details["tokens_per_phoneme"] == 5.0
    assert (first.details["loop_period"], first.details["loop_tokens"]) == (3, 24)
    assert (second.tokens, second.retries, second.seed) == (30, (), 7)
    assert (first.details["drawn"], first.details["expected"]) == (60, 14.5)
    # Nobody stopped it, but it is judged.
    assert (second.signals, second.details["drawn"]) == (("run",), 30)
    assert second.details["confidence"] == 0.5


def test_counts_by_cause_and_language() -> None:
    counts = GuardCounts()
    counts.add(GOOD, {"en": 3, "zh": 20})
    counts.add(BAD, {"en": 5})
    counts.add(BAD, {"en": 5})
    assert counts.retries() == {("loop", "zh"): 1, ("run", "en"): 2}
    assert counts.stayed_bad() == {("run", "en"): 2}
    assert counts.sentences() == {"zh": 1, "en": 2}
