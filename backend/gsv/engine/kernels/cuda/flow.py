"""Lets a flow's estimator run in the kernels of this package."""

from __future__ import annotations

import logging
from functools import partial

import torch

from gsv.engine.kernels.cuda.available import triton_serves
from gsv.models.dit import Attention, Block, DiT, PositionConvolution
from gsv.models.flow import FlowMatching

logger = logging.getLogger(__name__)

_HALF = (torch.bfloat16, torch.float16)
_PROBE_FRAMES = 64


def accelerate(flow: FlowMatching, *, early: bool = False) -> bool:
    """Lay the estimator out for a GPU, and use kernels where they serve.

    Call it when weights, precision and device are final.

    Args:
        flow: changed.
        early: kernels start before the last one's end, where a GPU can (from Hopper on).

    Returns:
        Whether it runs in the kernels: on a GPU that they serve, in bfloat16 or float16, if they
        can be compiled there. Everywhere else it stays as it is, but for the common product of
        query, key and value on a GPU.
    """
    estimator = flow.estimator
    if flow.device.type != "cuda":
        return False
    for layer in estimator.modules():
        if isinstance(layer, Attention):
            layer.merge()
    if not (triton_serves(flow.device) and can_run(estimator)):
        return False
    try:
        set_kernels(
            estimator, early=early and torch.cuda.get_device_capability(flow.device) >= (9, 0)
        )
        _probe(flow)
    except Exception:  # whatever Triton's compiler raises
        logger.warning("the flow runs without its Triton kernels", exc_info=True)
        unset_kernels(estimator)
        return False
    return True


def can_run(estimator: DiT) -> bool:
    """Whether the kernels know the estimator's type and sizes."""
    layer = next(block for block in estimator.blocks if isinstance(block, Block)).attention
    width = layer.query.out_features
    sizes = (width // layer.heads, width // estimator.position.first.groups)
    # Powers of two from 16 on, for the matrix units.
    right = all(size >= 16 and size & (size - 1) == 0 for size in sizes)
    return right and layer.query.weight.dtype in _HALF


def set_kernels(estimator: DiT, *, early: bool = False) -> None:
    """Put the kernels in the places of the plain functions."""
    from gsv.engine.kernels.cuda.flow_attention import attend, rotate_first_heads
    from gsv.engine.kernels.cuda.flow_convolution import PositionKernel
    from gsv.engine.kernels.cuda.flow_norm import add_and_norm

    own_norm = partial(add_and_norm, early=early)
    estimator.add_and_norm = own_norm
    for layer in estimator.modules():
        if isinstance(layer, Block):
            layer.add_and_norm = own_norm
        elif isinstance(layer, Attention):
            layer.kernel = partial(attend, early=early)
            layer.rotate = partial(rotate_first_heads, early=early)
        elif isinstance(layer, PositionConvolution):
            layer.kernel = PositionKernel(layer)


def unset_kernels(estimator: DiT) -> None:
    """Put the plain functions back."""
    from gsv.models import dit

    estimator.add_and_norm = dit.add_and_norm
    for layer in estimator.modules():
        if isinstance(layer, Block):
            layer.add_and_norm = dit.add_and_norm
        elif isinstance(layer, Attention):
            layer.kernel, layer.rotate = None, dit.rotate_first_heads
        elif isinstance(layer, PositionConvolution):
            layer.kernel = None


def _probe(flow: FlowMatching) -> None:
    """Compile, and see that it runs."""
    device = flow.device
    noisy = torch.zeros(1, _PROBE_FRAMES, flow.mel_channels, device=device)
    inputs = torch.zeros(1, _PROBE_FRAMES, flow.estimator.input.out_features, device=device)
    lengths = torch.full((1,), _PROBE_FRAMES, dtype=torch.int32, device=device)
    with torch.inference_mode(), torch.cuda.device(device):
        flow.estimator(noisy, inputs, flow.schedule(1), lengths)
        torch.cuda.synchronize()
