"""The one parameter that names a model's precision."""

from __future__ import annotations

from pathlib import Path

import torch

from gsv.errors import ConfigurationError

AUTO = "auto"
DEFAULT = "default"
_CPU_FLAGS = Path("/proc/cpuinfo")  # torch's own question for them is newer than our oldest torch
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(
    name: str, device: str, *, int8: bool = False, half: torch.dtype = torch.bfloat16
) -> torch.dtype:
    """The dtype called ``name``.

    Args:
        name: as the parameter gives it. ``default`` is float32 on a CPU and ``auto`` on a GPU.
            ``auto`` is, on a CPU, bfloat16 where the processor computes in it, else float32; on a
            GPU ``half``, or float16 before sm_80, which has no bfloat16.
        device: ``cpu`` or ``cuda:N``.
        int8: whether the model also knows int8 weights.
        half: bfloat16, or float16 for networks whose values stay small: it is the finer one.

    Raises:
        ConfigurationError: no such dtype (the message lists all), or not on ``device``.
    """
    dtypes = {**_DTYPES, "int8": torch.int8} if int8 else _DTYPES
    on_cpu = torch.device(device).type == "cpu"
    if name == DEFAULT:
        name = "float32" if on_cpu else AUTO
    if name == AUTO and on_cpu:
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if name == AUTO:
        return half if has_bfloat16(device) else torch.float16
    if name not in dtypes:
        allowed = ", ".join([*dtypes, AUTO, DEFAULT])
        raise ConfigurationError(f"dtype: got {name!r}; allowed: {allowed}")
    if name == "float16" and on_cpu:
        raise ConfigurationError(
            "dtype: got 'float16' on a CPU, where it is slower than float32; use auto, bfloat16 "
            "or float32"
        )
    return dtypes[name]


def has_bfloat16(device: str) -> bool:
    """Whether ``device`` multiplies bfloat16 matrices in hardware."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    flags = _CPU_FLAGS.read_text(encoding="ascii", errors="replace").split()
    return any(name in flags for name in ("avx512_bf16", "amx_bf16"))
