"""How long first audio waits beside long answers, and what the long answers pay for it.

    python -m gsv.bench turns --size small --owners 1,4

Each engine is measured alone and beside running requests of many pieces (sentences, or chunks and
mels of sentences), once as it serves and once with all work in line by arrival, in one run. Weights
are random: they change no speed.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait

import click
import numpy as np
import torch

from gsv.bench.acoustic import random_weights
from gsv.bench.semantic import numbers
from gsv.config import GPTConfig, SoVITSConfig, VocoderConfig
from gsv.device import prepare
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.sequence import FIRST_AUDIO_TOKENS, SamplingParams, SequenceRequest
from gsv.engine.kernels.cpu import convolution
from gsv.engine.kernels.cuda import vocoder as vocoder_kernels
from gsv.engine.turns import Turn
from gsv.engine.vocoder_engine import VocoderEngine, VocoderRequest
from gsv.engine.vocoder_windows import GraphedVocoder
from gsv.models.flow import FlowMatching
from gsv.models.gpt import SemanticGPT
from gsv.models.layers import set_precision
from gsv.models.vocoder import Vocoder
from gsv.precision import torch_dtype
from gsv.stages.vocoder import window_limits

LONG_TOKENS, LONG_FRAMES = 100, 400  # of a long answer's piece: four seconds
FIRST_FRAMES = 66  # of a stream's first chunk, with the look-ahead
PROMPT_FRAMES = 300  # heard by the flow before
STEPS = 8
SIZES = {
    "small": (
        GPTConfig(hidden_dim=192, heads=6, layers=4),
        SoVITSConfig(condition_channels=192, dit_dim=256, dit_depth=3, dit_heads=4),
        VocoderConfig(initial_channels=128),
    ),
    "full": (GPTConfig(), SoVITSConfig(), VocoderConfig()),
}

Submit = Callable[[Turn, bool], "Future[None]"]  # a piece of a long answer, or a first chunk


@dataclasses.dataclass(frozen=True)
class Subject:
    """An engine to measure."""

    name: str
    submit: Submit
    stop: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Found:
    """One engine beside so many long answers."""

    engine: str
    owners: int
    idle_ms: float  # median time to first audio when nothing else runs
    by_arrival_ms: float  # 95th percentile beside long answers, all work in line by arrival
    in_turns_ms: float  # the same as it serves
    typical_ms: float  # its median
    kept: float  # long answers' throughput beside short streams, against alone

    @property
    def before(self) -> float:
        """First audio against idle, by arrival."""
        return self.by_arrival_ms / self.idle_ms

    @property
    def after(self) -> float:
        """First audio against idle, in turns."""
        return self.in_turns_ms / self.idle_ms


def gpt(config: GPTConfig, dtype: str, device: str) -> Subject:
    """The semantic GPT: time to the tokens of a stream's first chunk."""
    model = random_weights(SemanticGPT(config), "cpu")
    engine = Engine(
        model, device, torch_dtype(dtype, device), slots=32, waiting_limit=4096, max_length=1024
    )
    engine.warm_up()
    engine.start()
    rng = np.random.default_rng(0)

    def submit(turn: Turn, long: bool) -> Future[None]:
        future: Future[None] = Future()
        tokens = LONG_TOKENS if long else FIRST_AUDIO_TOKENS
        request = SequenceRequest(
            phonemes=rng.integers(0, config.phonemes, 100, dtype=np.int32),
            bert=rng.standard_normal((100, config.bert_dim), dtype=np.float32),
            prompt_tokens=rng.integers(0, config.eos, 150, dtype=np.int32),
            params=SamplingParams(seed=int(rng.integers(1 << 30)), max_tokens=tokens),
            turn=turn,
        )
        engine.submit(
            request, lambda _, last: future.set_result(None) if last else None, future.set_exception
        )
        return future

    return Subject("semantic GPT", submit, engine.stop)


def flow(config: SoVITSConfig, dtype: str, device: str) -> Subject:
    """The flow: time to the frames of a stream's first chunk."""
    model = random_weights(FlowMatching(config), device)
    set_precision(model, torch_dtype(dtype, device))
    engine = FlowEngine(model, waiting_limit=4096)
    engine.start()
    engine.warm_up()

    def submit(turn: Turn, long: bool) -> Future[None]:
        future: Future[None] = Future()
        frames = PROMPT_FRAMES + (LONG_FRAMES if long else FIRST_FRAMES)
        request = FlowRequest(
            torch.zeros(config.condition_channels, frames),
            torch.zeros(config.mel_channels, PROMPT_FRAMES),
            STEPS,
            turn=turn,
        )
        engine.submit(request, lambda _: future.set_result(None), future.set_exception)
        return future

    return Subject("flow", submit, engine.stop)


def vocoder(config: VocoderConfig, dtype: str, device: str) -> Subject:
    """The vocoder: time to the wave of a stream's first chunk."""
    model = random_weights(Vocoder(config), device)
    model.set_precision(torch_dtype(dtype, device, half=torch.float16))
    vocoder_kernels.accelerate(model)
    convolution.accelerate(model)
    engine = VocoderEngine(GraphedVocoder(model), window_limits(device), waiting_limit=4096)
    engine.start()

    def submit(turn: Turn, long: bool) -> Future[None]:
        future: Future[None] = Future()
        mel = np.zeros((config.mel_channels, LONG_FRAMES if long else FIRST_FRAMES), np.float32)
        request = VocoderRequest([mel], turn)
        engine.submit(request, lambda _: future.set_result(None), future.set_exception)
        return future

    return Subject("vocoder", submit, engine.stop)


def measure(subject: Subject, owners: list[int], pieces: int, repeats: int = 7) -> list[Found]:
    """Time to first audio, idle and beside so many requests of ``pieces`` each."""
    listener = Turn("short", first_audio=True)
    nobody = Turn("all")
    seconds_of(subject, listener)  # the first one doesn't count
    idle = float(np.median([seconds_of(subject, listener) for _ in range(repeats)]))
    found = []
    for count in owners:
        alone = crowd(subject, count, pieces)[0]
        gap = 8 * idle  # so that short streams leave the device alone most of the time
        _, by_arrival = crowd(subject, count, pieces, probe=nobody, owner="all", gap=gap)
        taken, in_turns = crowd(subject, count, pieces, probe=listener, gap=gap)
        # What the short streams' own work took is not the long answers' to have.
        left = taken - idle * len(in_turns)
        found.append(
            Found(
                subject.name,
                count,
                idle * 1e3,
                float(np.percentile(by_arrival, 95)) * 1e3,
                float(np.percentile(in_turns, 95)) * 1e3,
                float(np.median(in_turns)) * 1e3,
                alone / left,
            )
        )
    return found


def seconds_of(subject: Subject, turn: Turn) -> float:
    """Time to first audio of one stream."""
    begin = time.monotonic()
    subject.submit(turn, False).result()
    return time.monotonic() - begin


def crowd(
    subject: Subject,
    owners: int,
    pieces: int,
    probe: Turn | None = None,
    owner: str = "",
    gap: float = 0.0,
) -> tuple[float, list[float]]:
    """Seconds that long answers take, and those to first audio of short streams beside them.

    Args:
        subject: the engine.
        owners: long answers that start at once.
        pieces: of each.
        probe: turn of the short streams, which come one after another; None for no such.
        owner: of the long answers; by default each has its own.
        gap: seconds from the end of a short stream to the next.
    """
    begin = time.monotonic()
    line = [
        subject.submit(Turn(owner or f"long {number}"), True)
        for _ in range(pieces)
        for number in range(owners)
    ]
    ended = threading.Event()
    line[-1].add_done_callback(lambda _: ended.set())
    waited: list[float] = []
    while probe is not None and not ended.wait(gap):
        waited.append(seconds_of(subject, probe))
    wait(line)
    return time.monotonic() - begin, waited or [0.0]


def table(found: list[Found]) -> str:
    """The measurements as text."""
    lines = [
        f"{'engine':14}{'beside':>8}{'idle ms':>10}{'by arrival':>12}{'in turns':>10}{'median':>9}"
        f"{'before':>9}{'after':>8}{'kept':>8}"
    ]
    for one in found:
        lines.append(
            f"{one.engine:14}{one.owners:8}{one.idle_ms:10.1f}{one.by_arrival_ms:12.1f}"
            f"{one.in_turns_ms:10.1f}{one.typical_ms:9.1f}{one.before:8.1f}x{one.after:7.1f}x{one.kept:8.0%}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--size", type=click.Choice(sorted(SIZES)), default="small", show_default=True)
@click.option("--owners", default="1,4", callback=numbers, help="Long answers beside.")
@click.option("--pieces", default=60, show_default=True, help="Sentences of a long answer.")
@click.option("--engine", "engines", multiple=True, help="gpt, flow or vocoder.  [default: all]")
@click.option("--dtype", default="default", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    size: str,
    owners: list[int],
    pieces: int,
    engines: tuple[str, ...],
    dtype: str,
    device: str,
    as_json: bool,
) -> None:
    """Measure first audio beside long answers, by arrival and in turns."""
    device = str(prepare(device))
    gpt_config, sovits_config, vocoder_config = SIZES[size]
    made: dict[str, Callable[[], Subject]] = {
        "gpt": lambda: gpt(gpt_config, dtype, device),
        "flow": lambda: flow(sovits_config, dtype, device),
        "vocoder": lambda: vocoder(vocoder_config, dtype, device),
    }
    found: list[Found] = []
    for name in engines or tuple(made):
        if name not in made:
            raise click.BadParameter(f"--engine {name}: must be one of {sorted(made)}")
        subject = made[name]()
        try:
            found += measure(subject, owners, pieces)
        finally:
            subject.stop()
    if as_json:
        ratios = [dataclasses.asdict(f) | {"before": f.before, "after": f.after} for f in found]
        click.echo(json.dumps(ratios))
    else:
        click.echo(table(found))
