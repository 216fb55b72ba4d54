"""What voices cost: one flow batch of many LoRA voices against the same batch on the base voice.

    python -m gsv.bench voices --frames 500 --dtype bfloat16

Weights are random: they change no speed. Both batches run in turns, so that a machine that gets
slower or faster meanwhile does so for both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import click
import torch

from gsv.bench.acoustic import random_weights, wait
from gsv.config import SoVITSConfig
from gsv.device import prepare
from gsv.engine.flow.engine import CUDA_ROUND_TO
from gsv.engine.flow.model_runner import FlowRunner
from gsv.engine.flow.request import FlowRequest, FlowTask
from gsv.engine.kernels.cpu import attention
from gsv.engine.kernels.cuda import flow as kernels
from gsv.models.adapters import PROJECTIONS, Adapter
from gsv.models.flow import FlowMatching
from gsv.models.layers import set_precision
from gsv.precision import torch_dtype

RANKS = (8, 16, 32, 64)
TURNS = 3
_PROMPT_SHARE = 3  # of a row's frames, one in so many is the reference's


@dataclass(frozen=True)
class Row:
    """One measurement; the best of several turns."""

    dtype: str
    frames: int
    ranks: tuple[int, ...]
    steps: int
    base_seconds: float  # of all steps of the batch
    mixed_seconds: float  # with the voices' matrices laid together, which happens once a batch

    @property
    def throughput(self) -> float:
        """Of the mixed batch, as a share of the base batch's."""
        return self.base_seconds / self.mixed_seconds


def measure(
    frames: Sequence[int],
    dtypes: Sequence[str],
    ranks: Sequence[int] = RANKS,
    steps: int = 8,
    device: str = "cpu",
    config: SoVITSConfig | None = None,
) -> list[Row]:
    """Measure a batch of the base voice and one voice of each rank, at every length."""
    device = str(prepare(device))
    config = config or SoVITSConfig()
    rows = []
    with torch.inference_mode():
        for dtype in dtypes:
            flow = random_weights(FlowMatching(config), device)
            set_precision(flow, torch_dtype(dtype, device))
            kernels.accelerate(flow)
            attention.accelerate(flow)
            runner = FlowRunner({"": flow}, 1 if device == "cpu" else CUDA_ROUND_TO)
            runner.warm_up()
            for rank in ranks:
                runner.adapters[str(rank)] = _adapter(
                    config, rank, flow, torch_dtype(dtype, device)
                )
            mixed = ["", *map(str, ranks)]
            for length in frames:
                batches = {"base": [""] * len(mixed), "mixed": mixed}
                best = dict.fromkeys(batches, float("inf"))
                for turn in range(TURNS + 1):
                    for name, voices in batches.items():
                        seconds = _run(runner, _jobs(config, length, voices, steps), device)
                        if turn:  # the first one allocates
                            best[name] = min(best[name], seconds)
                rows.append(Row(dtype, length, tuple(ranks), steps, best["base"], best["mixed"]))
    return rows


def _run(runner: FlowRunner, jobs: list[FlowRequest], device: str) -> float:
    """Seconds of all steps of one batch."""
    runs = [FlowTask(job, lambda mel: None, lambda error: None) for job in jobs]
    for run in runs:
        runner.admit(run)
    wait(device)
    started = time.perf_counter()
    while not runs[0].finished:
        runner.step(runs)
        for run in runs:
            run.step += 1
    wait(device)
    seconds = time.perf_counter() - started
    for run in runs:
        runner.release(run)
    return seconds


def _jobs(
    config: SoVITSConfig, frames: int, voices: Sequence[str], steps: int
) -> list[FlowRequest]:
    condition = torch.randn(config.condition_channels, frames)
    prompt = torch.rand(config.mel_channels, frames // _PROMPT_SHARE)
    return [FlowRequest(condition, prompt, steps, adapter=voice) for voice in voices]


def _adapter(config: SoVITSConfig, rank: int, flow: FlowMatching, dtype: torch.dtype) -> Adapter:
    shape = (config.dit_depth, len(PROJECTIONS))
    down = torch.randn(*shape, rank, config.dit_dim, device=flow.device) / config.dit_dim
    up = torch.randn(*shape, config.dit_dim, rank, device=flow.device) / rank
    frequencies = flow.estimator.inverse_frequencies.float()
    return Adapter(down.to(dtype), up.to(dtype), frequencies)


def table(rows: Sequence[Row]) -> str:
    """The measurements as text."""
    lines = [f"{'dtype':10}{'frames':>8}{'rows':>6}{'base':>10}{'mixed':>10}{'throughput':>12}"]
    for row in rows:
        lines.append(
            f"{row.dtype:10}{row.frames:8}{len(row.ranks) + 1:6}{row.base_seconds:9.3f}s"
            f"{row.mixed_seconds:9.3f}s{row.throughput:12.0%}"
        )
    return "\n".join(lines)


def _numbers(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    return [int(number) for number in value.split(",")]


@click.command()
@click.option("--frames", default="200,500", callback=_numbers, help="Lengths in mel frames.")
@click.option("--ranks", default="8,16,32,64", callback=_numbers, help="One voice of each rank.")
@click.option("--steps", default=8, show_default=True, help="Euler steps of a batch.")
@click.option("--dtype", "dtypes", default=["float32", "bfloat16"], multiple=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    frames: list[int], ranks: list[int], steps: int, dtypes: tuple[str, ...], device: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Throughput of one flow batch of the base voice and LoRA voices, of the base batch's.

    Example: python -m gsv.bench voices --frames 500 --ranks 8,16,32,64 --dtype bfloat16
    """
    rows = measure(frames, dtypes, ranks, steps, device)
    if as_json:
        click.echo(json.dumps([asdict(row) | {"throughput": row.throughput} for row in rows]))
    else:
        click.echo(table(rows))


if __name__ == "__main__":
    main()
