"""How a model's process ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from gsv.serving.server.installation import STUB

# For what Triton's own threads of the process still have to hand over: lines of the log.
_LAST_WORDS_SECONDS = 0.05


def leave() -> None:
    """End this process at once, if it is a stub of Triton's; to be called when all work is closed.

    Triton waits for nothing but the end of the process then. The usual way there takes down its
    objects and the interpreter while threads of ours may wait inside of them, for calls that were
    lost with another process, say: it ended in segmentation faults and aborts of the C library
    (2.51).
    """
    if is_stub():
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(_LAST_WORDS_SECONDS)
        os._exit(0)


def is_stub() -> bool:
    """Whether this is a process of Triton's Python backend, and not a test."""
    return Path(os.readlink("/proc/self/exe")).name == STUB
