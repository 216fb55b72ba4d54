"""First audio and audio-seconds per second of streams, in one process through the real stages."""

from __future__ import annotations

import functools
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from gpu_steps.pipeline import Pipeline, vocoder_dtype
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, memory, spread

SENTENCE_TOKENS = 125  # five seconds
SENTENCES = 3  # of a text
_GAP_SECONDS = 0.05  # a listener notices


def run(setup: Setup, section: Section, report: Report) -> None:
    """Callers who each ask again as soon as they have heard all."""
    started = time.perf_counter()
    pipeline = Pipeline(setup, setup.pick(SENTENCE_TOKENS, 30))
    try:
        loaded = time.perf_counter() - started
        section.put("load", {"seconds": loaded, "memory": memory(setup.device)})
        section.put("conditions", {
            "sentences": SENTENCES, "sentence_tokens": setup.pick(SENTENCE_TOKENS, 30),
            "text": "stand-in without delay", "voice": "warm", "dtype": setup.dtype,
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
            if count == 1:
                section.attempt(f"calls_{steps}", lambda steps=steps: calls(pipeline, steps))
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
    """``count`` callers at once, ``rounds`` answers each.

    Returns:
        First audio (ms), the longest time a listener would have stood dry, and audio-seconds per
        second from the first request until the last answer's end.
    """
    sentences = sentences or setup.pick(SENTENCES, 1)
    heard = _Parallel(
        count,
        lambda caller: [
            _listen(pipeline, sentences, 1000 * caller + turn, steps) for turn in range(rounds)
        ],
    )
    answers = [answer for caller in heard.values for answer in caller]
    audio = sum(answer["audio_s"] for answer in answers)
    return {
        "callers": count,
        "answers": len(answers),
        "first_ms": spread([answer["first_ms"] for answer in answers]),
        "whole_ms": spread([answer["whole_ms"] for answer in answers]),
        "dry_ms": spread([answer["dry_ms"] for answer in answers]),
        "smooth_share": statistics.mean(a["dry_ms"] <= MILLI * _GAP_SECONDS for a in answers),
        "audio_s": audio,
        "seconds": heard.seconds,
        "audio_s_per_s": audio / heard.seconds,
    }


def calls(pipeline: Pipeline, steps: int) -> list[list[Any]]:
    """What a single stream waits for: model, begin and end in ms, until its first audio."""
    pipeline.calls = []
    try:
        started = time.perf_counter()
        chunks = pipeline.stream(1, 99, steps)
        next(iter(chunks))
        heard = time.perf_counter()
        found = [call for call in pipeline.calls if call[1] <= heard]
        for _ in chunks:
            pass
    finally:
        pipeline.calls = None
    times = [(model, MILLI * (a - started), MILLI * (b - started)) for model, a, b in found]
    return [*map(list, times), ["first audio", 0.0, MILLI * (heard - started)]]


def wholes(setup: Setup, pipeline: Pipeline, count: int, steps: int) -> dict[str, Any]:
    """Whole answers, ``count`` at once, twice over."""
    sentences, rounds = setup.pick(SENTENCES, 1), setup.pick(2, 1)

    def ask(caller: int) -> float:
        samples = 0.0
        for turn in range(rounds):
            answer = pipeline.whole(sentences, 1000 * caller + turn, steps)
            samples += len(answer["AUDIO"]) / answer["SAMPLE_RATE"]
        return samples

    made = _Parallel(count, ask)
    audio = sum(made.values)
    return {"audio_s": audio, "seconds": made.seconds, "audio_s_per_s": audio / made.seconds}


def _listen(pipeline: Pipeline, sentences: int, seed: int, steps: int) -> dict[str, float]:
    """One stream, heard from its first chunk on."""
    started = time.perf_counter()
    first = 0.0
    audio, dry = 0.0, 0.0
    for chunk in pipeline.stream(sentences, seed, steps):
        now = time.perf_counter()
        if not first:
            first = now
        # Playing began with the first chunk; when this one comes, so much has been played.
        late = (now - first) - audio - dry
        dry += max(0.0, late)
        audio += len(chunk["AUDIO"]) / chunk["SAMPLE_RATE"]
    ended = time.perf_counter()
    return {
        "first_ms": MILLI * (first - started),
        "whole_ms": MILLI * (ended - started),
        "dry_ms": MILLI * dry,
        "audio_s": audio,
    }


class _Parallel:
    """``ask(caller)`` of each caller on a thread of its own; their values and the time of all."""

    def __init__(self, count: int, ask: Callable[[int], Any]) -> None:
        self.values: list[Any] = [None] * count
        self._errors: list[BaseException] = []
        gate = threading.Barrier(count + 1)

        def work(caller: int) -> None:
            gate.wait()
            try:
                self.values[caller] = ask(caller)
            except BaseException as error:
                self._errors.append(error)

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
        for thread in threads:
            thread.start()
        gate.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        self.seconds = time.perf_counter() - started
        if self._errors:
            raise self._errors[0]
