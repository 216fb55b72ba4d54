"""Speed of the vocoder."""

from __future__ import annotations

import functools
from typing import Any

import torch

from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, steady
from gsv.constants import MEL_CHANNELS, MEL_RATE
from gsv.engine.vocoding import vocode
from gsv.stages import vocoder as stage


def run(setup: Setup, section: Section, report: Report) -> None:
    """Windows alone and in batches, in every precision of the device."""
    for dtype in setup.pick(("float32", "float16", "bfloat16"), ("float32",)):
        for rows, frames in setup.pick(((1, 64), (1, 448), (8, 128), (16, 448)), ((1, 32),)):
            section.attempt(
                f"{dtype}_{rows}x{frames}",
                functools.partial(windows, setup, dtype, rows, frames),
                needed=setup.pick(2, 0),
            )
    section.attempt("ten_seconds", lambda: whole(setup))
    tidy()


@torch.inference_mode()
def windows(setup: Setup, dtype: str, rows: int, frames: int) -> dict[str, Any]:
    """A batch of windows that fill it; the first call of a shape chooses its convolutions."""
    model = networks.vocoder(setup, dtype=getattr(torch, dtype))
    mel = torch.randn(rows, MEL_CHANNELS, frames, device=setup.device)
    found = steady(lambda: model(mel), setup.device, setup.pick(5, 2))
    seconds = rows * frames / MEL_RATE
    best = min(found["best_ms"], found["queued_ms"])
    return found | {"audio_s_per_s": seconds / (best / MILLI)}


@torch.inference_mode()
def whole(setup: Setup) -> dict[str, Any]:
    """Mels of ten seconds and less together, cut into windows as the stage cuts them."""
    model = networks.vocoder(setup, dtype=setup.torch_dtype)
    lengths = setup.pick((1000, 730, 410, 999), (60, 40))
    mels = [torch.randn(MEL_CHANNELS, n, device=setup.device) for n in lengths]
    limit = stage.Settings().window
    multiple = getattr(stage, "CUDA_ROUND_TO", 64) if setup.on_gpu else 1
    batch = getattr(stage, "CUDA_BATCH_FRAMES", 4096) if setup.on_gpu else 0
    call = functools.partial(vocode, model, mels, limit, multiple, batch)
    found = steady(call, setup.device, setup.pick(5, 1))
    return found | {"audio_s_per_s": sum(lengths) / MEL_RATE / (found["best_ms"] / MILLI)}
