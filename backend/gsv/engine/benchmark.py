"""Decoding speed of the semantic GPT, beside a plain decoder and the machine's own limit.

    python -m gsv.engine.benchmark --dtype bfloat16 --rows 1 8

The plain decoder is what one writes first and what upstream runs: float32, a cache that grows by
concatenation at every step, no masks, one operation after the other. It is measured in the same run
because machines differ, and other work on them comes and goes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


def measure(
    dtype: str, rows: int, threads: int, steps: int = STEPS, plain: bool = True
) -> dict[str, float | str]:
    """Medians in milliseconds, and ratios, of one precision and batch; full-size random weights."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = SemanticGPT(GPTConfig()).eval().requires_grad_(False)
    result: dict[str, float | str] = {"dtype": dtype, "rows": rows, "threads": threads}
    with torch.inference_mode():
        result["bandwidth_gb_s"] = _bandwidth()
        if plain:
            decoder = PlainDecoder(model, rows)
            result["plain_step_ms"] = _median_ms(decoder.step, steps)
        runner = Runner(model, torch.device("cpu"), torch_dtype(dtype, int8=True), rows, 1024)
        sequences = [Row(_request(n, steps), lambda *_: None, lambda *_: None) for n in range(rows)]
        started = time.perf_counter()
        drawn = [runner.prefill([row], n)[0] for n, row in enumerate(sequences)]
        result["prefill_ms"] = (time.perf_counter() - started) * 1e3 / rows

        def step() -> None:
            nonlocal drawn
            for sequence, one in zip(sequences, drawn, strict=True):
                sequence.tokens.append(one.token)  # goes on after EOS
            drawn = runner.decode(sequences)

        result["step_ms"] = _median_ms(step, steps)
    weights = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[dtype]
    cached = 4 if dtype == "float32" else 2
    config = model.config
    step_bytes = sum(p.numel() for p in model.layers.parameters()) * weights
    step_bytes += rows * (CONTEXT + steps // 2) * 2 * config.layers * config.hidden_dim * cached
    result["floor_ms"] = step_bytes / float(result["bandwidth_gb_s"]) / 1e6
    result["share_of_floor"] = float(result["floor_ms"]) / float(result["step_ms"])
    result["tokens_per_s"] = rows * 1e3 / float(result["step_ms"])
    if plain:
        result["speedup"] = float(result["plain_step_ms"]) / float(result["step_ms"])
    return result


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


def _request(seed: int, steps: int) -> SequenceRequest:
    rng = np.random.default_rng(seed)
    return SequenceRequest(
        phonemes=rng.integers(0, 732, 100, dtype=np.int32),
        bert=rng.standard_normal((100, 1024), dtype=np.float32),
        prompt_tokens=rng.integers(0, 1024, 150, dtype=np.int32),
        params=SamplingParams(seed=seed, max_tokens=steps),
    )


def _bandwidth() -> float:
    """Gigabytes a second of reading float32 numbers that fit no cache; best of a few runs."""
    numbers = torch.ones(64 * 2**20)
    return numbers.nbytes / min(_times(lambda: numbers.sum(), 6)) / 1e9


def _median_ms(action: Callable[[], object], count: int) -> float:
    return statistics.median(_times(action, count)) * 1e3


def _times(action: Callable[[], object], count: int) -> list[float]:
    times = []
    for _ in range(count + 3):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return times[3:]  # the first ones warm up


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON object for each precision and batch, and append them to a file on demand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(arguments)
    results = []
    for dtype in options.dtype:
        for rows in options.rows:
            results.append(measure(dtype, rows, options.threads, options.steps))
            sys.stdout.write(json.dumps(results[-1]) + "\n")
            sys.stdout.flush()
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
