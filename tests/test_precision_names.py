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
    [("half", "allowed: float32, bfloat16, float16, auto"), ("int8", "allowed: float32")],
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
