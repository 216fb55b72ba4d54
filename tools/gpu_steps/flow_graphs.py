"""The estimator's graphs: the same velocities as without, and the cost of each capture."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch

from gpu_steps import estimator
from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import MILLI, call_seconds, memory
from gsv.engine.flow.engine import FlowEngine
from gsv.models.flow import FlowMatching


def run(setup: Setup, section: Section, report: Report) -> None:
    """Rows by frames, full and ragged; then whole solutions against the CPU's."""
    model = networks.sovits(setup, dtype=setup.torch_dtype)
    engine = FlowEngine(model.flow)
    section.put("memory_before", memory(setup.device))
    for ragged in (False, True):
        for rows, frames in setup.pick(
            ((1, 64), (1, 320), (1, 576), (2, 576), (4, 1024), (6, 576)), ((1, 32), (2, 32))
        ):
            section.attempt(
                f"{rows}x{frames}{'_ragged' if ragged else ''}",
                functools.partial(compare, setup, model.flow, rows, frames, ragged),
            )
    section.put("memory_after", memory(setup.device))
    del engine, model
    tidy()
    section.attempt("against_the_cpu", lambda: against_cpu(setup))
    section.attempt("company", lambda: company(setup))


@torch.inference_mode()
def compare(
    setup: Setup,
    flow: FlowMatching,
    rows: int,
    frames: int,
    ragged: bool,
) -> dict[str, Any]:
    """The capture, the first call, a later one, and the largest difference from a plain call."""
    given = estimator.inputs(setup, flow, rows, frames, ragged=ragged)
    begin = time.perf_counter()
    graphed = estimator.product(setup, flow, rows, frames)
    capture = MILLI * (time.perf_counter() - begin)
    first = MILLI * call_seconds(lambda: graphed(*given), setup.device)
    noisy, *rest = given
    changed = noisy + 1.0
    made = graphed(changed, *rest).clone()
    plain = flow.estimator(changed, *rest)
    mask = torch.ones(made.shape[:2], dtype=torch.bool, device=made.device)
    if given[3] is not None:
        mask = torch.arange(frames, device=made.device) < given[3][:, None]
    off = float((made - plain)[mask].abs().max())
    again = MILLI * call_seconds(lambda: graphed(changed, *rest), setup.device)
    size = float(plain[mask].abs().max())
    return {
        "capture_ms": capture,
        "graphs": len(graphed),
        "first_ms": first,
        "again_ms": again,
        "off": off,
        "largest": size,
    }


def against_cpu(setup: Setup) -> dict[str, Any]:
    """A short solution of the tiny network in float32 on both: no more than rounding apart."""
    made = []
    for device in ("cpu", setup.device):
        own = Setup(device, "float32", True, setup.folder)
        flow = networks.sovits(own, "tiny").flow
        engine = FlowEngine(flow)
        engine.start()
        try:
            (job,) = estimator.jobs(own, flow, 1, 128, 4)
            made.append(engine.run(job).cpu())
        finally:
            engine.stop()
    off = float((made[0] - made[1]).abs().max())
    return {"off": off, "ok": off < 1e-3}


def company(setup: Setup) -> dict[str, Any]:
    """Jobs of several lengths alone and together: the largest difference of their frames."""
    flow = networks.sovits(setup, dtype=setup.torch_dtype).flow
    engine = FlowEngine(flow, slots=16)
    engine.start()
    try:
        lengths = setup.pick((576, 320, 576, 1000, 200, 64), (40, 32))
        wanted = [estimator.jobs(setup, flow, 1, n, setup.pick(8, 2))[0] for n in lengths]
        alone = [engine.run(job).float().cpu() for job in wanted]
        joined = [mel.float().cpu() for mel in estimator.together(engine, wanted)]
        again = [mel.float().cpu() for mel in estimator.together(engine, wanted)]
    finally:
        engine.stop()
    del engine, flow
    tidy()
    return {
        "alone_or_together": max(
            float((a - b).abs().max()) for a, b in zip(alone, joined, strict=True)
        ),
        "again": max(float((a - b).abs().max()) for a, b in zip(joined, again, strict=True)),
        "largest": max(float(a.abs().max()) for a in alone),
    }
