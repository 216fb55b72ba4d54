"""Cleans up after a launcher that was killed: ends its server and removes its shared memory.

The kernel can signal only the launcher's own child when the launcher dies. Triton's stubs are
grandchildren and would live on for a minute. So a small process reads from a pipe that closes when
the launcher ends, however it ends.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys

from gsv.serving.backend.process_state import board_prefix
from gsv.serving.server.processes import SHARED_MEMORY

# Reads the number of the process group to end, a line each time that it changes (0: none), to the
# end of the pipe. Arguments: the folder of the shared memory and the beginnings of the names.
_PROGRAM = """
import os, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
group = 0
for line in sys.stdin:
    group = int(line)
folder, regions, boards = sys.argv[1:]
try:
    if group:
        os.killpg(group, signal.SIGKILL)
        limit = time.monotonic() + 5.0
        while time.monotonic() < limit:
            os.killpg(group, 0)
            time.sleep(0.02)
except (ProcessLookupError, PermissionError):
    pass
for name in os.listdir(folder):
    if name.startswith((regions, boards.format(group))):
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            pass
"""
_LEAVE_SECONDS = 10.0


class Janitor:
    """One such process, for one launcher; ``prefix`` is the beginning of its regions' names."""

    def __init__(self, prefix: str) -> None:
        boards = board_prefix("{}")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, str(SHARED_MEMORY), prefix, boards],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the launcher
        )

    def watch(self, group: int) -> None:
        """End the process group ``group`` if this process dies; 0: there is none any more."""
        assert self._process.stdin is not None
        # Somebody may have killed it; the server itself still ends with its launcher then.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(b"%d\n" % group)
            self._process.stdin.flush()

    def leave(self) -> None:
        """End it; it removes what regions are left."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_LEAVE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
