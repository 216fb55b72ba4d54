"""The networks: random weights of the golden cases' seeds, written as a model repository."""

from __future__ import annotations

import time

from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup


def run(setup: Setup, section: Section, report: Report) -> None:
    """Tiny ones always, those of full size unless the run is quick."""
    for size in setup.pick(("full", "tiny"), ("tiny",)):
        section.attempt(f"{size}_s", lambda size=size: _write(setup, size))


def _write(setup: Setup, size: str) -> float:
    started = time.perf_counter()
    if not networks.has_weights(setup, size):
        networks.write_weights(setup, size)
    return time.perf_counter() - started
