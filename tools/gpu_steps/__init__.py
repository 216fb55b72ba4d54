"""The steps of ``tools/gpu_check.py``; each file is one thing that is checked or measured."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# Nothing need be installed, and what is must not hide this tree. The golden cases, and the networks
# that carry their weights, are the tests'.
sys.path[:0] = [str(ROOT / name) for name in ("backend", "client", "tests")]
