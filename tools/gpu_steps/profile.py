"""Where the time goes: the most expensive kernels of a decode step, a flow step and a window."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from gpu_steps import estimator, voice
from gpu_steps import setup as networks
from gpu_steps.decode import LENGTH
from gpu_steps.report import Report, Section
from gpu_steps.sentences import generate, sentence
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, call_seconds
from gsv.engine.flow.engine import FlowEngine
from gsv.engine.gpt.engine import Engine

KERNELS = 25  # of a table
_NAME = 110  # characters of a kernel's name


def run(setup: Setup, section: Section, report: Report) -> None:
    """One table each."""
    for name, profile in (
        ("decode", decode),
        ("flow", flow),
        ("vocoder", vocoder),
        ("condition", condition),
    ):
        section.attempt(name, lambda profile=profile: profile(setup))
        tidy()


def kernels(function: Callable[[], Any], device: str) -> dict[str, Any]:
    """Wall time and kernels of ``function``, which was called before.

    Returns:
        ``wall_ms`` without the profiler, ``device_ms`` (the sum over kernels), ``launches``, and
        ``rows``: name, calls and milliseconds of the most expensive kernels. On a CPU: operations.
    """
    wall = MILLI * call_seconds(function, device)
    on_gpu = device.startswith("cuda")
    activities = [ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        call_seconds(function, device)
    rows = []
    for event in profiler.key_averages():
        micro = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if micro > 0:
            rows.append({"name": event.key[:_NAME], "calls": event.count, "ms": micro / MILLI})
    rows.sort(key=lambda row: -row["ms"])
    return {
        "wall_ms": wall,
        "device_ms": sum(row["ms"] for row in rows),
        "launches": sum(row["calls"] for row in rows),
        "rows": rows[:KERNELS],
    }


def decode(setup: Setup) -> dict[str, Any]:
    """Fifty tokens of one sentence, through the engine; its prefill is among them."""
    tokens = setup.pick(50, 4)
    engine = Engine(networks.gpt(setup), setup.device, setup.torch_dtype, 1, max_length=LENGTH)
    engine.warm_up()
    engine.start()
    try:
        request = sentence(networks.gpt_config(setup), 1, tokens)
        generate(engine, [request])
        found = kernels(lambda: generate(engine, [request]), setup.device)
        one = sentence(networks.gpt_config(setup), 1, 1)
        generate(engine, [one])
        first = kernels(lambda: generate(engine, [one]), setup.device)
    finally:
        engine.stop()
    steps = tokens - 1
    return found | {
        "tokens": tokens,
        "wall_ms_per_token": (found["wall_ms"] - first["wall_ms"]) / steps,
        "device_ms_per_token": (found["device_ms"] - first["device_ms"]) / steps,
        "launches_per_token": (found["launches"] - first["launches"]) / steps,
        "prefill": first | {"rows": first["rows"][:8]},
    }


@torch.inference_mode()
def flow(setup: Setup) -> dict[str, Any]:
    """One step at the goal's shape and one at a single stream's."""
    network = networks.sovits(setup, dtype=setup.torch_dtype).flow
    engine = FlowEngine(network)  # chooses the layers' kernels
    found = {}
    for rows, frames in setup.pick(((16, 1024), (1, 576)), ((2, 64),)):
        product = estimator.product(setup, network, rows, frames)
        given = estimator.as_served(product, estimator.inputs(setup, network, rows, frames))
        call = functools.partial(product, *given)
        found[f"{rows}x{frames}"] = kernels(call, setup.device)
    del engine
    return found


@torch.inference_mode()
def vocoder(setup: Setup) -> dict[str, Any]:
    """A stream's window, and two long ones, through the stage."""
    found = {}
    stage = voice.stage(setup)
    for rows, frames in setup.pick(((1, 128), (2, 400)), ((1, 32),)):
        requests = voice.requests([frames] * rows)
        voice.vocode(stage, requests)
        call = functools.partial(voice.vocode, stage, requests)
        found[f"{rows}x{frames}"] = kernels(call, setup.device)
    stage.close()
    return found


@torch.inference_mode()
def condition(setup: Setup) -> dict[str, Any]:
    """The condition encoder of a stream's first chunk."""
    model = networks.sovits(setup, dtype=setup.torch_dtype)
    tokens = torch.arange(17, device=setup.device)[None]
    phonemes = torch.arange(60, device=setup.device)[None]
    timbre = torch.zeros(1, model.config.gin_channels, 1, device=setup.device)

    def encode() -> None:
        model.condition(tokens, None, phonemes, None, timbre)

    encode()
    found = kernels(encode, setup.device)
    return found | {"rows": found["rows"][:10]}
