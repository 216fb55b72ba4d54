"""What a tritonserver leaves in the system: its stub processes and its shared-memory regions.

Linux only, as Triton is: read from /proc and /dev/shm, without further packages.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import re
import secrets
import signal
import sys
from pathlib import Path

from gsv.serving.backend.process_state import namespace
from gsv.serving.server.installation import STUB

SHARED_MEMORY = Path("/dev/shm")
_PIDFD_OPEN = 434  # the same number on every architecture
# The process's start time tells it from a later process with the same number. Versions before 0.2
# had eight random digits in its place.
REGION_PATTERN = re.compile(
    r"gsv-(?P<namespace>\d+)-(?P<pid>\d+)-((?P<start>[0-9a-f]{8})[0-9a-f]{4}|[0-9a-f]{8})-.*"
)

# Runs in place of a program for a moment: asks the kernel for a signal when the launcher dies
# (prctl PR_SET_PDEATHSIG), then becomes the program. Not preexec_fn, which is unsafe with threads.
# Each connection takes a file descriptor, and the usual 1024 are few.
# Arguments: the launcher's process number, the signal's and the command.
FILES = 65_536
GUARD = f"""
import ctypes, os, resource, signal, sys
ctypes.CDLL(None).prctl(1, int(sys.argv[2]))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
most = {FILES} if hard == resource.RLIM_INFINITY else min({FILES}, hard)
if soft != resource.RLIM_INFINITY and soft < most:
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[3], sys.argv[3:])
"""


def guarded(command: list[str], number: signal.Signals) -> list[str]:
    """``command``, as a process that gets the signal ``number`` when this one dies.

    It may also open more files than this one, as far as the system allows that.
    """
    return [sys.executable, "-I", "-S", "-c", GUARD, str(os.getpid()), str(int(number)), *command]


@dataclasses.dataclass(frozen=True)
class Stub:
    """One process of the Python backend; one model instance runs in it."""

    pid: int
    model: str
    instance: str


def living_stubs(server: int) -> list[Stub]:
    """The stubs that run as children of the process ``server``; the dead are left out."""
    found = []
    for pid in children(server):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
        except OSError:
            continue  # ended meanwhile
        # A dead one that nobody waited for is still listed, with an empty command line.
        if len(words) > 1 and Path(words[0]).name == STUB:
            # STUB …/MODEL/VERSION/model.py REGION SIZE GROWTH PARENT FOLDER HANDLE INSTANCE RUNTIME
            instance = words[8] if len(words) > 8 else ""
            found.append(Stub(pid, Path(words[1]).parent.parent.name, instance))
    return found


def dead_children(server: int) -> list[int]:
    """Children of ``server`` that have ended and were not waited for: a stub that was killed."""
    return [pid for pid in children(server) if state(pid) == "Z"]


def open_process(pid: int) -> int:
    """A file descriptor of a process, which can be read once it has ended.

    Raises:
        OSError: it has ended, or the kernel is older than 5.3.
    """
    if hasattr(os, "pidfd_open"):
        return os.pidfd_open(pid)
    # Python was built against headers older than that, as conda's and uv's are.
    handle: int = ctypes.CDLL(None, use_errno=True).syscall(_PIDFD_OPEN, pid, 0)
    if handle < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return handle


def children(parent: int) -> list[int]:
    """Process numbers of all children, the dead ones included."""
    pids = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _stat(int(entry))[1:2] == [str(parent)]:
            pids.append(int(entry))
    return sorted(pids)


def state(pid: int) -> str:
    """The kernel's letter for the process's state (Z: ended, not waited for); empty: none such."""
    return "".join(_stat(pid)[:1])


def asleep(pid: int) -> bool:
    """Whether no thread of the process runs, could run, or waits for a disk."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True  # ended
    return not any(_stat(pid, f"/task/{one}")[:1] in (["R"], ["D"]) for one in threads)


def _stat(pid: int, thread: str = "") -> list[str]:
    """State, parent and so on of a process, or ``/task/N`` of it; empty when there is none."""
    try:
        text = Path(f"/proc/{pid}{thread}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # a program's name may hold spaces and brackets


def ended(pid: int) -> bool:
    """Whether there is no such process any more, or one that has ended and was not waited for."""
    return state(pid) in ("", "Z", "X")


def start_of(pid: int) -> int:
    """When the process started, in the kernel's ticks, modulo 2³²; 0: there is no such process."""
    words = _stat(pid)
    return int(words[19]) & 0xFFFFFFFF if len(words) > 19 else 0


def hide_argument(pid: int, secret: str) -> bool:
    """Write stars over ``secret`` on a child's command line, which every user can read.

    Only once the child has read its arguments. Whether it is hidden now.
    """
    words = _stat(pid)
    if len(words) < 47:
        return True  # ended
    start, end = int(words[45]), int(words[46])  # of the arguments, proc(5) fields 48 and 49
    hidden = secret.encode()
    try:
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(start)
            arguments = memory.read(end - start)
            memory.seek(start)
            memory.write(arguments.replace(hidden, b"*" * len(hidden)))
        return hidden not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ended(pid)


def region_prefix() -> str:
    """A name for one server's shared memory that tells whose it is, so that it can be removed."""
    pid = os.getpid()
    return f"gsv-{namespace()}-{pid}-{start_of(pid):08x}{secrets.token_hex(2)}-"


def remove_regions(prefix: str, folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove the shared memory of one server that has ended; the names of what was left."""
    names = [path.name for path in folder.glob(f"{prefix}*")]
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return sorted(names)


def remove_stale_regions(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove what servers left whose launcher has ended too (both were killed).

    Process numbers mean nothing in another namespace (a container that shares /dev/shm): its
    regions are left alone.
    """
    removed = []
    for path in folder.glob("gsv-*"):
        match = REGION_PATTERN.fullmatch(path.name)
        if match and int(match["namespace"]) == namespace() and _launcher_is_gone(match):
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                continue  # another user's
            removed.append(path.name)
    return sorted(removed)


def _launcher_is_gone(match: re.Match[str]) -> bool:
    pid = int(match["pid"])
    return ended(pid) or bool(match["start"] and int(match["start"], 16) != start_of(pid))
