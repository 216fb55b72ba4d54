"""Empty files that show whether a model's process lives, its server was ready, or is to stop.

``gsv serve`` puts the beginning of their paths into the environment. A thread of each model's
process touches the process's own file twice a second, and the supervisor looks whether the file's
time changes. The file stays untouched when the process is stopped, when something keeps Python's
lock, when a step takes longer than its limit, or when a thread has ended that must not. Empty files
in ``/dev/shm`` need no space, so a full disk can't make a healthy process look dead.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from gsv.serving.backend.process_state import server_files

BEAT_SECONDS = 0.5

_log = logging.getLogger(__name__)


def beat_file(prefix: str, pid: int) -> Path:
    """The file that the process ``pid`` of a server touches."""
    return Path(f"{prefix}beat-{pid}")


def stopping_file(prefix: str) -> Path:
    """The file that is there from the moment on at which a server takes no new requests."""
    return Path(f"{prefix}stopping")


def ready_file(prefix: str) -> Path:
    """The file that is there from the moment on at which a server was ready for the first time."""
    return Path(f"{prefix}ready")


def was_ready(prefix: str | None = None) -> bool:
    """Whether this process's server has had callers: what it loads now, they may wait for.

    ``prefix`` is the beginning of the files' paths; None takes it from the environment.
    """
    prefix = server_files(prefix)
    return bool(prefix) and ready_file(prefix).exists()


class Heartbeat:
    """Touches this process's file until :meth:`close`; without a ``gsv serve`` it does nothing.

    It also ends this process when the server that started it is gone: an orphan would keep its
    memory, and the server's ports.

    Args:
        prefix: beginning of the files' paths; None takes it from the environment, and an empty one
            means that nobody watches.
    """

    def __init__(self, prefix: str | None = None) -> None:
        self._prefix = server_files(prefix)
        self._file = beat_file(self._prefix, os.getpid())
        self._stopping = str(stopping_file(self._prefix))
        self._steps: dict[object, float] = {}  # until when each one that runs may take
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> Heartbeat:
        """Begin; a file that can't be made is logged, and the process is then not watched."""
        if not self._prefix or self._thread is not None:
            return self
        try:
            self._file.touch()
        except OSError as error:
            _log.warning("%s: %s; hanging of this process will not be noticed", self._file, error)
            return self
        self._thread = threading.Thread(
            target=self._beat, args=(os.getppid(),), name="heartbeat", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Leave the file untouched from now on: the supervisor takes this process for hanging."""
        self._steps[self] = -math.inf  # a step whose time is over

    def close(self) -> None:
        """End the thread and remove the file."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._file.unlink(missing_ok=True)

    def stopping(self) -> bool:
        """Whether the server is about to stop: new callers are to be refused with UNAVAILABLE."""
        return bool(self._prefix) and os.path.exists(self._stopping)

    @contextlib.contextmanager
    def step(self, seconds: float) -> Iterator[None]:
        """Work that means a hanging process if it takes longer than ``seconds``; any thread."""
        key = object()
        self._steps[key] = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._steps[key]

    def _beat(self, parent: int) -> None:
        while not self._closed.wait(BEAT_SECONDS):
            if os.getppid() != parent:
                os._exit(1)
            now = time.monotonic()
            if all(limit > now for limit in list(self._steps.values())):
                # Gone: the server that wanted to know has ended, and this process is about to.
                with contextlib.suppress(OSError):
                    os.utime(self._file)
