"""Whether kernels in Triton's language serve a device."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

VARIABLE = "GSV_KERNELS"
PLAIN = "plain"  # value of the variable with which PyTorch's own kernels do everything
_LEAST_CAPABILITY = (8, 0)  # bfloat16 on the matrix units


def triton_serves(device: torch.device) -> bool:
    """Whether kernels in Triton's language are to be used on ``device``.

    True on an NVIDIA GPU of compute capability 8.0 or more where the package ``triton`` (the
    language, not the server) is installed, unless the environment variable ``GSV_KERNELS`` is
    ``plain``.
    """
    if device.type != "cuda" or os.environ.get(VARIABLE) == PLAIN:
        return False
    return _has_triton() and torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY


@functools.cache
def _has_triton() -> bool:
    # A ROCm build calls its devices "cuda" too.
    return torch.version.cuda is not None and importlib.util.find_spec("triton") is not None
