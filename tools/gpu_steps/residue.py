"""Memory at the end: what the process holds after everything was let go."""

from __future__ import annotations

from typing import Any

import torch

from gpu_steps.machine import smi
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import memory


def run(setup: Setup, section: Section, report: Report) -> None:
    """The allocator's figures, and nvidia-smi's."""
    tidy()
    section.attempt("memory", lambda: memory(setup.device))
    if not setup.on_gpu:
        return
    section.attempt("statistics", lambda: statistics(setup.device))
    section.attempt("smi", lambda: smi("memory.used,memory.total,clocks.sm,temperature.gpu"))


def statistics(device: str) -> dict[str, Any]:
    """Of PyTorch's allocator."""
    found = torch.cuda.memory_stats(device)
    names = (
        "allocated_bytes.all.peak", "reserved_bytes.all.peak", "num_alloc_retries", "num_ooms",
    )  # fmt: skip
    return {name: found.get(name) for name in names}
