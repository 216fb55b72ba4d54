"""Speed of the GPT through the real engine: sampling, read-back and callbacks included."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.sentences import Answer, generate, sentence
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, memory, spread
from gsv.engine.gpt.engine import Engine

LENGTH = 2560  # positions a sequence; the engine's default
SLOTS = 32


def run(setup: Setup, section: Section, report: Report) -> None:
    """Milliseconds a token at several rows and contexts, prefill, and the cost of the warm-up."""
    rows = setup.pick((1, 2, 4, 8, 16, 32), (1, 2))
    section.attempt("warm_up", functools.partial(_measured_engine, setup))
    engine = _Kept.engine
    if engine is None:
        return
    try:
        section.attempt("first", lambda: decode(setup, engine, rows[0], 256, setup.pick(100, 4)))
        for count in (rows[0], rows[-1], *rows[1:-1]):
            measure = functools.partial(decode, setup, engine, count, 256, setup.pick(400, 10))
            section.attempt(f"rows_{count}", measure, needed=setup.pick(3, 0))
        for count in setup.pick((1, 8, 32), (2,)):
            measure = functools.partial(decode, setup, engine, count, 1024, setup.pick(150, 6))
            section.attempt(f"rows_{count}_at_1024", measure, needed=setup.pick(2, 0))
        for count in setup.pick((1, 8, 32), (1, 2)):
            section.attempt(f"prefill_{count}", functools.partial(prefill, setup, engine, count))
        section.attempt("nucleus", lambda: decode(setup, engine, 1, 256, setup.pick(100, 4), 0.9))
    finally:
        engine.stop()
        _Kept.engine = None
        tidy()


class _Kept:
    """The engine of this step, which is no figure."""

    engine: Engine | None = None


def _measured_engine(setup: Setup) -> dict[str, Any]:
    before = memory(setup.device)
    started = time.perf_counter()
    slots = setup.pick(SLOTS, 2)
    engine = Engine(networks.gpt(setup), setup.device, setup.torch_dtype, slots, max_length=LENGTH)
    made = time.perf_counter()
    engine.warm_up()
    warm = time.perf_counter()
    engine.start()
    _Kept.engine = engine
    return {
        "made_s": made - started,
        "warm_up_s": warm - made,
        "memory_before": before,
        "memory_after": memory(setup.device),
    }


def decode(
    setup: Setup, engine: Engine, rows: int, context: int, tokens: int, top_p: float = 1.0
) -> dict[str, float]:
    """Milliseconds a token while all rows are in work.

    Args:
        setup: the run.
        engine: started.
        rows: sentences at once, of different content.
        context: positions when the first token is drawn.
        tokens: of each sentence.
        top_p: below 1 the draw sorts.
    """
    config = networks.gpt_config(setup)
    prompt = min(context * 3 // 5, 600)
    requests = [
        sentence(config, seed, tokens, phonemes=context - prompt, prompt_tokens=prompt)
        for seed in range(rows)
    ]
    requests = [
        dataclasses.replace(r, params=dataclasses.replace(r.params, top_p=top_p)) for r in requests
    ]
    answers = generate(engine, requests)
    if any(len(answer.tokens) != tokens for answer in answers):
        lengths = [len(answer.tokens) for answer in answers]
        raise ValueError(f"sentences of {lengths} tokens, where {tokens} were to come")
    return steps_of(answers)


def steps_of(answers: list[Answer]) -> dict[str, float]:
    """Time a step, from when the last sentence has begun until the first one ends."""
    begin = max(answer.times[0] for answer in answers)
    end = min(answer.times[-1] for answer in answers)
    inside = [time for answer in answers for time in answer.times if begin < time <= end]
    count = len(inside) / len(answers)  # tokens of each sentence in that time
    longest = max(answers, key=lambda answer: len(answer.times))
    moments = [time for time in longest.times if begin <= time <= end]
    gaps = [MILLI * (b - a) for a, b in zip(moments, moments[1:], strict=False)]
    seconds = max(end - begin, 1e-9)
    return {
        "rows": len(answers),
        "ms_per_token": MILLI * seconds / max(count, 1),
        "tokens_per_s": len(inside) / seconds,
        **{f"gap_{name}_ms": value for name, value in spread(gaps or [0.0]).items()},
    }


def prefill(setup: Setup, engine: Engine, rows: int) -> dict[str, Any]:
    """Milliseconds from the request to the first token, of the first and of the last sentence."""
    config = networks.gpt_config(setup)
    found = []
    for turn in range(setup.pick(5, 2)):
        # Lengths vary as those of sentences do: a new length must cost nothing.
        requests = [
            sentence(config, 100 * turn + n, 2, phonemes=60 + 7 * (n + turn), prompt_tokens=150)
            for n in range(rows)
        ]
        started = time.perf_counter()
        answers = generate(engine, requests)
        first = [MILLI * (answer.times[0] - started) for answer in answers]
        found.append((min(first), max(first)))
    return {
        "first_ms": spread([first for first, _ in found]),
        "last_ms": spread([last for _, last in found]),
    }
