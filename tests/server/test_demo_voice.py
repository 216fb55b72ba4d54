"""The demo voice is understood: `make gate` on real servers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.server

GATE = Path(__file__).resolve().parents[2] / "tools" / "demo_voice" / "gate.py"


def test_the_gate_is_passed() -> None:
    done = subprocess.run([sys.executable, str(GATE)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
