"""Whether a process of the server lives, and how its files are named."""

from __future__ import annotations

import os
from pathlib import Path


def lives(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody has waited for does not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The state follows the name, which may hold blanks and brackets; Z and X are ended ones.
    return text.rpartition(") ")[2][:1] not in ("Z", "X")


def namespace() -> int:
    """A number for the process numbers' namespace, which differs between containers."""
    return os.stat("/proc/self/ns/pid").st_ino


def server_files(given: str | None = None) -> str:
    """Beginning of the paths of this process's signs of life; empty where nobody watches it.

    ``given`` takes the place of what `gsv serve` put into the environment.
    """
    return os.environ.get("GSV_SERVER_FILES", "") if given is None else given


def board_prefix(server: int | str) -> str:
    """Beginning of the names of the files in ``/dev/shm`` that are a server's call boards.

    Process numbers are unique in their namespace only, and containers may share ``/dev/shm``.
    """
    return f"gsv_calls_{namespace()}_{server}_"
