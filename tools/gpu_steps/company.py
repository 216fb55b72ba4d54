"""Whether a sentence's tokens depend on how many others are in the batch."""

from __future__ import annotations

from typing import Any

import torch

from gpu_steps import setup as networks
from gpu_steps.decode_graphs import agreement
from gpu_steps.report import Report, Section
from gpu_steps.sentences import generate, sentence
from gpu_steps.setup import Setup, tidy
from gsv.engine.gpt.engine import Engine


def run(setup: Setup, section: Section, report: Report) -> None:
    """Sixteen sentences alone, in eights, and among thirty-two."""
    dtypes = {"float32": torch.float32, setup.dtype: setup.torch_dtype}
    for name, dtype in dtypes.items():
        section.attempt(name, lambda dtype=dtype: batches(setup, dtype))
        tidy()


def batches(setup: Setup, dtype: torch.dtype) -> dict[str, Any]:
    """Equal sentences of each company against alone; ``again`` is alone a second time."""
    config = networks.gpt_config(setup)
    tokens = setup.pick(75, 6)
    count, most = setup.pick(16, 2), setup.pick(32, 4)
    requests = [sentence(config, seed, tokens, 40 + seed, 60) for seed in range(most)]
    engine = Engine(networks.gpt(setup), setup.device, dtype, most, max_length=1024)
    engine.warm_up()
    engine.start()

    def ask(company: int) -> list[list[int]]:
        made: list[list[int]] = []
        for begin in range(0, count, company):
            group = requests[begin : begin + company]
            made += [answer.tokens for answer in generate(engine, group)]
        return made[:count]

    try:
        alone = ask(1)
        found: dict[str, Any] = {"again": agreement(ask(1)[:count], alone)}
        for company in setup.pick((2, 8, 32), (2,)):
            found[f"in_{company}"] = agreement(ask(company), alone)
    finally:
        engine.stop()
    return found
