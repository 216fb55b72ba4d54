"""Attention: which kernel PyTorch takes, and what a new shape costs, with cuDNN and without."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from gpu_steps.profile import kernels
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, prepare_device
from gpu_steps.timing import steady

# Heads, width, rows, queries, keys, and whether there is a mask. A length per try: a plan for one
# shape must not help the next one.
_SHAPES = {
    "prefill": (16, 32, 1, 251, 251, True),
    "prefill_8": (16, 32, 8, 263, 263, True),
    "decode": (16, 32, 8, 1, 512, True),
    "flow": (16, 64, 4, 576, 576, False),
    "flow_masked": (16, 64, 4, 584, 584, True),
    "flow_large": (16, 64, 16, 1024, 1024, False),
}
_QUICK = {"decode": (16, 32, 8, 1, 512, True), "flow": (2, 16, 1, 64, 64, False)}


def run(setup: Setup, section: Section, report: Report) -> None:
    """The shapes of prefill, decode and flow."""
    try:
        for cudnn in (True, False) if setup.on_gpu else (False,):
            for name, shape in setup.pick(_SHAPES, _QUICK).items():
                section.attempt(
                    f"{name}_{'with' if cudnn else 'without'}_cudnn",
                    functools.partial(attend, setup, shape, cudnn),
                )
    finally:
        prepare_device(setup.device)


@torch.inference_mode()
def attend(
    setup: Setup, shape: tuple[int, int, int, int, int, bool], cudnn: bool
) -> dict[str, Any]:
    """First and steady time of one shape, first of one eight positions longer, and the kernels."""
    heads, width, rows, queries, keys, masked = shape
    found: dict[str, Any] = {}
    with _cudnn(setup, cudnn):
        for name, more in (("", 0), ("another_length_", 8)):
            longer = queries if queries == 1 else queries + more
            make = functools.partial(torch.randn, device=setup.device, dtype=setup.torch_dtype)
            query = make(rows, heads, longer, width)
            key, value = (
                make(rows, heads, keys + more, width),
                make(rows, heads, keys + more, width),
            )
            mask = None
            if masked:
                mask = torch.zeros(
                    rows, 1, longer, keys + more, dtype=setup.torch_dtype, device=setup.device
                )
                mask[..., -3:] = -torch.inf
            call = functools.partial(
                functional.scaled_dot_product_attention, query, key, value, attn_mask=mask
            )
            times = steady(call, setup.device, setup.pick(10, 1))
            found |= {f"{name}first_ms": times["first_ms"], f"{name}ms": times["queued_ms"]}
        found["kernels"] = [row["name"][:60] for row in kernels(call, setup.device)["rows"][:3]]
    return found


@contextlib.contextmanager
def _cudnn(setup: Setup, enabled: bool) -> Iterator[None]:
    if not setup.on_gpu:
        yield
        return
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
