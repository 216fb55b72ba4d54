"""Decoding speed of the semantic GPT, beside a plain decoder and the machine's own limit.

    python -m gsv.bench semantic --dtype bfloat16 --rows 1,8

The plain decoder is what one writes first and what upstream runs: float32, a cache that grows by
concatenation at every step, no masks, one operation after the other. It is measured in the same run
because machines differ, and other work on them comes and goes.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gsv.config import GPTConfig
from gsv.device import prepare
from gsv.engine.gpt.gpu_model_runner import GpuModelRunner
from gsv.engine.gpt.model_runner import ModelRunner, PendingOutput
from gsv.engine.gpt.sequence import SamplingParams, SequenceRequest
from gsv.engine.gpt.sequence import Sequence as Row
from gsv.models.gpt import Block, SemanticGPT
from gsv.precision import torch_dtype

CONTEXT = 250  # positions before the first step: 100 phonemes and 150 prompt tokens
STEPS = 40
GPU_DTYPES = ("float32", "bfloat16")
TURN = 5  # steps of one decoder before the other one's turn


def measure(
    dtype: str,
    rows: int,
    threads: int,
    steps: int = STEPS,
    config: GPTConfig | None = None,
    device: str = "cpu",
) -> dict[str, float | str]:
    """One precision and batch, random weights: milliseconds a step and what follows from them.

    Ours and the plain decoder take turns, so that other work on the machine meets both. Medians
    say what happened, minima what the machine can do when it is left alone.
    """
    device = str(prepare(device))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SemanticGPT(config or GPTConfig()).eval().requires_grad_(False)
    with torch.inference_mode():
        bandwidth = _bandwidth(device)
        plain = PlainDecoder(copy.deepcopy(model).to(device), rows)
        ours = _Ours(model, dtype, rows, device)
        plain_times: list[float] = []
        our_times: list[float] = []
        for _ in range(max(1, steps // TURN)):
            plain_times += _times(plain.step, TURN, device)
            our_times += _times(ours.step, TURN)
    moved = _bytes_per_step(model.config, dtype, rows, CONTEXT + steps // 2)
    floor, best = moved / bandwidth * 1e3, min(our_times)
    return {
        "dtype": dtype,
        "rows": rows,
        "threads": threads,
        "prefill_ms": ours.prefill_ms,
        "step_ms": statistics.median(our_times),
        "best_step_ms": best,
        "plain_step_ms": statistics.median(plain_times),
        "plain_best_step_ms": min(plain_times),
        "speedup": statistics.median(plain_times) / statistics.median(our_times),
        "best_speedup": min(plain_times) / best,
        "tokens_per_s": rows * 1e3 / statistics.median(our_times),
        "bandwidth_gb_s": bandwidth / 1e9,
        "floor_ms": floor,  # reading weights and cache once at that bandwidth
        "share_of_floor": floor / best,
    }


class _Ours:
    """The runner, fed with its own tokens for as long as one likes, as the engine does it: on a GPU
    each step is queued before the last one is read."""

    def __init__(self, model: SemanticGPT, dtype: str, rows: int, device: str) -> None:
        kind = ModelRunner if device == "cpu" else GpuModelRunner
        self._runner = kind(
            model, torch.device(device), torch_dtype(dtype, device, int8=True), rows, 2048
        )
        self._queued: deque[PendingOutput] = deque()
        self._runner.warm_up()
        self._rows = [Row(_request(n), lambda *_: None, lambda *_: None) for n in range(rows)]
        started = time.perf_counter()
        for n, row in enumerate(self._rows):
            self._take(self._runner.prefill([row], n))
        self.prefill_ms = (time.perf_counter() - started) * 1e3 / rows

    def step(self) -> None:
        """One token of each row."""
        self._queued.append(self._runner.decode(self._rows))
        while len(self._queued) > int(self._runner.runs_ahead):
            self._take(self._queued.popleft())

    def _take(self, drawing: PendingOutput) -> None:
        for row, drawn in zip(drawing.sequences, drawing.read(), strict=True):
            row.tokens.append(drawn.token)  # goes on after EOS


class PlainDecoder:
    """Greedy decoding with a cache that grows by concatenation, over random content."""

    def __init__(self, model: SemanticGPT, rows: int) -> None:
        self._model = model
        heads, width = model.config.heads, model.config.hidden_dim // model.config.heads
        shape = (rows, heads, CONTEXT, width)
        self._device = model.head.weight.device
        self._cache = [
            (torch.randn(shape, device=self._device), torch.randn(shape, device=self._device))
            for _ in model.layers
        ]
        self._seen = torch.randint(0, model.config.eos, (rows, 150), device=self._device)

    def step(self) -> None:
        """One token of each row."""
        model = self._model
        position = torch.tensor([[self._seen.shape[1]]], device=self._device)
        x = model._embed_audio(self._seen[:, -1:], position)
        for index, block in enumerate(model.layers):
            assert isinstance(block, Block)
            x = self._block(index, block, x)
        logits = F.linear(x[:, -1], model.head.weight)
        marked = logits.gather(1, self._seen)
        penalised = torch.where(marked < 0, marked * 1.35, marked / 1.35)
        logits = logits.scatter(1, self._seen, penalised)
        kth = logits.topk(15).values[:, -1:]
        shares = logits.masked_fill(logits < kth, -torch.inf).softmax(-1)
        token = (shares / torch.empty_like(shares).exponential_()).argmax(-1)
        self._seen = torch.cat([self._seen, token[:, None]], dim=1)

    def _block(self, index: int, block: Block, x: Tensor) -> Tensor:
        rows, heads = x.shape[0], block.attention.heads
        weight, bias = block.attention.qkv.weight, block.attention.qkv.bias
        q, k, v = (
            part.view(rows, 1, heads, -1).transpose(1, 2)
            for part in F.linear(x, weight, bias).chunk(3, dim=-1)
        )
        keys = torch.cat([self._cache[index][0], k], dim=2)
        values = torch.cat([self._cache[index][1], v], dim=2)
        self._cache[index] = (keys, values)
        y = F.scaled_dot_product_attention(q, keys, values).transpose(1, 2).reshape(rows, 1, -1)
        x = block.attention_norm(x + block.attention.output(y))
        normed: Tensor = block.feed_forward_norm(x + block.contract(F.relu(block.expand(x))))
        return normed


def _request(seed: int) -> SequenceRequest:
    rng = np.random.default_rng(seed)
    return SequenceRequest(
        phonemes=rng.integers(0, 732, 100, dtype=np.int32),
        bert=rng.standard_normal((100, 1024), dtype=np.float32),
        prompt_tokens=rng.integers(0, 1024, 150, dtype=np.int32),
        params=SamplingParams(seed=seed),
    )


def _bytes_per_step(config: GPTConfig, dtype: str, rows: int, length: int) -> float:
    weight = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[dtype]
    number = 4 if dtype == "float32" else 2
    width = config.hidden_dim
    weights = weight * (12 * config.layers * width**2 + config.vocabulary * width)
    return weights + number * rows * length * 2 * config.layers * width


def _bandwidth(device: str) -> float:
    """Bytes a second of reading numbers that fit no cache; best of a few runs."""
    numbers = torch.ones((64 if device == "cpu" else 512) * 2**20, device=device)
    return numbers.nbytes / min(_times(lambda: numbers.sum(), 6, device)) * 1e3


def _times(action: Callable[[], object], count: int, device: str = "cpu") -> list[float]:
    """Milliseconds of each call but the first, until ``device`` has done it."""
    times = []
    for _ in range(count + 1):
        started = time.perf_counter()
        action()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - started) * 1e3)
    return times[1:]


def numbers(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    """A click callback: whole numbers with commas between them."""
    try:
        return [int(number) for number in value.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{value!r}: whole numbers with commas between them") from error


def table(results: Sequence[Mapping[str, float | str]]) -> str:
    """The measurements as text."""
    lines = [
        f"{'dtype':10}{'rows':>5}{'ms a step':>11}{'plain':>8}{'ratio':>8}{'tokens/s':>10}"
        f"{'of bandwidth':>14}{'GB/s':>8}"
    ]
    for found in results:
        lines.append(
            f"{found['dtype']:10}{found['rows']:5}{found['best_step_ms']:11.2f}"
            f"{found['plain_best_step_ms']:8.1f}{found['best_speedup']:7.1f}x"
            f"{found['tokens_per_s']:10.0f}{found['share_of_floor']:14.0%}"
            f"{found['bandwidth_gb_s']:8.1f}"
        )
    return "\n".join(lines)


@click.command()
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    help="Precision, any number of times.  [default: float32, bfloat16 and, on a CPU, int8]",
)
@click.option("--rows", default="1,8,16", callback=numbers, help="Sequences in the batch.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    dtypes: tuple[str, ...], rows: list[int], threads: int, steps: int, device: str, as_json: bool
) -> None:
    """Measure decode steps of the semantic GPT with random weights of full size.

    The last column is the bandwidth that was measured just before each precision's steps; reading
    weights and cache once at that rate is the limit.
    """
    chosen = dtypes or (("float32", "bfloat16", "int8") if device == "cpu" else GPU_DTYPES)
    results = [
        measure(dtype, count, threads, steps, device=device) for dtype in chosen for count in rows
    ]
    click.echo(json.dumps(results) if as_json else table(results))
