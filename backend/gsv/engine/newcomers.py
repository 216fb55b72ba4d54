"""The limit of an engine's waiting line, which is for newcomers.

A newcomer is work of an answer of which nothing has been made yet. Work of an answer that has begun
gets a place in any case, and takes none from a newcomer.
"""

from __future__ import annotations

from collections.abc import Iterable

from gsv.errors import Overloaded


def check_room(waiting: Iterable[bool], running: int, slots: int, limit: int, what: str) -> None:
    """Overloaded if another newcomer finds no place.

    Args:
        waiting: of each that waits, whether it belongs to an answer that has begun.
        running: how many the engine works on.
        slots: how many it can work on at once.
        limit: how many newcomers may wait beyond those that a free slot is for.
        what: they are, for the message.
    """
    newcomers = sum(not accepted for accepted in waiting)
    if newcomers >= limit + max(0, slots - running):
        raise Overloaded(
            f"{running} {what} are in work and {newcomers} are waiting, "
            f"which is the limit (waiting_limit {limit}); try again later"
        )
