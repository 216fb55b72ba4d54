"""Whom a public model's process is answering, told to ``gsv serve`` in a small file.

When such a process dies, the connections of those who waited for it are ended from outside, and the
kernel does not tell which model a connection waits for. The times in these files do: a request
comes just after its connection last received something, and what is sent leaves just after that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gsv.serving.backend.process_state import lives, server_files

WRITE_SECONDS = 0.1  # between two looks at what has changed
_LEFT_SECONDS = 60.0  # after which nobody wants the file of a process that has ended


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request that is being answered; times by ``time.monotonic``.

    Attributes:
        came: when it reached its model.
        sent: when the model last sent something for it; None: nothing yet.
    """

    came: float
    sent: float | None = None


class CallersFile:
    """The file of this process; without a ``gsv serve`` there is none.

    Args:
        prefix: beginning of the files' paths; None takes it from the environment.
        clock: seconds.
    """

    def __init__(
        self, prefix: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        prefix = server_files(prefix)
        self._file = _file(prefix, os.getpid()) if prefix else None
        self._clock = clock
        self._written: list[Asked] = []
        self._looked = -math.inf

    def write(self, callers: Iterable[Asked]) -> bool:
        """Tell whom it is answering, if it is time to and that has changed.

        Returns:
            Whether it was too soon, so that it is to be called again.
        """
        if self._file is None:
            return False
        now = self._clock()
        if now - self._looked < WRITE_SECONDS:
            return True
        self._looked = now
        asked = sorted(callers, key=lambda one: one.came)
        if asked == self._written:
            return False
        beside = self._file.with_name(f"{self._file.name}.part")
        # With /dev/shm full nobody is told: then more connections are ended than need be.
        with contextlib.suppress(OSError):
            beside.write_text(json.dumps([dataclasses.astuple(one) for one in asked]))
            os.replace(beside, self._file)
            self._written = asked
        return False

    def close(self) -> None:
        """Remove it."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def read_callers(prefix: str, dead: int) -> tuple[list[Asked], list[Asked]]:
    """Whom the process ``dead`` was answering, and whom all that live are.

    The file of ``dead`` is removed, and what processes left that ended long ago.
    """
    lost, answered = list[Asked](), list[Asked]()
    for file in Path(prefix).parent.glob(_file(prefix, "*").name):
        number = file.name.rpartition("-")[2]
        if not number.isdigit():
            continue  # half of a file
        try:
            written = file.stat().st_mtime
            asked = [Asked(*times) for times in json.loads(file.read_text())]
        except FileNotFoundError:  # it has ended meanwhile
            continue
        if int(number) == dead:
            lost = asked
            file.unlink(missing_ok=True)
        elif lives(int(number)):
            answered += asked
        elif time.time() - written > _LEFT_SECONDS:
            file.unlink(missing_ok=True)
    return lost, answered


def _file(prefix: str, pid: int | str) -> Path:
    return Path(f"{prefix}callers-{pid}")
