"""Windows over a long sequence for layers that see a limited distance: exact, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """Frames ``start`` to ``start + size`` are computed, ``first`` to ``last`` of them are kept."""

    start: int
    size: int
    first: int
    last: int


def windows(frames: int, context: int, limit: int, multiple: int = 1) -> list[Window]:
    """Cover ``frames`` with the fewest windows of one size.

    A window's ends are the sequence's own or lie ``context`` frames away from what is kept.

    Args:
        frames: of the sequence.
        context: distance that the layers see on each side.
        limit: largest size, above twice the context.
        multiple: the size is a multiple of it; a sequence too short for that is one window of its
            own.
    """
    if limit <= 2 * context:
        raise ValueError(f"windows of {limit} frames: must be above twice the context, {context}")
    inner = frames - 2 * context
    size = frames
    for count in range(1, max(inner, 0) + 1):
        rounded = -(-(-(-inner // count) + 2 * context) // multiple) * multiple
        if rounded <= min(frames, limit):
            size = rounded
            break
    cover: list[Window] = []
    kept = 0
    while kept < frames:
        start = max(0, min(kept - context, frames - size))
        last = frames if start + size >= frames else start + size - context
        cover.append(Window(start, size, kept, last))
        kept = last
    return cover
