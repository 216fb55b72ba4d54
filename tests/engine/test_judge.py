"""The judge of tokens: what it takes for trouble, where the trouble begins, what it costs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from gsv.engine.gpt.judge import (
    BOUNDS_FILE,
    NORMAL_STREAK,
    Bounds,
    BoundsTable,
    Judge,
    Limits,
    Signal,
    Verdict,
    language_of,
    phonemes_by_language,
    silent_tokens,
)
from gsv.errors import ConfigurationError

LIMITS = Limits(
    fewest=40, expected=100, most=300, run=25, loop=24, silence=50, silent=frozenset([7, 8])
)
RNG = np.random.default_rng(8)
SPEECH = RNG.integers(10, 1024, 5000).tolist()


def judged(tokens: list[int], max_tokens: int = 1500, **limits: object) -> Verdict:
    judge = Judge(dataclasses.replace(LIMITS, **limits), max_tokens)
    judge.read(tokens)
    return judge.end()


def test_speech_is_good() -> None:
    verdict = judged(SPEECH[:120])
    assert verdict == Verdict((), 120, 120, verdict.longest_run, 0, 0, 0)


@pytest.mark.parametrize("period", [*range(1, 9), 12, 24, 40, 90])
def test_a_loop_of_any_length_is_found_at_its_second_time(period: int) -> None:
    before, loop = SPEECH[:50], SPEECH[1000 : 1000 + period]
    verdict = judged(before + loop * 200, most=1500)
    assert verdict.signals == ((Signal.RUN if period == 1 else Signal.LOOP),)
    # As soon as it is a loop by its length, and all of it has come again.
    repeated = max(24, period)
    assert verdict.tokens == 50 + period + repeated
    assert verdict.good == 50 + (0 if period == 1 else period) + NORMAL_STREAK
    if period > 1:
        assert (verdict.loop_period, verdict.loop_tokens) == (period, repeated)


@pytest.mark.parametrize("loop", [[1, 1, 2], [1, 2, 1, 3], [4, 4, 4, 5, 4, 5]])
def test_a_loop_may_hold_a_token_more_than_once(loop: list[int]) -> None:
    verdict = judged(SPEECH[:50] + loop * 50)
    assert verdict.signals == (Signal.LOOP,)
    assert verdict.loop_period == len(loop)


def test_a_word_said_twice_is_no_loop() -> None:
    word = SPEECH[2000:2020]
    assert judged(SPEECH[:30] + word + SPEECH[30:40] + word + SPEECH[50:90]).signals == ()
    assert judged(SPEECH[:30] + word + word + SPEECH[50:90]).signals == ()


def test_a_normal_run_is_no_trouble() -> None:
    assert judged(SPEECH[:50] + [500] * 24 + SPEECH[50:80]).signals == ()
    verdict = judged(SPEECH[:50] + [500] * 25)
    assert verdict.signals == (Signal.RUN,)
    assert verdict.good == 50 + NORMAL_STREAK


def test_a_pause_is_neither_run_nor_loop_but_may_be_too_long() -> None:
    for pause in ([7] * 49, [7, 8] * 24, [7, 7, 8] * 16):
        assert judged(SPEECH[:60] + pause + SPEECH[60:90]).signals == ()
    verdict = judged(SPEECH[:60] + [7, 8] * 40)
    assert verdict.signals == (Signal.SILENCE,)
    assert (verdict.tokens, verdict.good) == (110, 60 + NORMAL_STREAK)
    assert verdict.longest_silence == 50


def test_lengths() -> None:
    assert judged(SPEECH[:39]).signals == (Signal.TOO_SHORT,)
    assert judged(SPEECH[:40]).signals == ()
    assert judged(SPEECH[:299]).signals == ()
    verdict = judged(SPEECH[:2000])
    assert verdict.signals == (Signal.TOO_LONG,)
    assert verdict.good == 300
    assert judged(SPEECH[:200], max_tokens=200).signals == (Signal.LIMIT,)


def test_what_has_settled_never_turns_out_to_be_trouble() -> None:
    """Read one by one or all at once: the same, and nothing settled is taken back."""
    cases = [SPEECH[:50] + SPEECH[100 : 100 + n] * 60 for n in range(1, 12)]
    cases += [SPEECH[:50] + [7] * 80, SPEECH[:50] + [500] * 20 + SPEECH[50:90]]
    for tokens in cases:
        judge, settled = Judge(LIMITS), [0]
        for token in tokens:
            if judge.read([token]) is not None:
                break
            settled.append(judge.settled)
        assert settled == sorted(settled)
        verdict = judge.end()
        assert verdict == judged(tokens)
        assert settled[-1] <= verdict.good


def test_a_prompts_tail_tells_the_silent_tokens() -> None:
    prompt = [*SPEECH[:90], 90, 91, *[486] * 9, 22, 486]
    assert silent_tokens(prompt) == {486, 22}
    assert silent_tokens(np.array(prompt, np.int32)) == {486, 22}
    assert silent_tokens([]) == frozenset()


def test_limits_follow_the_phonemes_of_each_language() -> None:
    table = BoundsTable({"zh": Bounds(2, 3, 4, run=30), "en": Bounds(1, 2, 3, loop=40)})
    limits = table.limits({"zh": 10, "en": 20, "ja": 0}, {486})
    assert (limits.fewest, limits.expected, limits.most) == (40, 70, 40 + 60 + 25)
    assert (limits.run, limits.loop, limits.silent) == (30, 40, {486})
    assert table.of("ja") == Bounds()
    assert BoundsTable({"other": Bounds(2, 3, 4)}).of("ja") == Bounds(2, 3, 4)
    with pytest.raises(ValueError, match="at least one phoneme"):
        table.limits({"zh": 0})


def test_a_phonemes_language_is_a_number_on_the_wire() -> None:
    counts, languages = np.array([3, 2], np.int32), np.array([0, 1, 1, 5, 2], np.int32)
    assert phonemes_by_language(counts, languages) == [{"zh": 1, "en": 2}, {"ja": 1, "other": 1}]
    assert phonemes_by_language(counts, None) == [{"other": 3}, {"other": 2}]
    assert [language_of(label) for label in ("yue", "punctuation")] == ["yue", "other"]


def test_bounds_are_kept_beside_the_model(tmp_path: Path) -> None:
    assert BoundsTable.load(tmp_path).of("en") == Bounds()
    written = BoundsTable({"en": Bounds(1.5, 2.4, 3.9)}).save(tmp_path, {"sentences": 40})
    assert written.name == BOUNDS_FILE
    assert json.loads(written.read_text())["sentences"] == 40
    assert BoundsTable.load(tmp_path).of("en") == Bounds(1.5, 2.4, 3.9)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "{}",
        '{"languages": {"xx": {}}}',
        '{"languages": {"en": {"fewest": 3, "most": 2}}}',
        '{"languages": {"en": {"run": 3}}}',
        '{"languages": {"en": {"most": "wide"}}}',
        '{"languages": []}',
    ],
)
def test_odd_bounds_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / BOUNDS_FILE).write_text(content)
    with pytest.raises(ConfigurationError, match="bounds"):
        BoundsTable.load(tmp_path)
