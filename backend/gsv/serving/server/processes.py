"""What a tritonserver leaves in the system: its stub processes and its shared-memory regions.

Linux only, as Triton is: read from /proc and /dev/shm, without further packages.
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
from pathlib import Path

from gsv.serving.server.installation import STUB

SHARED_MEMORY = Path("/dev/shm")
REGION_PATTERN = re.compile(r"gsv-(?P<namespace>\d+)-(?P<pid>\d+)-[0-9a-f]{8}-.*")

# Runs in place of a program for a moment: asks the kernel for a SIGTERM when the launcher dies
# (prctl PR_SET_PDEATHSIG), then becomes the program. Not preexec_fn, which is unsafe with threads.
# Arguments: the launcher's process number and the command.
GUARD = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


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


def _stat(pid: int) -> list[str]:
    """State, parent and so on; empty when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # a program's name may hold spaces and brackets


def region_prefix() -> str:
    """A name for one server's shared memory that tells whose it is, so that it can be removed."""
    return f"gsv-{namespace()}-{os.getpid()}-{secrets.token_hex(4)}-"


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
        if match and int(match["namespace"]) == namespace() and not _stat(int(match["pid"])):
            try:
                path.unlink(missing_ok=True)
            except PermissionError:
                continue  # another user's
            removed.append(path.name)
    return sorted(removed)


def namespace() -> int:
    """A number for the process numbers' namespace, which differs between containers."""
    return os.stat("/proc/self/ns/pid").st_ino
