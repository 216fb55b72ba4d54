"""The priority of a model's process on the CPU, once it has loaded."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from gsv.serving.backend.process_state import server_files

# On a busy CPU a process that starts gets nine times as much of a core as one that is this much
# nicer. At 5 it would get three times as much.
NICENESS = 10
_MOST = 19  # that Linux knows


def lower_priority(prefix: str | None = None) -> None:
    """Let processes that start go before this one, where `gsv serve` starts those that were lost.

    Callers wait for a model that comes back, and starting it is two seconds of one core's work.
    All threads of all models' processes are lowered alike, so among each other nothing changes.

    Args:
        prefix: beginning of the paths of signs of life, empty where nobody watches; None takes it
            from the environment.
    """
    if not server_files(prefix):
        return
    wanted = min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, _MOST)
    with contextlib.suppress(OSError):  # a sandbox may forbid it; the model works all the same
        while higher := _threads_below(wanted):
            for thread in higher:
                with contextlib.suppress(ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, thread, wanted)  # on Linux, of it alone


def _threads_below(niceness: int) -> list[int]:
    """This process's threads that are less nice; a new one is as nice as the one that made it."""
    found = []
    for thread in (int(task.name) for task in Path("/proc/self/task").iterdir()):
        with contextlib.suppress(ProcessLookupError):
            if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
                found.append(thread)
    return found
