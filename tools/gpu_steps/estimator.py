"""Speed of the flow's estimator against the matrix product rate of the same run."""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, call_seconds, spread, steady
from gsv.bench.acoustic import dit_operations
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.flow.graphed_estimator import GraphedEstimator, shape_for
from gsv.engine.kernels.cuda import flow as kernels
from gsv.models.flow import FlowMatching

# Rows and frames; the first one is the goal's.
SHAPES = [(16, 1024), (1, 576), (8, 576), (1, 160), (1, 1024), (4, 576), (16, 576), (32, 160)]
QUICK_SHAPES = [(2, 64), (1, 32)]


def run(setup: Setup, section: Section, report: Report) -> None:
    """One step at several shapes, whole solutions through the engine, and what comes before."""
    model = networks.sovits(setup, dtype=setup.torch_dtype)
    engine = FlowEngine(model.flow, slots=32)  # chooses the layers' kernels
    engine.start()
    try:
        section.attempt("warm_up_s", lambda: call_seconds(engine.warm_up, setup.device))
        for rows, frames in setup.pick(SHAPES, QUICK_SHAPES):
            for way, prepare in (("plain", plain), ("product", product)):
                section.attempt(
                    f"step_{rows}x{frames}_{way}",
                    functools.partial(step, setup, model.flow, prepare, report, rows, frames),
                    needed=setup.pick(2, 0),
                )
        for rows, frames, steps in setup.pick(
            ((16, 1024, 16), (1, 576, 8), (8, 576, 8), (1, 576, 32), (32, 160, 8)), ((2, 64, 2),)
        ):
            section.attempt(
                f"solve_{rows}x{frames}_{steps}",
                functools.partial(solve, setup, engine, model.flow, report, rows, frames, steps),
                needed=setup.pick(3, 0),
            )
        section.attempt("condition", lambda: condition(setup, model))
        variants = (("torch", False), ("early", True)) if setup.on_gpu else ()
        for name, early in variants:
            section.attempt(
                f"variant_{name}",
                functools.partial(variant, setup, report, early=early),
                needed=setup.pick(5, 0),
            )
    finally:
        engine.stop()
        tidy()


def inputs(
    setup: Setup, flow: FlowMatching, rows: int, frames: int, *, ragged: bool = False
) -> Inputs:
    """Random inputs of one estimate: noisy mel, embedded inputs, modulation, lengths."""
    generator = torch.Generator().manual_seed(rows * 1000 + frames)
    noisy = torch.randn(rows, frames, flow.mel_channels, generator=generator)
    channels = flow.condition_channels
    condition = torch.randn(rows, channels, frames, generator=generator).to(setup.device)
    prompt = torch.rand(rows, flow.mel_channels, frames // 2, generator=generator)
    with torch.inference_mode():
        embedded = flow.embed(condition, prompt.to(setup.device))
        modulation = flow.schedule(8)[3:4].repeat(rows, 1)
    sizes = [frames - 7 * row * ragged for row in range(rows)]
    lengths = torch.tensor(sizes, dtype=torch.int32, device=setup.device)
    # On a GPU all batches have lengths.
    given = lengths if ragged or setup.on_gpu else None
    return noisy.to(setup.device), embedded, modulation, given


Estimate = Callable[..., Tensor]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]


def plain(setup: Setup, flow: FlowMatching, rows: int, frames: int) -> Estimate:
    """The estimator itself."""
    estimate: Estimate = flow.estimator
    return estimate


def product(setup: Setup, flow: FlowMatching, rows: int, frames: int) -> GraphedEstimator:
    """The estimator as the flow engine calls it, with the graph of one shape where it has one."""
    graphed = GraphedEstimator(flow.estimator, disable=not setup.on_gpu)
    bucket = shape_for(rows, frames)
    if bucket is not None:
        graphed.capture(*bucket)
    return graphed


def as_served(graphed: GraphedEstimator, given: Inputs) -> Inputs:
    """Inputs in the graph's own memory, where the flow engine writes them once a batch."""
    graphed(*given)
    bucket = graphed.bucket(*given[0].shape[:2])
    if bucket is None:
        return given
    own = graphed.inputs_of(bucket)
    return own.noisy, own.inputs, own.modulation, own.lengths


@torch.inference_mode()
def step(
    setup: Setup,
    flow: FlowMatching,
    prepare: Callable[[Setup, FlowMatching, int, int], Estimate],
    report: Report,
    rows: int,
    frames: int,
) -> dict[str, Any]:
    """One estimate: its time, and its share of the matrix product rate."""
    given, estimate = inputs(setup, flow, rows, frames), prepare(setup, flow, rows, frames)
    if isinstance(estimate, GraphedEstimator):
        given = as_served(estimate, given)
    repeats = setup.pick(10 if rows * frames < 10_000 else 5, 2)
    found = steady(lambda: estimate(*given), setup.device, repeats)
    seconds = min(found["best_ms"], found["queued_ms"]) / MILLI
    return found | share(setup, report, rows, frames, seconds)


def variant(setup: Setup, report: Report, *, early: bool) -> dict[str, Any]:
    """Steps without Triton's language, or with kernels that start before the last one's end."""
    flow = networks.sovits(setup, dtype=setup.torch_dtype).flow
    if early:
        kernels.accelerate(flow, early=True)
    return {
        f"{rows}x{frames}": step(setup, flow, product, report, rows, frames)
        for rows, frames in SHAPES[:3]
    }


def share(setup: Setup, report: Report, rows: int, frames: int, seconds: float) -> dict[str, float]:
    """Operations of an estimate that takes ``seconds``, against the rate of this run."""
    operations = rows * dit_operations(networks.sovits_config(setup), frames)
    rate = report.results("machine").get(f"gemm_{setup.dtype}", {}).get("tera_per_s")
    found = {"tera_operations": operations / 1e12}
    return found | ({"gemm_share": operations / seconds / (rate * 1e12)} if rate else {})


def jobs(setup: Setup, flow: FlowMatching, rows: int, frames: int, steps: int) -> list[FlowRequest]:
    """Chunks of ``frames``, half of them prompt."""
    generator = torch.Generator().manual_seed(frames)
    channels, mel = flow.condition_channels, flow.mel_channels
    return [
        FlowRequest(
            condition=torch.randn(channels, frames, generator=generator).to(setup.device),
            prompt=(torch.rand(mel, frames // 2, generator=generator) * 2 - 1).to(setup.device),
            steps=steps,
            seed=row,
        )
        for row in range(rows)
    ]


def together(engine: FlowEngine, wanted: list[FlowRequest]) -> list[Tensor]:
    """Solve all of them, submitted at once; raises the first error."""
    answers: queue.SimpleQueue[tuple[int, Tensor | BaseException]] = queue.SimpleQueue()
    for index, job in enumerate(wanted):
        put = functools.partial(_put, answers, index)
        engine.submit(job, put, put)
    found: dict[int, Tensor] = {}
    for _ in wanted:
        index, answer = answers.get(timeout=60)
        if isinstance(answer, BaseException):
            raise answer
        found[index] = answer
    return [found[index] for index in range(len(wanted))]


def _put(
    answers: queue.SimpleQueue[tuple[int, Tensor | BaseException]],
    index: int,
    answer: Tensor | BaseException,
) -> None:
    answers.put((index, answer))


def solve(
    setup: Setup,
    engine: FlowEngine,
    flow: FlowMatching,
    report: Report,
    rows: int,
    frames: int,
    steps: int,
) -> dict[str, float]:
    """Milliseconds until all jobs are solved, through the engine."""
    wanted = jobs(setup, flow, rows, frames, steps)
    first = MILLI * call_seconds(lambda: together(engine, wanted), setup.device)
    times = [
        MILLI * call_seconds(lambda: together(engine, wanted), setup.device)
        for _ in range(setup.pick(4, 1))
    ]
    each = min(times) / steps
    found = {"first_ms": first, **spread(times), "ms_per_step": each}
    return found | share(setup, report, rows, frames, each / MILLI)


@torch.inference_mode()
def condition(setup: Setup, model: Any) -> dict[str, Any]:
    """The condition encoder, once a chunk, and the style encoder, once a voice."""
    found: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(1)
    for rows, tokens in setup.pick(((1, 17), (1, 100), (8, 100)), ((1, 17),)):
        ids = torch.randint(0, 1024, (rows, tokens), generator=generator).to(setup.device)
        phonemes = torch.randint(0, 732, (rows, 60), generator=generator).to(setup.device)
        timbre = torch.randn(rows, model.config.gin_channels, 1, generator=generator)
        timbre = timbre.to(setup.device)
        found[f"{rows}x{tokens}"] = steady(
            functools.partial(model.condition, ids, None, phonemes, None, timbre),
            setup.device,
            setup.pick(10, 2),
        )
    spectrum = torch.rand(1, model.config.style_bins, 300, generator=generator).to(setup.device)
    found["style"] = steady(lambda: model.style(spectrum), setup.device, setup.pick(5, 2))
    return found
