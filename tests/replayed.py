"""Captured calls on a CPU: what is captured is kept and called again, as a GPU replays a graph."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from gsv.engine.cuda_graphs import CapturedCalls


class ReplayedCalls(CapturedCalls):
    """Stands in for :class:`CapturedCalls` where there is no GPU."""

    def capture(self, key: Hashable, call: Callable[[], object]) -> None:
        """Call, and keep the call."""
        call()
        self._graphs[key] = _Graph(call)


class _Graph:
    def __init__(self, call: Callable[[], object]) -> None:
        self.replay = call
