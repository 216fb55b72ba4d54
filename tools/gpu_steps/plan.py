"""The steps in their order, and how long each may take."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup

Run = Callable[[Setup, Section, Report], None]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: on the command line and in the report.
        module: of this package, with the step's ``run``.
        limit: seconds; measurements that don't fit any more are skipped.
        title: for people.
    """

    name: str
    module: str
    limit: float
    title: str

    @property
    def run(self) -> Run:
        """Its function; imported late, for each imports half the product."""
        found: Run = importlib.import_module(f"gpu_steps.{self.module}").run
        return found


# What the goals need comes early: a run that is cut short still has it.
STEPS = [
    Step("machine", "machine", 30, "versions, matrix products, launches"),
    Step("weights", "weights", 90, "networks of full size from seeds"),
    Step("parity", "parity", 90, "upstream's arrays in float32"),
    Step("decode", "decode", 90, "GPT: rows and contexts"),
    Step("estimator", "estimator", 90, "DiT: rows and frames"),
    Step("streams", "streams", 150, "first audio and throughput in one process"),
    Step("profile", "profile", 40, "kernels of a step"),
    Step("decode_graphs", "decode_graphs", 60, "GPT: graphs on and off, unloading"),
    Step("flow_graphs", "flow_graphs", 40, "DiT: graphs on and off"),
    Step("precision", "precision", 40, "bfloat16 and float16"),
    Step("encoders", "encoders", 40, "BERT and HuBERT"),
    Step("company", "company", 50, "tokens alone and in batches"),
    Step("vocoder", "voice", 40, "vocoder: windows and precisions"),
    Step("attention", "attention", 30, "attention kernels, cuDNN on and off"),
    Step("processes", "processes", 70, "two processes, without and with MPS"),
    Step("gpu_tests", "gpu_tests", 90, "tests marked gpu"),
    Step("residue", "residue", 10, "memory at the end"),
]
