"""The cancellation board, where a public model shows every stage which callers have left.

Triton doesn't pass a cancellation on to the calls that a model makes. So each process that makes
calls owns a file in shared memory: a table of slots with one number each. A caller has a slot; its
calls carry the slot and the slot's number in Triton's request id. When the caller leaves, the
number changes. Stages compare the two between their steps, which costs one read of memory.

Only the owner's user can write the file (mode 0600), so nobody else can cancel anything. A request
whose id names no board of this server is never cancelled this way. A board whose owner has died
counts as cleared; the next process that makes a board removes its file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsv.errors import Overloaded

FOLDER = Path("/dev/shm")
SLOTS = 4096  # callers with calls under way, of one process
# Namespace, server's and owner's process number. These are unique in their namespace only, and
# containers may share /dev/shm.
_FILE = re.compile(r"gsv_cancel_(\d+)_(\d+)_(\d+)")
# gsv!server!owner!slot!number!the caller's own id
_ID = re.compile(r"gsv!(\d{1,10})!(\d{1,10})!(\d{1,5})!(\d{1,10})!(.*)", re.S)
_OWNER_CHECK_SECONDS = 1.0  # between looks whether a board's owner lives


class CancelBoard:
    """The board of this process, for the calls that it makes.

    Args:
        folder: where boards lie; tests have one of their own.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        sweep(folder)
        self._server, self._owner = os.getppid(), os.getpid()
        self._path = _path(folder, self._server, self._owner)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()  # of a process that had this one's number
        descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.ftruncate(descriptor, 4 * SLOTS)
            self._memory = mmap.mmap(descriptor, 4 * SLOTS)
        finally:
            os.close(descriptor)
        self._numbers = np.frombuffer(self._memory, np.uint32)
        self._free = list(range(SLOTS))
        self._last = 0
        self._lock = threading.Lock()

    def token(self, request_id: str) -> BoardToken:
        """A slot for one caller.

        Raises:
            Overloaded: all slots are taken.
        """
        with self._lock:
            if not self._free:
                raise Overloaded(
                    f"{SLOTS} callers have calls under way, which is the limit; try again later"
                )
            slot = self._free.pop()
            self._last = number = self._last % 0xFFFFFFFF + 1  # never 0, which is nobody's
            self._numbers[slot] = number
        own = f"gsv!{self._server}!{self._owner}!{slot}!{number}!{request_id}"
        return BoardToken(own, lambda: self._clear(slot, number), lambda: self._release(slot))

    def _clear(self, slot: int, number: int) -> None:
        if self._numbers[slot] == number:
            self._numbers[slot] = 0

    def _release(self, slot: int) -> None:
        with self._lock:
            self._numbers[slot] = 0
            self._free.append(slot)

    def close(self) -> None:
        """Take the board away; whatever is under way counts as left."""
        self._numbers[:] = 0
        self._path.unlink(missing_ok=True)


class BoardToken:
    """One caller's slot; as :class:`gsv.stages.calls.CancelToken`."""

    def __init__(
        self, request_id: str, clear: Callable[[], None], release: Callable[[], None]
    ) -> None:
        self.request_id = request_id  # of every call under this token
        self._clear = clear
        self._release: Callable[[], None] | None = release

    def cancel(self) -> None:
        """Tell every stage that nobody waits for these calls."""
        if self._release is not None:
            self._clear()

    def release(self) -> None:
        """Give the slot back; without effect the second time."""
        release, self._release = self._release, None
        if release is not None:
            release()


class CancelReader:
    """The boards of this server's processes, for the stages that they call."""

    def __init__(self, folder: Path = FOLDER, server: int | None = None) -> None:
        self._folder = folder
        self._server = os.getppid() if server is None else server
        self._boards: dict[int, _Board] = {}
        self._lock = threading.Lock()

    def watch(self, request_id: str) -> Callable[[], bool] | None:
        """What says whether the caller of a request has left; None if its id is not of a board."""
        match = _ID.fullmatch(request_id)
        if match is None or int(match[1]) != self._server or int(match[3]) >= SLOTS:
            return None
        owner, slot, number = int(match[2]), int(match[3]), int(match[4])
        with self._lock:
            board = self._boards.get(owner)
            if board is None:
                self._boards = {o: b for o, b in self._boards.items() if not b.gone()}
                board = _Board(_path(self._folder, self._server, owner), owner)
                self._boards[owner] = board
        return lambda: board.left(slot, number)


def caller_id(request_id: str) -> str:
    """The id that the public request came with, for logs."""
    match = _ID.fullmatch(request_id)
    return match[5] if match else request_id


def owner_of(request_id: str) -> str:
    """Names the public request that a call is made for; its own id where it is nobody's call."""
    match = _ID.fullmatch(request_id)
    return request_id[: match.start(5)] if match else request_id


def sweep(folder: Path = FOLDER) -> list[Path]:
    """Remove the boards of this user's processes that are gone; returns them."""
    removed = []
    for path in folder.glob("gsv_cancel_*"):
        match = _FILE.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if match is None or int(match[1]) != _namespace():
                continue
            if path.stat().st_uid == os.getuid() and not _lives(int(match[3])):
                path.unlink()
                removed.append(path)
    return removed


def _namespace() -> int:
    """Names the namespace that this process's number belongs to."""
    return os.stat("/proc/self/ns/pid").st_ino


def _path(folder: Path, server: int, owner: int) -> Path:
    return folder / f"gsv_cancel_{_namespace()}_{server}_{owner}"


class _Board:
    """Another process's board, read only."""

    def __init__(self, path: Path, owner: int) -> None:
        self._owner = owner
        self._numbers: NDArray[np.uint32] | None = None
        self._looked, self._gone = time.monotonic(), False
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_uid == os.getuid() and status.st_size == 4 * SLOTS:
                    memory = mmap.mmap(file.fileno(), 4 * SLOTS, access=mmap.ACCESS_READ)
                    self._numbers = np.frombuffer(memory, np.uint32)
        except OSError:
            self._gone = True  # its owner has ended, or there never was one

    def gone(self) -> bool:
        """Whether its owner has ended; looks once a second."""
        now = time.monotonic()
        if not self._gone and now - self._looked > _OWNER_CHECK_SECONDS:
            self._looked, self._gone = now, not _lives(self._owner)
        return self._gone or self._numbers is None

    def left(self, slot: int, number: int) -> bool:
        """Whether the caller that had ``number`` in ``slot`` has left."""
        return self.gone() or self._numbers is None or int(self._numbers[slot]) != number


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
