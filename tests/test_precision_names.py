"""The parameter that names a model's precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsv import precision
from gsv.errors import ConfigurationError
from gsv.precision import torch_dtype


def test_names() -> None:
    assert torch_dtype("float32", "cpu") is torch.float32
    assert torch_dtype("bfloat16", "cpu") is torch.bfloat16
    assert torch_dtype("float16", "cuda:0") is torch.float16
    assert torch_dtype("int8", "cpu", int8=True) is torch.int8


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("half", "allowed: float32, bfloat16, float16, auto, default"), ("int8", "allowed: float32")],
)
def test_an_unknown_name_lists_those_that_exist(name: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError, match=f"got '{name}'; {allowed}"):
        torch_dtype(name, "cpu")


def test_float16_is_refused_on_a_cpu() -> None:
    with pytest.raises(ConfigurationError, match="use auto, bfloat16 or float32"):
        torch_dtype("float16", "cpu")


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("avx512f avx512_bf16", torch.bfloat16),
        ("amx_tile amx_bf16", torch.bfloat16),
        ("avx2 avx512f", torch.float32),
    ],
)
def test_auto_looks_at_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, dtype: torch.dtype
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n")
    monkeypatch.setattr(precision, "_CPU_FLAGS", tmp_path / "cpuinfo")
    assert torch_dtype("auto", "cpu") is dtype


@pytest.mark.parametrize("flags", ["avx512f avx512_bf16", "avx2"])
def test_the_default_is_exact_on_every_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(precision, "_CPU_FLAGS", tmp_path / "cpuinfo")
    assert torch_dtype("default", "cpu") is torch.float32


@pytest.mark.parametrize("name", ["auto", "default"])
@pytest.mark.parametrize(
    ("capability", "half", "dtype"),
    [
        ((7, 5), torch.bfloat16, torch.float16),
        ((7, 5), torch.float16, torch.float16),
        ((8, 0), torch.bfloat16, torch.bfloat16),
        ((9, 0), torch.bfloat16, torch.bfloat16),
        ((9, 0), torch.float16, torch.float16),
    ],
)
def test_a_gpu_computes_in_halves_by_default(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    half: torch.dtype,
    dtype: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert torch_dtype(name, "cuda:0", half=half) is dtype
