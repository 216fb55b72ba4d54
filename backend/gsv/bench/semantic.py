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
from collections.abc import Callable, Mapping, Sequence

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gsv.config import GPTConfig
from gsv.engine.runner import Runner
from gsv.engine.sequence import SamplingParams, SequenceRequest
from gsv.engine.sequence import Sequence as Row
from gsv.models.gpt import Block, SemanticGPT
from gsv.precision import torch_dtype

CONTEXT = 250  # positions before the first step: 100 phonemes and 150 prompt tokens
STEPS = 40
TURN = 5  # steps of one decoder before the other one's turn


def measure(
    dtype: str, rows: int, threads: int, steps: int = STEPS, config: GPTConfig | None = None
) -> dict[str, float | str]:
    """One precision and batch, random weights: milliseconds a step and what follows from them.

    Ours and the plain decoder take turns, so that other work on the machine meets both. Medians
    say what happened, minima what the machine can do when it is left alone.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SemanticGPT(config or GPTConfig()).eval().requires_grad_(False)
    with torch.inference_mode():
        bandwidth = _bandwidth()
        plain = PlainDecoder(copy.deepcopy(model), rows)
        ours = _Ours(model, dtype, rows, steps)
        plain_times: list[float] = []
        our_times: list[float] = []
        for _ in range(max(1, steps // TURN)):
            plain_times += _times(plain.step, TURN)
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
    """The runner, fed with its own tokens for as long as one likes."""

    def __init__(self, model: SemanticGPT, dtype: str, rows: int, steps: int) -> None:
        self._runner = Runner(
            model, torch.device("cpu"), torch_dtype(dtype, "cpu", int8=True), rows, 2048
        )
        self._runner.warm_up()
        self._rows = [Row(_request(n), lambda *_: None, lambda *_: None) for n in range(rows)]
        started = time.perf_counter()
        self._drawn = [self._runner.prefill([row], n).read()[0] for n, row in enumerate(self._rows)]
        self.prefill_ms = (time.perf_counter() - started) * 1e3 / rows

    def step(self) -> None:
        for row, drawn in zip(self._rows, self._drawn, strict=True):
            row.tokens.append(drawn.token)  # goes on after EOS
        self._drawn = self._runner.decode(self._rows).read()


class PlainDecoder:
    """Greedy decoding with a cache that grows by concatenation, over random content."""

    def __init__(self, model: SemanticGPT, rows: int) -> None:
        self._model = model
        heads, width = model.config.heads, model.config.hidden_dim // model.config.heads
        shape = (rows, heads, CONTEXT, width)
        self._cache = [(torch.randn(shape), torch.randn(shape)) for _ in model.layers]
        self._seen = torch.randint(0, model.config.eos, (rows, 150))

    def step(self) -> None:
        """One token of each row."""
        model = self._model
        x = model._embed_audio(self._seen[:, -1:], torch.tensor([[self._seen.shape[1]]]))
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


def _bandwidth() -> float:
    """Bytes a second of reading numbers that fit no cache; best of a few runs."""
    numbers = torch.ones(64 * 2**20)
    return numbers.nbytes / min(_times(lambda: numbers.sum(), 6)) * 1e3


def _times(action: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each call but the first."""
    times = []
    for _ in range(count + 1):
        started = time.perf_counter()
        action()
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
        f"{'of bandwidth':>14}"
    ]
    for found in results:
        lines.append(
            f"{found['dtype']:10}{found['rows']:5}{found['best_step_ms']:11.2f}"
            f"{found['plain_best_step_ms']:8.1f}{found['best_speedup']:7.1f}x"
            f"{found['tokens_per_s']:10.0f}{found['share_of_floor']:14.0%}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--dtype", "dtypes", default=["float32", "bfloat16", "int8"], multiple=True)
@click.option("--rows", default="1,8,16", callback=numbers, help="Sequences in the batch.")
@click.option("--threads", default=torch.get_num_threads(), show_default=True)
@click.option("--steps", default=STEPS, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(dtypes: tuple[str, ...], rows: list[int], threads: int, steps: int, as_json: bool) -> None:
    """Measure decode steps of the semantic GPT with random weights of full size."""
    results = [measure(dtype, count, threads, steps) for dtype in dtypes for count in rows]
    click.echo(json.dumps(results) if as_json else table(results))
