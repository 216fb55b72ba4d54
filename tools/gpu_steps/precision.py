"""bfloat16 and float16 on the device: errors against float32's arrays, and float16's headroom."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from golden import has_case, load_case
from torch import Tensor, nn

from gpu_steps import parity
from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.kernels.cuda import vocoder as kernels

# In dB against the signal; those of tests/models/test_acoustic_precision.py.
MEL_BOUNDS = {"float16": -55.0, "bfloat16": -40.0}
WAVE_BOUNDS = {
    ("full", "float16"): -60.0,
    ("tiny", "float16"): -50.0,
    ("full", "bfloat16"): -40.0,
    ("tiny", "bfloat16"): -30.0,
}


def run(setup: Setup, section: Section, report: Report) -> None:
    """Every precision below float32 that the device computes in."""
    for size in setup.pick(("tiny", "full"), ("tiny",)):
        if not networks.has_weights(setup, size) or not has_case(f"{size}_cfm"):
            section.note("skipped", size, f"no {size} cases in GSV_GOLDEN, or no weights of them")
            continue
        for dtype in ("bfloat16", "float16") if setup.on_gpu else ("bfloat16",):
            for name, measure in (("mel", mel), ("wave", wave), ("gpt", tokens)):
                section.attempt(
                    f"{size}_{dtype}_{name}", functools.partial(_run, measure, setup, size, dtype)
                )


def _run(measure: Any, setup: Setup, size: str, dtype: str) -> dict[str, Any]:
    with torch.no_grad():
        found: dict[str, Any] = measure(setup, size, dtype)
    tidy()
    return found


def decibels(made: Tensor, exact: Tensor) -> float:
    """Error against the signal."""
    made = made.detach().float().cpu()
    error = float((made - exact).square().mean() / exact.square().mean())
    return 10 * math.log10(error) if error > 0 else -math.inf


def mel(setup: Setup, size: str, dtype: str) -> dict[str, Any]:
    """Eight steps of the flow."""
    case = load_case(f"{size}_cfm")
    prompt = case.tensor("prompt")[0]
    start = prompt.shape[1]
    job = FlowRequest(
        condition=case.tensor("mu")[0].mT,
        prompt=prompt,
        steps=8,
        noise=case.tensor("noise")[0, :, start:],
    )
    flow = networks.sovits(setup, size, getattr(torch, dtype)).flow
    engine = FlowEngine(flow)
    with _Largest(flow) as largest:
        engine.start()
        try:
            made = engine.run(job)
        finally:
            engine.stop()
    exact = torch.from_numpy(case.outputs["x_n8_cfg0"])[0, :, start:]
    return _judged(made, exact, MEL_BOUNDS[dtype], largest)


def wave(setup: Setup, size: str, dtype: str) -> dict[str, Any]:
    """The vocoder."""
    case = load_case(f"{size}_vocoder")
    model = networks.vocoder(setup, size, getattr(torch, dtype))
    kernels.accelerate(model)  # as served, on a GPU
    with _Largest(model) as largest:
        made = model(case.tensor("mel").to(setup.device))
    exact = torch.from_numpy(case.outputs["wav"])
    return _judged(made, exact, WAVE_BOUNDS[size, dtype], largest)


def tokens(setup: Setup, size: str, dtype: str) -> dict[str, Any]:
    """The GPT: greedy tokens until the first that differs, and the first logits' error."""
    from gpt_models import GREEDY, case_request

    case = load_case(f"{size}_t2s_greedy")
    prompt = case.inputs["prompt_semantic"]
    requests = [case_request(case, row, **GREEDY, max_tokens=60) for row in "ab"]
    model = networks.gpt(setup, size, endless=False)
    made = parity.generated(model, requests, setup, getattr(torch, dtype))
    found: dict[str, Any] = {}
    for row, one in zip("ab", made, strict=True):
        expected = parity.expected_tokens(case, f"batch60_y_{row}", prompt)
        same = [a == b for a, b in zip(one, expected, strict=False)]
        found[f"equal_{row}"] = same.index(False) if False in same else len(same)
        found[f"tokens_{row}"] = len(expected)
    model = networks.gpt(setup, size, endless=False)
    model = model.to(setup.device).set_precision(getattr(torch, dtype))
    with _Largest(model) as largest:
        logits = parity.first_logits(model, requests[0], setup.device)
    return found | _judged(logits, torch.from_numpy(case.outputs["logits_a"]), -30.0, largest)


def _judged(made: Tensor, exact: Tensor, bound: float, largest: _Largest) -> dict[str, Any]:
    error = decibels(made, exact)
    return {
        "ok": error < bound,
        "decibels": error,
        "bound": bound,
        "not_finite": int((~made.isfinite()).sum()),
        "largest_activation": largest.value,
        "largest_in": largest.where,
    }


class _Largest:
    """The largest absolute value that any layer with weights gives; 65,504 ends float16."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._handles: list[Any] = []
        self._found: list[tuple[str, Tensor]] = []

    def __enter__(self) -> _Largest:
        for name, module in self._module.named_modules():
            if any(True for _ in module.parameters(recurse=False)):
                self._handles.append(
                    module.register_forward_hook(functools.partial(self._see, name))
                )
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _see(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        if isinstance(output, Tensor) and output.numel() and not capturing:
            self._found.append((name, output.detach().abs().amax().float()))

    @property
    def _top(self) -> tuple[str, float]:
        values = [(name, float(value)) for name, value in self._found]
        return max(values, key=lambda pair: pair[1], default=("", 0.0))

    @property
    def value(self) -> float:
        """The value."""
        return self._top[1]

    @property
    def where(self) -> str:
        """Name of its layer."""
        return self._top[0]
