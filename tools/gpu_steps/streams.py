"""First audio and audio-seconds per second of streams, in one process through the real stages."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

from gpu_steps.listening import Listened, Parallel, listen, summary
from gpu_steps.pipeline import Pipeline, vocoder_dtype
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, memory
from gsv.constants import OUTPUT_RATE

SENTENCE_TOKENS = 125  # five seconds
SENTENCES = 3  # of a text


def run(setup: Setup, section: Section, report: Report) -> None:
    """Callers who each ask again as soon as they have heard all."""
    started = time.perf_counter()
    pipeline = Pipeline(setup, setup.pick(SENTENCE_TOKENS, 30))
    try:
        loaded = time.perf_counter() - started
        section.put("load", {"seconds": loaded, "memory": memory(setup.device)})
        section.put("conditions", {
            "sentences": SENTENCES, "sentence_tokens": setup.pick(SENTENCE_TOKENS, 30),
            "text": "placeholder without delay", "voice": "warm", "dtype": setup.dtype,
            "vocoder_dtype": vocoder_dtype(setup),
        })  # fmt: skip
        section.attempt("cold", lambda: callers(setup, pipeline, 1, 1, setup.pick(8, 1)))
        for count, steps, rounds in setup.pick(
            ((1, 8, 6), (8, 8, 2), (32, 8, 1), (16, 8, 1), (1, 32, 3), (8, 32, 1)),
            ((1, 1, 1), (2, 1, 1)),
        ):
            measure = functools.partial(callers, setup, pipeline, count, rounds, steps)
            # New shapes of a load are met once, and again in the run that counts.
            if setup.on_gpu and count > 1:
                warm = functools.partial(callers, setup, pipeline, count, 1, steps, sentences=1)
                section.attempt(f"warm_{count}_{steps}", warm, needed=3)
            section.attempt(f"streams_{count}_{steps}", measure, needed=setup.pick(4, 0))
            watched = functools.partial(calls, setup, pipeline, count, steps)
            section.attempt(f"calls_{count}_{steps}", watched, needed=setup.pick(2, 0))
        for count, steps in setup.pick(((16, 8),), ((2, 1),)):
            measure = functools.partial(wholes, setup, pipeline, count, steps)
            section.attempt(f"whole_{count}_{steps}", measure, needed=setup.pick(4, 0))
        section.put("memory_after", memory(setup.device))
    finally:
        pipeline.close()
        tidy()


def callers(
    setup: Setup, pipeline: Pipeline, count: int, rounds: int, steps: int, sentences: int = 0
) -> dict[str, Any]:
    """``count`` callers at once, ``rounds`` answers each."""
    sentences = sentences or setup.pick(SENTENCES, 1)

    def ask(caller: int) -> list[Listened]:
        return [
            listen(functools.partial(_durations, pipeline, sentences, 1000 * caller + n, steps))
            for n in range(rounds)
        ]

    return summary(Parallel(count, ask))


def _durations(pipeline: Pipeline, sentences: int, seed: int, steps: int) -> Iterator[float]:
    for chunk in pipeline.stream(sentences, seed, steps):
        yield len(chunk.audio) / chunk.sample_rate


def calls(setup: Setup, pipeline: Pipeline, count: int, steps: int) -> list[list[Any]]:
    """What ``count`` callers at once wait for: model, begin and end in ms, until all hear."""
    pipeline.calls = []
    started = time.perf_counter()

    def ask(caller: int) -> float:
        chunks = pipeline.stream(1, 99 + caller, steps)
        next(iter(chunks))
        heard = time.perf_counter()
        for _ in chunks:
            pass
        return heard

    try:
        heard = sorted(Parallel(count, ask).values)
        found = sorted((call for call in pipeline.calls if call[1] <= heard[-1]), key=_begin)
    finally:
        pipeline.calls = None
    rows = [*found, *(("first audio", started, end) for end in heard)]
    return [[model, *(round(MILLI * (t - started), 1) for t in times)] for model, *times in rows]


def _begin(call: tuple[str, float, float]) -> float:
    return call[1]


def wholes(setup: Setup, pipeline: Pipeline, count: int, steps: int) -> dict[str, Any]:
    """Whole answers, ``count`` at once, twice over."""
    sentences, rounds = setup.pick(SENTENCES, 1), setup.pick(2, 1)

    def ask(caller: int) -> float:
        samples = 0.0
        for turn in range(rounds):
            answer = pipeline.whole(sentences, 1000 * caller + turn, steps)
            samples += len(answer.audio) / OUTPUT_RATE
        return samples

    made = Parallel(count, ask)
    audio = sum(made.values)
    return {"audio_s": audio, "seconds": made.seconds, "audio_s_per_s": audio / made.seconds}
