"""The training's scripts are importable as they are."""

from __future__ import annotations

import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path[:0] = [str(TOOLS / "demo_voice"), str(TOOLS)]
