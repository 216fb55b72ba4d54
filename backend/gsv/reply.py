"""The way back to a caller."""

from __future__ import annotations

from typing import Any, Protocol


class Reply(Protocol):
    """The way back to one caller of an :class:`AsyncStage`."""

    def send(self, result: Any, *, final: bool) -> None:
        """One response; the ``final`` one ends the answer."""
        ...

    def finish(self) -> None:
        """End an answer whose last response was not sent as the final one."""
        ...

    def fail(self, error: BaseException) -> None:
        """End the answer with an error; without effect on one that has ended."""
        ...


class CancellableReply(Reply, Protocol):
    """A reply that can be asked whether anybody waits for it."""

    def is_cancelled(self) -> bool:
        """Whether the caller has gone, also after this answer, before it asks for the next."""
        ...

    def is_watched(self) -> bool:
        """Whether the caller's leaving is also seen after this answer."""
        ...
