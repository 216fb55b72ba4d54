"""A value that is asked for once and kept for a while, for all who want it meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class CachedValue(Generic[Value]):
    """The last value of a question, at most `seconds` old.

    Callers who ask at the same time share one question. Its error goes to all of them and is not
    kept.
    """

    def __init__(self, seconds: float, ask: Callable[[], Awaitable[Value]]) -> None:
        self._seconds = seconds
        self._ask = ask
        self._asking: asyncio.Future[Value] | None = None
        self._until = 0.0

    async def get(self) -> Value:
        """The value."""
        asking = self._asking
        if asking is None or (asking.done() and time.monotonic() >= self._until):
            self._asking = asking = asyncio.ensure_future(self._keep())
        return await asyncio.shield(asking)

    def forget(self) -> None:
        """Ask anew next time."""
        self._asking = None

    async def _keep(self) -> Value:
        try:
            value = await self._ask()
        except BaseException:  # cancelled too: the next caller asks anew
            self._until = 0.0
            raise
        self._until = time.monotonic() + self._seconds
        return value
