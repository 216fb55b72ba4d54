"""What all tests share. This folder's helper modules are importable as they are."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator

import pytest

# Before torch comes in: several workers on few cores only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The client's tests run without torch too (tools/check_pythons.sh).
if importlib.util.find_spec("torch") is not None:
    import torch

    if not torch.cuda.is_available():
        # Kernels in Triton's language are run step by step then; read when they are defined.
        os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture
def no_grad() -> Iterator[None]:
    """Run the test without recording gradients."""
    with torch.no_grad():
        yield
