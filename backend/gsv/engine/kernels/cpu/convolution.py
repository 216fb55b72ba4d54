"""The vocoder's residual convolutions through ``short_convolution.c``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv.engine.kernels.cpu.build import load_kernel
from gsv.models.vocoder import ActivatedConv1d, Vocoder

_TILE = 6  # outputs of a tile
_STEP = 16  # channels are a multiple of it
# For each number of taps: taps of a group, and the finite points. These keep the rounding error
# near 5e-6 of the result (B. Barabasz et al., "Error analysis and improving the accuracy of
# Winograd convolution", 2020: small numbers and their reciprocals, with both signs).
_FORMS: dict[int, tuple[int, tuple[float, ...]]] = {
    3: (3, (0, 1, -1, 2, -2, 1 / 2, -1 / 2)),
    7: (7, (0, 1 / 2, -1 / 2, 1, -1, 7 / 5, -7 / 5, 5 / 7, -5 / 7, 2, -2)),
    11: (6, (0, 1 / 2, -1 / 2, 1, -1, 3 / 2, -3 / 2, 2, -2, 1 / 3)),
}

Matrix = NDArray[np.float64]


class _Convolution(Structure):
    _fields_ = (
        ("channels", c_int64),
        ("taps", c_int64),
        ("dilation", c_int64),
        ("points", c_int64),
        ("groups", c_int64),
        ("slope", c_float),
        ("inward", c_void_p),
        ("outward", c_void_p),
        ("weight", c_void_p),
        ("bias", c_void_p),
    )


def accelerate(vocoder: Vocoder) -> bool:
    """Let the residual convolutions run in the kernel; false where it can't.

    Needs a CPU with AVX-512 or AVX2, a C compiler, and weights in float32. The wave stays within
    -100 dB of PyTorch's. Call it when the weights are final.
    """
    convolutions = [
        layer
        for layer in vocoder.modules()
        if isinstance(layer, ActivatedConv1d) and _can_run(layer)
    ]
    library = load_kernel("short_convolution") if convolutions else None
    if library is None or not library.gsv_supported():
        return False
    for layer in convolutions:
        layer.kernel = ShortConvolution(library, layer)
    return True


def _can_run(layer: ActivatedConv1d) -> bool:
    return (
        layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and layer.in_channels == layer.out_channels
        and layer.in_channels % _STEP == 0
        and layer.kernel_size[0] in _FORMS
    )


class ShortConvolution:
    """One layer's weights as the kernel reads them."""

    def __init__(self, library: ctypes.CDLL, layer: ActivatedConv1d) -> None:
        library.gsv_scratch.restype = c_int64
        library.gsv_scratch.argtypes = [POINTER(_Convolution)]
        library.gsv_panel.restype = c_int64
        library.gsv_panel.argtypes = [c_int64]
        library.gsv_convolve.restype = c_int
        arguments: list[Any] = [POINTER(_Convolution), c_void_p, c_void_p, c_void_p]
        library.gsv_convolve.argtypes = [*arguments, c_int64, c_void_p, c_int64]
        self._library = library
        taps, channels = layer.kernel_size[0], layer.in_channels
        group, finite = _FORMS[taps]
        inward, weightward, outward = transforms(_TILE, group, finite)
        assert layer.bias is not None
        self._kept = [
            torch.from_numpy(inward).float().contiguous(),
            torch.from_numpy(outward).float().contiguous(),
            _transformed(
                layer.weight.detach(), group, weightward, int(library.gsv_panel(channels))
            ),
            layer.bias.detach().contiguous(),
        ]
        self._convolution = _Convolution(
            channels,
            taps,
            layer.dilation[0],
            len(inward),
            -(-taps // group),
            layer.slope,
            *(tensor.data_ptr() for tensor in self._kept),
        )
        self._scratch_size = library.gsv_scratch(self._convolution)

    def __call__(self, values: Tensor, residual: Tensor | None = None) -> Tensor:
        """As :class:`ActivatedConv1d`; [B, T, C] to [B, T, C]."""
        threads = torch.get_num_threads()
        scratch = torch.empty(threads * self._scratch_size)
        values = values.contiguous()
        made = torch.empty_like(values)
        residuals = [None] * len(values) if residual is None else residual.contiguous()
        for row, own, result in zip(values, residuals, made, strict=True):
            status = self._library.gsv_convolve(
                self._convolution,
                row.data_ptr(),
                None if own is None else own.data_ptr(),
                result.data_ptr(),
                len(row),
                scratch.data_ptr(),
                threads,
            )
            assert status == 0
        return made


def transforms(outputs: int, taps: int, finite: tuple[float, ...]) -> tuple[Matrix, Matrix, Matrix]:
    """Matrices of minimal filtering at the given points and infinity.

    A. L. Toom and S. A. Cook's multiplication of polynomials by their values, transposed.

    Args:
        outputs, taps: of the filter; there are ``outputs + taps - 1`` points.
        finite: all points but infinity.

    Returns:
        B, G, A with ``A @ ((G @ weights) * (B @ inputs))`` the filter's outputs. Each point is
        scaled by powers of two, so that no value is much larger than the others.
    """
    count = outputs + taps - 1
    assert len(finite) == count - 1

    def powers(width: int) -> Matrix:
        infinity = np.eye(1, width, width - 1)
        return np.concatenate([np.vander(finite, width, increasing=True), infinity])

    inward = np.linalg.inv(powers(count)).T
    outward, weightward = powers(outputs).T, powers(taps)
    inward_scale = _near_power_of_two(np.linalg.norm(inward, axis=1))
    outward_scale = _near_power_of_two(np.linalg.norm(outward, axis=0))
    return (
        inward / inward_scale[:, None],
        weightward * (inward_scale * outward_scale)[:, None],
        outward / outward_scale,
    )


def _near_power_of_two(values: Matrix) -> Matrix:
    exponents: Matrix = np.exp2(np.round(np.log2(values)))
    return exponents


def _transformed(weight: Tensor, group: int, weightward: Matrix, panel: int) -> Tensor:
    """[C, C, taps] to [points, C / panel, groups, C, panel]; a panel's outputs are made at once."""
    channels, _, taps = weight.shape
    groups = -(-taps // group)
    padded = torch.nn.functional.pad(weight.double(), (0, groups * group - taps))
    grouped = padded.view(channels, channels, groups, group)  # [outputs, inputs, groups, group]
    points = torch.einsum("pk,oigk->pogi", torch.from_numpy(weightward), grouped)
    panels = points.reshape(len(weightward), -1, panel, groups, channels)
    packed: Tensor = panels.permute(0, 1, 3, 4, 2).float().contiguous()
    return packed
