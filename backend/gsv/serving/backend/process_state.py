"""Whether a process of the server lives."""

from __future__ import annotations

from pathlib import Path


def lives(process: int) -> bool:
    """Whether it runs; one that has ended and that nobody has waited for does not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The state follows the name, which may hold blanks and brackets; Z and X are ended ones.
    return text.rpartition(") ")[2][:1] not in ("Z", "X")
