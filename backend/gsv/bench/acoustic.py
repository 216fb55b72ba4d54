"""Speed of the flow's estimator and of the vocoder, against plain float32 and the machine's limit.

    python -m gsv.bench acoustic --frames 1000,500,250 --dtype float32 --dtype bfloat16
    python -m gsv.bench acoustic --frames 1024,576 --batch 1,16 --dtype bfloat16 --device cuda

Weights are random: they change no speed. On a GPU kernels and CUDA graphs are used as served.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TypeVar

import click
import torch
from torch import nn

from gsv.bench import plain
from gsv.bench.semantic import numbers
from gsv.config import SoVITSConfig, VocoderConfig
from gsv.constants import MEL_RATE
from gsv.device import prepare
from gsv.engine.flow.graphed_estimator import GraphedEstimator, shape_for
from gsv.engine.kernels.cpu import attention, convolution
from gsv.engine.kernels.cuda import flow as flow_kernels
from gsv.engine.kernels.cuda import vocoder as vocoder_kernels
from gsv.engine.vocoder_windows import GraphedVocoder, batch_shapes, vocode
from gsv.models.flow import FlowMatching
from gsv.models.layers import set_precision
from gsv.models.vocoder import Vocoder
from gsv.precision import torch_dtype

Module = TypeVar("Module", bound=nn.Module)

REPEATS = 3
# Rows, inputs, outputs of the matrix product that is the limit; a GPU needs a large one to be busy.
_CPU_PROBE, _GPU_PROBE = (1000, 1024, 4096), (8192, 8192, 8192)
_QUEUED = 4  # calls that a GPU is given at once, as it has steps in line when it serves
_WAYS = (("dit step", False), ("dit step, early starts", True))
_VOCODER_WINDOW = 400
_GPU_WINDOWS = (64, 1024)  # multiple, and frames of a batch, as gsv.stages.vocoder has them


@dataclass(frozen=True)
class Row:
    """One measurement; the best of several, since others may use the machine."""

    what: str
    dtype: str
    frames: int
    batch: int
    seconds: float  # of a step, or per second of audio
    plain_seconds: float  # the same in plain float32, in the same run
    gemm_share: float | None  # of the rate of a large matrix product in this precision

    @property
    def speedup(self) -> float:
        """Against plain float32."""
        return self.plain_seconds / self.seconds


def measure(
    frames: Sequence[int],
    batches: Sequence[int],
    dtypes: Sequence[str],
    device: str = "cpu",
    sovits: SoVITSConfig | None = None,
    vocoder: VocoderConfig | None = None,
) -> list[Row]:
    """Measure the estimator at every length and batch, and the vocoder at every length."""
    device = str(prepare(device))
    sovits, vocoder = sovits or SoVITSConfig(), vocoder or VocoderConfig()
    with torch.inference_mode():
        rows = []
        for dtype in dtypes:
            rows += _measure_dit(sovits, frames, batches, dtype, device)
            rows += _measure_vocoder(vocoder, frames, dtype, device)
    return rows


def gemm_rate(dtype: torch.dtype, device: str = "cpu") -> float:
    """Floating-point operations per second of one large matrix product."""
    rows, inputs, outputs = _CPU_PROBE if device == "cpu" else _GPU_PROBE
    values = torch.randn(rows, inputs, device=device).to(dtype)
    weight = torch.randn(outputs, inputs, device=device).to(dtype)
    seconds = best(lambda: nn.functional.linear(values, weight), device, repeats=10)
    return 2 * rows * inputs * outputs / seconds


def dit_operations(config: SoVITSConfig, frames: int) -> int:
    """Floating-point operations of one estimate of one row, matrix products and attention."""
    width, hidden = config.dit_dim, config.dit_ff_mult * config.dit_dim
    block = frames * (4 * width * width + 2 * width * hidden) + 2 * frames * frames * width
    position = 2 * frames * width * (width // 16) * 31
    ends = frames * width * 2 * config.mel_channels
    return 2 * (config.dit_depth * block + position + ends)


def best(function: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Seconds of the fastest of several calls, after one that doesn't count."""
    function()
    seconds, calls = [], 1 if device == "cpu" else _QUEUED
    for _ in range(repeats):
        wait(device)
        start = time.perf_counter()
        for _ in range(calls):
            function()
        wait(device)
        seconds.append((time.perf_counter() - start) / calls)
    return min(seconds)


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def _measure_dit(
    config: SoVITSConfig, frames: Sequence[int], batches: Sequence[int], dtype: str, device: str
) -> list[Row]:
    flow = random_weights(FlowMatching(config), device)
    shapes = [(batch, length) for batch in batches for length in frames]
    inputs = {shape: _DitInputs(config, *shape, device) for shape in shapes}
    plain_seconds = {}
    for shape, given in inputs.items():
        embedded = flow.estimator.embed_condition(given.condition)
        arguments = (flow.estimator, given.noisy, given.prompt, embedded, given.time, given.size)
        plain_seconds[shape] = best(partial(plain.dit_step, *arguments), device)
        given.embedded = flow.estimator.embed_inputs(given.prompt, embedded)
    set_precision(flow, torch_dtype(dtype, device))
    limit = gemm_rate(torch_dtype(dtype, device), device)
    rows = []
    for what, early in _WAYS if device != "cpu" else _WAYS[:1]:
        flow_kernels.accelerate(flow, early=early)
        attention.accelerate(flow)
        seconds = _step_seconds(flow, inputs, device)
        for (batch, length), taken in seconds.items():
            share = batch * dit_operations(config, length) / taken / limit
            own_plain = plain_seconds[batch, length]
            rows.append(Row(what, dtype, length, batch, taken, own_plain, share))
    return rows


def _step_seconds(
    flow: FlowMatching, inputs: dict[tuple[int, int], _DitInputs], device: str
) -> dict[tuple[int, int], float]:
    graphed = GraphedEstimator(flow.estimator)
    buckets = {bucket for shape in inputs if (bucket := shape_for(*shape)) is not None}
    for bucket in sorted(buckets, key=math.prod, reverse=True):
        graphed.capture(*bucket)
    modulation = flow.schedule(8)[:1]
    seconds = {}
    for shape, given in inputs.items():
        step = _as_served(graphed, given, modulation.expand(shape[0], -1).contiguous())
        seconds[shape] = best(partial(graphed, *step), device)
    return seconds


def _as_served(
    graphed: GraphedEstimator, given: _DitInputs, modulation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """What the flow engine calls the estimator with: on a GPU in its graph's own memory."""
    rows, frames, _ = given.noisy.shape
    device = given.noisy.device
    if device.type == "cpu":
        return given.noisy, given.embedded, modulation, None
    lengths = torch.full((rows,), frames, dtype=torch.int32, device=device)
    graphed(given.noisy, given.embedded, modulation, lengths)
    bucket = graphed.bucket(rows, frames)
    if bucket is None:
        return given.noisy, given.embedded, modulation, lengths
    own = graphed.inputs_of(bucket)
    return own.noisy, own.inputs, own.modulation, own.lengths


class _DitInputs:
    """Random tensors for one shape."""

    def __init__(self, config: SoVITSConfig, batch: int, frames: int, device: str) -> None:
        self.noisy = torch.randn(batch, frames, config.mel_channels, device=device)
        self.prompt = torch.randn(batch, frames, config.mel_channels, device=device)
        self.condition = torch.randn(batch, frames, config.condition_channels, device=device)
        self.time = torch.full((batch,), 0.5, device=device)
        self.size = torch.full((batch,), 0.125, device=device)
        self.embedded = self.noisy


def _measure_vocoder(
    config: VocoderConfig, frames: Sequence[int], dtype: str, device: str
) -> list[Row]:
    vocoder = random_weights(Vocoder(config), device)
    mels = {length: torch.randn(config.mel_channels, length, device=device) for length in frames}
    plain_seconds = {
        length: best(partial(plain.vocode, vocoder, mel[None]), device)
        for length, mel in mels.items()
    }
    vocoder.set_precision(torch_dtype(dtype, device))
    vocoder_kernels.accelerate(vocoder)
    convolution.accelerate(vocoder)
    limits = (_VOCODER_WINDOW, 1, 0) if device == "cpu" else (_VOCODER_WINDOW, *_GPU_WINDOWS)
    graphed = GraphedVocoder(vocoder)
    if device != "cpu":
        graphed.capture_all(batch_shapes(*limits))
    rows = []
    for length, mel in mels.items():
        seconds = best(partial(vocode, vocoder, [mel], *limits, graphed), device)
        audio = length / MEL_RATE
        rows.append(
            Row("vocoder", dtype, length, 1, seconds / audio, plain_seconds[length] / audio, None)
        )
    return rows


def random_weights(module: Module, device: str) -> Module:
    """The module on its device with random weights that keep the variance."""
    for parameter in module.parameters():
        fan_in = max(1, parameter[0].numel())
        nn.init.normal_(parameter, std=fan_in**-0.5)
    stored = module.state_dict()
    for name, buffer in module.named_buffers():
        if name in stored and buffer.is_floating_point():  # a file would fill it
            nn.init.uniform_(buffer)
    return module.to(device).eval().requires_grad_(False)


def table(rows: Sequence[Row]) -> str:
    """The measurements as text."""
    lines = [
        f"{'':24}{'dtype':10}{'frames':>8}{'batch':>6}{'seconds':>10}{'plain':>9}{'ratio':>8}"
        f"{'of GEMM':>9}"
    ]
    for row in rows:
        share = "" if row.gemm_share is None else f"{row.gemm_share:9.0%}"
        lines.append(
            f"{row.what:24}{row.dtype:10}{row.frames:8}{row.batch:6}{row.seconds:10.4f}"
            f"{row.plain_seconds:9.4f}{row.speedup:7.1f}x{share}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--frames", default="1000,500,250", callback=numbers, help="Lengths in mel frames.")
@click.option("--batch", "batches", default="1", callback=numbers, help="Rows of a batch.")
@click.option("--dtype", "dtypes", default=["float32", "bfloat16"], multiple=True)
@click.option("--device", default="cpu")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    frames: list[int], batches: list[int], dtypes: tuple[str, ...], device: str, as_json: bool
) -> None:
    """Measure the flow's estimator and the vocoder with random weights of full size.

    Example: python -m gsv.bench acoustic --frames 1000,500 --dtype bfloat16
    """
    rows = measure(frames, batches, dtypes, device)
    if as_json:
        click.echo(json.dumps([asdict(row) | {"speedup": row.speedup} for row in rows]))
    else:
        click.echo(table(rows))
