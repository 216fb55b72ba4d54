"""The GPT's graphs: the same tokens as without and as on the CPU, and what they hold."""

from __future__ import annotations

import dataclasses
import gc
import time
from typing import Any

import torch

from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.sentences import Answer, generate, sentence
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import memory
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.gpu_model_runner import GpuModelRunner
from gsv.engine.gpt.sequence import SequenceRequest

_LENGTH = 1024


def run(setup: Setup, section: Section, report: Report) -> None:
    """Sentences of different lengths together, in float32 and in the run's precision."""
    requests = sentences(setup)
    exact: dict[str, list[list[int]]] = {}
    for name, device, dtype, graphs, kernel in (
        ("cpu_float32", "cpu", torch.float32, True, True),
        ("float32", setup.device, torch.float32, True, True),
        ("float32_plain", setup.device, torch.float32, False, True),
        (setup.dtype, setup.device, setup.torch_dtype, True, True),
        (f"{setup.dtype}_plain", setup.device, setup.torch_dtype, False, True),
        (f"{setup.dtype}_pytorch", setup.device, setup.torch_dtype, True, False),
    ):

        def measure(
            device=device, dtype=dtype, graphs=graphs, kernel=kernel, name=name
        ) -> dict[str, Any]:
            found, exact[name] = tokens(setup, requests, device, dtype, graphs, kernel)
            return found

        section.attempt(name, measure)
    for one, other in (
        ("float32", "cpu_float32"), ("float32", "float32_plain"),
        (setup.dtype, f"{setup.dtype}_plain"), (setup.dtype, f"{setup.dtype}_pytorch"),
        (setup.dtype, "cpu_float32"),
    ):  # fmt: skip
        if one in exact and other in exact and one != other:
            section.put(f"{one} = {other}", agreement(exact[one], exact[other]))
    section.attempt("unloading", lambda: unloading(setup))


def sentences(setup: Setup) -> list[SequenceRequest]:
    """Eight sentences; the last two sample from a nucleus."""
    config = networks.gpt_config(setup)
    tokens = setup.pick(100, 8)
    made = [
        sentence(config, seed, tokens - seed % 3, 30 + 11 * seed, 40 + 17 * seed)
        for seed in range(setup.pick(8, 3))
    ]
    nucleus = [dataclasses.replace(r.params, top_p=0.9, temperature=0.8) for r in made[-2:]]
    changed = zip(made[-2:], nucleus, strict=True)
    return made[:-2] + [dataclasses.replace(r, params=params) for r, params in changed]


def tokens(
    setup: Setup,
    requests: list[SequenceRequest],
    device: str,
    dtype: torch.dtype,
    graphs: bool,
    kernel: bool,
) -> tuple[dict[str, Any], list[list[int]]]:
    """Seconds of the warm-up, memory, and the sentences' tokens."""
    before = memory(setup.device)
    engine = Engine(
        networks.gpt(setup), device, dtype, len(requests), max_length=_LENGTH, kernel=kernel
    )
    if not graphs:
        without_graphs(engine)
    started = time.perf_counter()
    engine.warm_up()
    warm = time.perf_counter() - started
    engine.start()
    try:
        answers: list[Answer] = generate(engine, requests)
        after = memory(setup.device)
    finally:
        engine.stop()
    del engine
    tidy()
    found = {"warm_up_s": warm, "memory_before": before, "memory_after": after}
    return found, [answer.tokens for answer in answers]


def without_graphs(engine: Engine) -> None:
    """Let an engine that has not warmed up capture nothing.

    The only place here that looks into the engine.
    """
    for worker in engine._workers.values():
        if isinstance(worker.runner, GpuModelRunner):
            worker.runner._calls.capture = lambda key, call: None


def agreement(one: list[list[int]], other: list[list[int]]) -> dict[str, Any]:
    """Whole sentences that are equal, and the first token that differs in each of the others."""
    differing = {}
    for index, (a, b) in enumerate(zip(one, other, strict=True)):
        if a != b:
            same = [x == y for x, y in zip(a, b, strict=False)]
            differing[index] = same.index(False) if False in same else len(same)
    return {"sentences": len(one), "equal": len(one) - len(differing), "differing": differing}


def unloading(setup: Setup) -> dict[str, Any]:
    """Memory before a voice's GPT, with it, and after it, without a run of the collector."""
    engine = Engine(networks.gpt(setup), setup.device, setup.torch_dtype, 2, max_length=_LENGTH)
    engine.warm_up()
    engine.start()
    try:
        gc.collect()
        gc.disable()
        before = memory(setup.device)
        engine.add_model("voice", networks.gpt(setup), 2)
        loaded = memory(setup.device)
        engine.remove_model("voice")
        removed = memory(setup.device)
    finally:
        gc.enable()
        engine.stop()
    del engine
    tidy()
    found: dict[str, Any] = {"before": before, "loaded": loaded, "removed": removed}
    if before:
        left = removed["allocated_mib"] - before["allocated_mib"]
        found["left_mib"] = left
        found["ok"] = left < 0.1 * (loaded["allocated_mib"] - before["allocated_mib"])
    return found
