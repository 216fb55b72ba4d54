"""What all tests share: this folder's helper modules are importable, oracles report their absence."""

from __future__ import annotations

import os

# Before torch is imported: several workers on few cores only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
