"""Notices stubs that are gone, stopped or hanging, by what the kernel and their heartbeats tell.

What Triton says of a model whose process died differs from version to version (2.51 goes on calling
it ready, 25.12 and later do not), so nothing of it is asked here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable

from gsv.serving.backend.heartbeat import BEAT_SECONDS, beat_file
from gsv.serving.server.processes import Stub, asleep, living_stubs, open_process, state

# Of the time that a process may show no heartbeat, one of which no thread is seen at work has this
# share: one that computes or waits for a disk may keep Python's lock for a while, one that hangs in
# a lock does neither. Some beats must be missing all the same.
ASLEEP_SHARE = 1 / 3
LEAST_ASLEEP_SECONDS = 2.5 * BEAT_SECONDS


@dataclasses.dataclass(frozen=True)
class Loss:
    """A stub that does not work any more, and how one sees that; it may still live."""

    stub: Stub
    reason: str


@dataclasses.dataclass
class _Seen:
    """What is known of a stub that lived at the last look; times are in seconds."""

    stub: Stub
    handle: int | None  # a file descriptor that can be read once the process has ended
    beat: int | None = None  # time of its heartbeat file, in ns; None: it has none
    silent: float = 0.0  # seconds since that time changed
    asleep: float = 0.0  # of these, seconds in which no thread of it was seen at work
    stopped: float = 0.0  # seconds since the kernel first said that it is stopped


class StubWatch:
    """The stubs of one running server; call :meth:`look` often, and :meth:`close` at its end.

    Args:
        server: process number of tritonserver.
        files: beginning of the paths of the files that it shares with its models.
        stopped_seconds: how long a process may be stopped (SIGSTOP).
        silent_seconds: how long a process that has a heartbeat may show none; a third of it while
            all its threads sleep.
        clock: seconds.
    """

    def __init__(
        self,
        server: int,
        files: str,
        *,
        stopped_seconds: float,
        silent_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server, self._files, self._clock = server, files, clock
        self._stopped_seconds, self._silent_seconds = stopped_seconds, silent_seconds
        # By process number: instances on several GPUs have the same name where one group has all.
        self._seen: dict[int, _Seen] = {}
        self._released: set[int] = set()  # processes that may end
        self.server_stopped = 0.0  # seconds since the kernel first said that the server is
        self._looked = clock()
        self._server_handle = _handle_of(server)

    @property
    def handles(self) -> list[int]:
        """File descriptors that can be read when the server or a stub has ended."""
        ours = [self._server_handle, *(seen.handle for seen in self._seen.values())]
        return [handle for handle in ours if handle is not None]

    @property
    def stubs(self) -> list[Stub]:
        """Those that lived at the last look."""
        return [seen.stub for seen in self._seen.values()]

    def look(self, patience: float = 1.0, loading: str = "") -> list[Loss]:
        """What was lost since the last look; each loss is told once.

        Args:
            patience: seconds. Time counts as far as it was watched: after a longer gap this process
                may itself have been stopped, and its stubs with it.
            loading: a model whose processes are being exchanged; they are left for the next look.
        """
        now = self._clock()
        passed, self._looked = min(now - self._looked, patience), now
        is_stopped = state(self._server) == "T"
        self.server_stopped = self.server_stopped + passed if is_stopped else 0.0
        living = {stub.pid: stub for stub in living_stubs(self._server)}
        self._released &= living.keys()
        living = {
            pid: stub
            for pid, stub in living.items()
            if pid not in self._released and stub.model != loading
        }
        heirs = [stub for pid, stub in living.items() if pid not in self._seen]
        lost = []
        for pid, seen in list(self._seen.items()):
            if seen.stub.model == loading:
                continue
            if pid in living:
                reason = self._fault(seen, passed)
                if not reason:
                    continue
                lost.append(Loss(seen.stub, reason))
                del living[pid]  # as good as dead
            elif (heir := _heir(seen.stub, heirs)) is not None:
                heirs.remove(heir)  # somebody has loaded the model again
            else:
                lost.append(Loss(seen.stub, "its process died"))
            self._forget(pid)
        for pid, stub in living.items():
            if pid not in self._seen:
                self._seen[pid] = _Seen(stub, _handle_of(pid))
        return lost

    def release(self, pids: set[int]) -> None:
        """Watch these processes no more: Triton has others in their place, and will end them."""
        self._released |= pids
        for pid in pids & self._seen.keys():
            self._forget(pid)

    def close(self) -> None:
        """Let go of the file descriptors."""
        for pid in list(self._seen):
            self._forget(pid)
        if self._server_handle is not None:
            os.close(self._server_handle)
            self._server_handle = None

    def _fault(self, seen: _Seen, passed: float) -> str:
        """Why a process that lives is as good as dead; empty if it is well."""
        seen.stopped = seen.stopped + passed if state(seen.stub.pid) == "T" else 0.0
        if seen.stopped > self._stopped_seconds:
            return f"its process was stopped for {self._stopped_seconds:g} s"
        try:
            beat = os.stat(beat_file(self._files, seen.stub.pid)).st_mtime_ns
        except OSError:
            seen.beat = None
            return ""
        if beat != seen.beat:
            seen.beat, seen.silent, seen.asleep = beat, 0.0, 0.0
            return ""
        seen.silent += passed
        if seen.silent > self._silent_seconds:
            return f"its process hangs: no sign of life for {self._silent_seconds:g} s"
        seen.asleep += passed * (seen.stopped == 0 and asleep(seen.stub.pid))
        limit = max(ASLEEP_SHARE * self._silent_seconds, LEAST_ASLEEP_SECONDS)
        if seen.asleep > limit:
            silence = f"no sign of life for {limit:.2g} s, and all its threads sleep"
            return f"its process hangs: {silence}"
        return ""

    def _forget(self, pid: int) -> None:
        seen = self._seen.pop(pid)
        if seen.handle is not None:
            os.close(seen.handle)
        with contextlib.suppress(OSError):
            beat_file(self._files, pid).unlink(missing_ok=True)


def _heir(stub: Stub, newcomers: list[Stub]) -> Stub | None:
    """The one that has taken the place of a stub that is gone."""
    name = stub.model, stub.instance
    return next((one for one in newcomers if (one.model, one.instance) == name), None)


def _handle_of(pid: int) -> int | None:
    try:
        return open_process(pid)
    except OSError:  # it has ended, or the kernel is older than 5.3: seen at the next look
        return None
