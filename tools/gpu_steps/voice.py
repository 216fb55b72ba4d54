"""Speed of the vocoder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from gpu_steps import setup as networks
from gpu_steps.pipeline import vocoder_dtype
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, call_seconds, memory, steady
from gsv.constants import MEL_CHANNELS, MEL_RATE
from gsv.engine.kernels.cuda import vocoder as kernels
from gsv.engine.vocoder_windows import GraphedVocoder
from gsv.stages.base import Place
from gsv.stages.messages import WaveRequest
from gsv.stages.vocoder import Settings, VocoderStage


def run(setup: Setup, section: Section, report: Report) -> None:
    """The stage as it serves, then single batches in every precision of the device."""
    section.attempt("served", lambda: served(setup))
    tidy()
    for dtype in setup.pick(("float32", "float16", "bfloat16"), ("float32",)):
        for rows, frames in setup.pick(((1, 64), (1, 448), (8, 128)), ((1, 32),)):
            section.attempt(
                f"{dtype}_{rows}x{frames}",
                functools.partial(windows, setup, dtype, rows, frames),
                needed=setup.pick(2, 0),
            )
    tidy()


def stage(setup: Setup) -> VocoderStage:
    """The stage, warm, in the precision that streams are measured with."""
    place = Place(setup.repository / "vocoder" / "1", setup.device)
    with torch.inference_mode(False):  # parameters are to be ordinary tensors, whoever asks
        made = VocoderStage(place, Settings(dtype=vocoder_dtype(setup)))
    made.warm_up()
    return made


def requests(lengths: Sequence[int]) -> list[WaveRequest]:
    """Requests of so many frames each."""
    rng = np.random.default_rng(0)
    return [
        WaveRequest(
            mel=rng.standard_normal((MEL_CHANNELS, frames), dtype=np.float32),
            mel_counts=np.array([frames], np.int32),
        )
        for frames in lengths
    ]


def vocode(stage: VocoderStage, batch: Sequence[WaveRequest]) -> None:
    """Submit requests at once and wait for all of them."""
    answers: list[Future[Any]] = [Future() for _ in batch]
    for request, answer in zip(batch, answers, strict=True):
        stage.submit(request, _Awaited(answer))
    for answer in answers:
        answer.result()


class _Awaited:
    """The reply of one request, as a future."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def send(self, result: Any, *, final: bool) -> None:
        self._future.set_result(result)

    def finish(self) -> None:
        """Nothing follows the one response."""

    def fail(self, error: BaseException) -> None:
        self._future.set_exception(error)


def served(setup: Setup) -> dict[str, Any]:
    """Batches through the stage: kernels, graphs, transfers and joining included."""
    before = memory(setup.device)
    found: dict[str, Any] = {}
    made: list[VocoderStage] = []
    found["load_and_warm_up_s"] = call_seconds(lambda: made.append(stage(setup)), setup.device)
    found |= {"memory_before": before, "memory_after": memory(setup.device)}
    for name, lengths in setup.pick(
        {
            "first_chunk": (50,), "eight_first_chunks": (50,) * 8, "chunk": (176,),
            "eight_chunks": (176, 240, 96, 400, 176, 208, 304, 128), "ten_seconds": (1000,),
        },
        {"first_chunk": (50,), "two": (60, 40)},
    ).items():  # fmt: skip
        call = functools.partial(vocode, made[0], requests(lengths))
        times = steady(call, setup.device, setup.pick(8, 1))
        seconds = sum(lengths) / MEL_RATE
        found[name] = times | {"audio_s_per_s": seconds / (times["ms"] / MILLI)}
    made[0].close()
    return found


@torch.inference_mode()
def windows(setup: Setup, dtype: str, rows: int, frames: int) -> dict[str, Any]:
    """A batch of windows that fill it; the first call of a shape chooses its convolutions.

    By PyTorch alone, in the kernels, and as a graph.
    """
    model = networks.vocoder(setup, dtype=getattr(torch, dtype))
    mel = torch.randn(rows, MEL_CHANNELS, frames, device=setup.device)
    found = {"plain": _speed(setup, functools.partial(model, mel))}
    if kernels.accelerate(model):
        found["kernels"] = _speed(setup, functools.partial(model, mel))
    graphed = GraphedVocoder(model)
    graphed.capture(rows, frames)
    if len(graphed):
        found["graph"] = _speed(setup, functools.partial(graphed, mel))
    seconds = rows * frames / MEL_RATE
    best = min(min(way["best_ms"], way["queued_ms"]) for way in found.values())
    return {**found, "audio_s_per_s": seconds / (best / MILLI)}


def _speed(setup: Setup, call: Callable[[], object]) -> dict[str, Any]:
    return steady(call, setup.device, setup.pick(5, 2))
