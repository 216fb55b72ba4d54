"""What all tests share. This folder's helper modules are importable as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before torch comes in: several workers on few cores only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

if not torch.cuda.is_available():
    # Kernels in Triton's language are run step by step then; read when they are defined.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def no_grad() -> Iterator[None]:
    """Run the test without recording gradients."""
    with torch.no_grad():
        yield
