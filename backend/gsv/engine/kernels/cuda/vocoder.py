"""Lets a vocoder run in the kernels of this package."""

from __future__ import annotations

import logging

import torch

from gsv.engine.kernels.cuda.available import triton_serves
from gsv.models.vocoder import ActivatedConv1d, ResidualBlock, Vocoder

logger = logging.getLogger(__name__)

_HALF = (torch.bfloat16, torch.float16)
_PROBE_FRAMES = 32


def accelerate(vocoder: Vocoder) -> bool:
    """Let the residual convolutions run in the kernel; false where it can't.

    Needs a GPU that Triton's language serves, and weights in bfloat16 or float16. Call it when the
    weights are final.
    """
    device = vocoder.output.weight.device
    if device.type != "cuda" or not (triton_serves(device) and can_run(vocoder)):
        return False
    try:
        set_kernels(vocoder)
        mel = torch.zeros(1, vocoder.input.in_channels, _PROBE_FRAMES, device=device)
        with torch.inference_mode(), torch.cuda.device(device):
            vocoder(mel)
            torch.cuda.synchronize()
    except Exception:  # whatever Triton's compiler raises
        logger.warning("the vocoder runs without its Triton kernels", exc_info=True)
        for layer in _layers(vocoder):
            layer.kernel = None
        return False
    return True


def can_run(vocoder: Vocoder) -> bool:
    """Whether the kernel knows the layers' type and sizes: powers of two from 16 channels on."""
    return all(
        layer.weight.dtype in _HALF
        and layer.in_channels >= 16
        and layer.in_channels & (layer.in_channels - 1) == 0
        for layer in _layers(vocoder)
    )


def set_kernels(vocoder: Vocoder) -> None:
    """Put the kernels in the places of the plain convolutions."""
    from gsv.engine.kernels.cuda.vocoder_convolution import ConvolutionKernel

    for block in vocoder.modules():
        if isinstance(block, ResidualBlock):
            for dilated, plain in zip(block.dilated, block.plain, strict=True):
                assert isinstance(dilated, ActivatedConv1d)
                assert isinstance(plain, ActivatedConv1d)
                dilated.kernel = ConvolutionKernel(dilated, activates_output=True)
                plain.kernel = ConvolutionKernel(plain, activates_input=False)


def _layers(vocoder: Vocoder) -> list[ActivatedConv1d]:
    return [layer for layer in vocoder.modules() if isinstance(layer, ActivatedConv1d)]
