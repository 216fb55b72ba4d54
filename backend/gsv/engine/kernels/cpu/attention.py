"""The estimator's attention through ``attention.c``."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_int, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from gsv.engine.kernels.cpu.build import load_kernel
from gsv.models.dit import Attention
from gsv.models.flow import FlowMatching

_WIDTH_STEP, _MAX_WIDTH = 32, 128  # widths of a head that the kernel knows


class _Attention(Structure):
    _fields_ = (
        ("rows", c_int64),
        ("frames", c_int64),
        ("heads", c_int64),
        ("width", c_int64),
        ("row_stride", c_int64),
        ("frame_stride", c_int64),
        ("head_stride", c_int64),
        ("lengths", c_void_p),
        ("threads", c_int64),
    )


def accelerate(flow: FlowMatching) -> bool:
    """Let the estimator's attention run in the kernel; false where it can't.

    Needs a CPU with AVX512-BF16, a C compiler, and weights in bfloat16.
    """
    layers = [layer for layer in flow.modules() if isinstance(layer, Attention)]
    fits = flow.device.type == "cpu" and all(_can_run(layer) for layer in layers)
    library = load_kernel("attention") if fits else None
    if library is None or not library.gsv_supported():
        return False
    kernel = NativeAttention(library)
    for layer in layers:
        layer.kernel = kernel
    return True


def _can_run(layer: Attention) -> bool:
    width = layer.query.out_features // layer.heads
    right = width % _WIDTH_STEP == 0 and width <= _MAX_WIDTH
    return right and layer.query.weight.dtype == torch.bfloat16


class NativeAttention:
    """Calls the kernel; the same for all layers."""

    def __init__(self, library: ctypes.CDLL) -> None:
        library.gsv_scratch.restype = c_int64
        library.gsv_scratch.argtypes = [POINTER(_Attention)]
        library.gsv_attend.restype = c_int
        arguments: list[Any] = [POINTER(_Attention), *5 * [c_void_p]]
        library.gsv_attend.argtypes = arguments
        self._library = library

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None) -> Tensor:
        """As :func:`gsv.models.attention.attend`, for bfloat16."""
        rows, frames, heads, width = query.shape
        strides = query.stride()
        if any(part.stride() != strides or strides[-1] != 1 for part in (query, key, value)):
            query, key, value = (part.contiguous() for part in (query, key, value))
            strides = query.stride()
        made = torch.empty(rows, frames, heads, width, dtype=query.dtype)
        own_lengths = None if lengths is None else lengths.contiguous()
        threads = torch.get_num_threads()
        call = _Attention(
            rows,
            frames,
            heads,
            width,
            *strides[:3],
            None if own_lengths is None else own_lengths.data_ptr(),
            threads,
        )
        scratch = torch.empty(threads * self._library.gsv_scratch(call), dtype=torch.uint8)
        parts = (query, key, value, made, scratch)
        status = self._library.gsv_attend(call, *(part.data_ptr() for part in parts))
        assert status == 0
        return made.flatten(2)
