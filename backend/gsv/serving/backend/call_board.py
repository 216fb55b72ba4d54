"""The board of the calls that one process makes: who still waits for them, and who works on them.

Triton doesn't pass a cancellation on to the calls that a model makes, and it never answers a call
whose process died at work on it (2.51). So each process that makes calls owns a file in shared
memory with two tables of numbers. Each caller has a slot in the first; the calls made for it carry
the slot and its number in Triton's request id. When the caller leaves, the number changes. Each
call has a cell in the second; the process that begins to work on the call writes its process number
there. Stages read the first between their steps, callers read the second while they wait; either
costs one read of memory.

Before the tables stands how many callers wait for first audio: whole answers give way to them in
every stage (:mod:`gsv.engine.give_way`).

Only processes of the same user can open the file (mode 0600), so nobody else can cancel anything. A
request whose id names no board of this server is never cancelled this way. A board whose owner has
died counts as cleared; the next process that makes a board removes its file.
"""

from __future__ import annotations

import contextlib
import math
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
from gsv.serving.backend.process_state import board_prefix, lives, namespace
from gsv.serving.backend.tracing import split_traced_id

FOLDER = Path("/dev/shm")
SLOTS = 4096  # callers with calls under way, of one process
CALLS = 8192  # calls under way, of one process
# Namespace, server's and owner's process number, as board_prefix has it.
_FILE = re.compile(r"gsv_calls_(\d+)_(\d+)_(\d+)")
# gsv!server!owner!slot!number!call!the caller's own id; a + behind the call: it is made again
_ID = re.compile(r"gsv!(\d{1,10})!(\d{1,10})!(\d{1,5})!(\d{1,10})!(\d{1,5})(\+?)!(.*)", re.S)
_Tables = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint32]]
_OWNER_CHECK_SECONDS = 1.0  # between looks whether a board's owner lives, and for new boards
_BYTES = 4 * (1 + SLOTS + CALLS)


class CallBoard:
    """The board of this process.

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
            os.ftruncate(descriptor, _BYTES)
            memory = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self._awaited, self._numbers, self._handlers = _tables(memory)
        self._awaiting: set[int] = set()  # slots of callers that wait for first audio
        self._free_slots = list(range(SLOTS))
        self._free_calls = list(range(CALLS))
        self._last = 0
        self._lock = threading.Lock()

    def token(self, request_id: str) -> BoardToken:
        """A slot for one caller.

        Raises:
            Overloaded: all slots are taken.
        """
        with self._lock:
            slot = _taken(self._free_slots, f"{SLOTS} callers have calls under way")
            self._last = number = self._last % 0xFFFFFFFF + 1  # never 0, which is nobody's
            self._numbers[slot] = number
        return BoardToken(self, slot, number, request_id)

    def call(self, token: BoardToken, *, made_again: bool = False) -> BoardCall:
        """A cell for one of a caller's calls.

        Args:
            token: the caller's.
            made_again: the process of an earlier one died.

        Raises:
            Overloaded: all cells are taken.
        """
        with self._lock:
            cell = _taken(self._free_calls, f"{CALLS} calls are under way")
            self._handlers[cell] = 0
        own = f"gsv!{self._server}!{self._owner}!{token.slot}!{token.number}!{cell}"
        own += "+" * made_again
        return BoardCall(self, cell, f"{own}!{token.caller_id}")

    def handler(self, cell: int) -> int:
        """The process that works on a call; 0 while none has begun."""
        return int(self._handlers[cell])

    def wanted(self, slot: int, number: int) -> bool:
        """Whether the caller that had ``number`` in ``slot`` still waits."""
        return int(self._numbers[slot]) == number

    def clear(self, slot: int, number: int) -> None:
        """Tell every stage that the caller has left."""
        if self.wanted(slot, number):
            self._numbers[slot] = 0

    def await_first_audio(self, slot: int, *, awaited: bool) -> None:
        """Tell every stage whether the caller in ``slot`` waits for first audio."""
        with self._lock:
            self._set_awaiting(slot, awaited=awaited)

    def _set_awaiting(self, slot: int, *, awaited: bool) -> None:
        (self._awaiting.add if awaited else self._awaiting.discard)(slot)
        self._awaited[0] = len(self._awaiting)

    def free_slot(self, slot: int) -> None:
        """Take back a caller's slot."""
        with self._lock:
            self._set_awaiting(slot, awaited=False)
            self._numbers[slot] = 0
            self._free_slots.append(slot)

    def free_call(self, cell: int) -> None:
        """Take back a call's cell."""
        with self._lock:
            self._free_calls.append(cell)

    def close(self) -> None:
        """Take the board away; whatever is under way counts as left."""
        self._numbers[:] = 0
        self._awaited[0] = 0
        self._path.unlink(missing_ok=True)


class BoardToken:
    """One caller's slot; as :class:`gsv.stages.calls.CancelToken`."""

    def __init__(self, board: CallBoard, slot: int, number: int, caller_id: str) -> None:
        self._board = board
        self.slot, self.number, self.caller_id = slot, number, caller_id
        self._held = True

    def cancel(self) -> None:
        """Tell every stage that nobody waits for these calls."""
        if self._held:
            self._board.clear(self.slot, self.number)

    def await_first_audio(self, *, awaited: bool) -> None:
        """Tell every stage whether the caller waits for first audio."""
        if self._held:
            self._board.await_first_audio(self.slot, awaited=awaited)

    @property
    def cancelled(self) -> bool:
        """Whether the caller has left."""
        return not self._board.wanted(self.slot, self.number)

    def release(self) -> None:
        """Give the slot back; without effect the second time."""
        held, self._held = self._held, False
        if held:
            self._board.free_slot(self.slot)


class BoardCall:
    """One call's cell.

    Attributes:
        request_id: for Triton's request; every stage that the call reaches sees it.
    """

    def __init__(self, board: CallBoard, cell: int, request_id: str) -> None:
        self._board, self._cell = board, cell
        self.request_id = request_id

    def handler_died(self) -> bool:
        """Whether a process had begun to work on the call and is gone."""
        handler = self._board.handler(self._cell)
        return handler != 0 and not lives(handler)

    def release(self) -> None:
        """Give the cell back, once Triton has answered."""
        self._board.free_call(self._cell)


class BoardReader:
    """The boards of this server's processes, for the stages that they call."""

    def __init__(self, folder: Path = FOLDER, server: int | None = None) -> None:
        self._folder = folder
        self._server = os.getppid() if server is None else server
        self._boards: dict[int, _Board] = {}
        self._lock = threading.Lock()
        self._looked = -math.inf  # for boards

    def first_audio_awaited(self) -> bool:
        """Whether anybody on this server waits for first audio; costs a read of memory a board."""
        now = time.monotonic()
        if now - self._looked > _OWNER_CHECK_SECONDS:
            self._looked = now
            for path in self._folder.glob(f"{board_prefix(self._server)}*"):
                if (match := _FILE.fullmatch(path.name)) is not None:
                    self._board(int(match[3]))
        with self._lock:
            boards = list(self._boards.values())
        return any(board.awaited() for board in boards)

    def watch(self, request_id: str) -> Callable[[], bool] | None:
        """What says whether the caller of a request has left; None if its id is not of a board."""
        match = self._match(request_id)
        if match is None:
            return None
        board = self._board(int(match[2]))
        slot, number = int(match[3]), int(match[4])
        return lambda: board.left(slot, number)

    def take(self, request_id: str) -> None:
        """Write that this process works on a call; nothing if the id is not of a board."""
        if (match := self._match(request_id)) is not None:
            self._board(int(match[2])).take(int(match[5]))

    def _match(self, request_id: str) -> re.Match[str] | None:
        match = _ID.fullmatch(request_id)
        if match is None or int(match[1]) != self._server:
            return None
        return match if int(match[3]) < SLOTS and int(match[5]) < CALLS else None

    def _board(self, owner: int) -> _Board:
        with self._lock:
            board = self._boards.get(owner)
            if board is None:
                self._boards = {o: b for o, b in self._boards.items() if not b.gone()}
                board = _Board(_path(self._folder, self._server, owner), owner)
                self._boards[owner] = board
            return board


def caller_id(request_id: str) -> str:
    """The id that the public request came with, for logs."""
    match = _ID.fullmatch(request_id)
    return split_traced_id(match[7])[1] if match else request_id


def parent_span(request_id: str) -> str:
    """The span of the public request that a call is made for; empty: it is not traced."""
    match = _ID.fullmatch(request_id)
    return split_traced_id(match[7])[0] if match else ""


def owner_of(request_id: str) -> str:
    """Names the public request that a call is made for; its own id where it is nobody's call."""
    match = _ID.fullmatch(request_id)
    return request_id[: match.start(5) - 1] if match else request_id


def is_made_again(request_id: str) -> bool:
    """Whether the process died that worked on the call before."""
    match = _ID.fullmatch(request_id)
    return match is not None and bool(match[6])


def sweep(folder: Path = FOLDER) -> list[Path]:
    """Remove the boards of this user's processes that are gone; returns them."""
    removed = []
    for path in folder.glob("gsv_calls_*"):
        match = _FILE.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if match is None or int(match[1]) != namespace():
                continue
            if path.stat().st_uid == os.getuid() and not lives(int(match[3])):
                path.unlink()
                removed.append(path)
    return removed


def _path(folder: Path, server: int, owner: int) -> Path:
    return folder / f"{board_prefix(server)}{owner}"


def _tables(memory: mmap.mmap) -> _Tables:
    """Who waits for first audio [1], the callers' numbers [SLOTS], the calls' handlers [CALLS]."""
    values = np.frombuffer(memory, np.uint32)
    return values[:1], values[1 : 1 + SLOTS], values[1 + SLOTS :]


def _taken(free: list[int], full: str) -> int:
    if not free:
        raise Overloaded(f"{full}, the most; try again later")
    return free.pop()


class _Board:
    """Another process's board."""

    def __init__(self, path: Path, owner: int) -> None:
        self._owner = owner
        self._tables: _Tables | None = None
        self._looked, self._gone = time.monotonic(), False
        try:
            with path.open("r+b") as file:
                status = os.fstat(file.fileno())
                if status.st_uid == os.getuid() and status.st_size == _BYTES:
                    self._tables = _tables(mmap.mmap(file.fileno(), status.st_size))
        except OSError:
            self._gone = True  # its owner has ended, or there never was one

    def gone(self) -> bool:
        """Whether its owner has ended; looks once a second."""
        now = time.monotonic()
        if not self._gone and now - self._looked > _OWNER_CHECK_SECONDS:
            self._looked, self._gone = now, not lives(self._owner)
        return self._gone or self._tables is None

    def left(self, slot: int, number: int) -> bool:
        """Whether the caller that had ``number`` in ``slot`` has left."""
        return self.gone() or self._tables is None or int(self._tables[1][slot]) != number

    def awaited(self) -> bool:
        """Whether any of its callers waits for first audio."""
        return not self.gone() and self._tables is not None and int(self._tables[0][0]) > 0

    def take(self, cell: int) -> None:
        """Write that this process works on the call of that cell."""
        if self._tables is not None:
            self._tables[2][cell] = os.getpid()
