"""Where a training run lies, and how its steps tell what they do."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = Path(os.environ.get("DEMO_VOICE_RUN", ROOT / "build" / "demo_voice"))


def logger(step: str) -> logging.Logger:
    """Lines with the time, to stderr and to ``<run>/<step>.log``."""
    RUN.mkdir(parents=True, exist_ok=True)
    log = logging.getLogger(step)
    if log.handlers:
        return log
    log.setLevel(logging.INFO)
    for handler in (logging.StreamHandler(sys.stderr), logging.FileHandler(RUN / f"{step}.log")):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
    return log
