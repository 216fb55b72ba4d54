"""What the guard costs beside a decoding step.

    python -m gsv.bench guard --step-ms 12.5 --rows 1

It reads tokens as the engine hands them on: of a stream one by one, of a whole answer sixteen at a
time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping

import click
import numpy as np

from gsv.engine.gpt.guard import Guard, submit_guarded
from gsv.engine.gpt.judge import BoundsTable
from gsv.engine.gpt.sequence import OnError, OnTokens, SamplingParams, SequenceRequest

TOKENS = 1200
RUNS = 15


class _Handle:
    def cancel(self) -> None:
        """Nothing runs."""


def measure(portion: int, streamed: bool) -> float:
    """Microseconds a token, the median of several sentences of random tokens."""
    tokens = np.random.default_rng(1).integers(0, 1024, (RUNS, TOKENS), dtype=np.int32)
    limits = BoundsTable().limits({"en": TOKENS}, {486})
    guard = Guard(limits, first=25 if streamed else None)
    request = SequenceRequest(
        phonemes=np.zeros(1, np.int32),
        bert=np.zeros((1, 1024), np.float32),
        prompt_tokens=np.zeros(0, np.int32),
        params=SamplingParams(seed=1),
        chunk_tokens=portion,
    )
    times = []
    for row in tokens:
        callbacks: list[OnTokens] = []

        def submit(
            _: SequenceRequest,
            on_tokens: OnTokens,
            __: OnError,
            callbacks: list[OnTokens] = callbacks,
        ) -> _Handle:
            callbacks.append(on_tokens)
            return _Handle()

        submit_guarded(submit, request, guard, lambda *_: None, lambda _: None)
        started = time.perf_counter()
        for first in range(0, TOKENS, portion):
            callbacks[0](row[first : first + portion], False)
        times.append((time.perf_counter() - started) / TOKENS * 1e6)
    return statistics.median(times)


def shares(step_ms: float, rows: int) -> dict[str, Mapping[str, float]]:
    """Microseconds a token, and the share of a step that all rows' tokens take."""
    found: dict[str, Mapping[str, float]] = {}
    for name, portion, streamed in (("whole", 16, False), ("stream", 1, True)):
        micros = measure(portion, streamed)
        found[name] = {"us_per_token": micros, "share_of_step": micros * rows / (step_ms * 1e3)}
    return found


@click.command()
@click.option("--step-ms", type=float, required=True, help="A decoding step, as measured.")
@click.option("--rows", default=1, show_default=True, help="Sentences in that step.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(step_ms: float, rows: int, as_json: bool) -> None:
    """Measure what judging a step's tokens costs beside the step.

    Take the step's time from `python -m gsv.bench semantic`.
    """
    found = shares(step_ms, rows)
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, values in found.items():
        click.echo(
            f"{name:7} {values['us_per_token']:6.2f} us a token, "
            f"{values['share_of_step']:.2%} of a step of {rows}"
        )
