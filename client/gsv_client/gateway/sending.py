"""Answers that are sent while they are made, and end when the caller leaves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gsv_client.gateway.problems import KNOWN, Problem
from gsv_client.gateway.record import Record, record_of

# Headers of every answer with audio. The second tells nginx to pass chunks on as they come.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Shape = Callable[[Problem], Response]  # a door's way to tell of an error


class StreamedAnswer(Response):
    """Pieces as they come. An error before the first one has a status of its own; after it the
    connection breaks off, so that nobody takes a part for the whole.

    Args:
        pieces: closed in every case, which cancels the work behind it.
        media_type: of the answer.
        shape: how an error is told.
    """

    def __init__(
        self,
        pieces: AsyncGenerator[bytes, None],
        media_type: str,
        shape: Shape,
    ) -> None:
        self._pieces = pieces
        self._shape = shape
        self.status_code = 200
        self.background = None
        self.body = b""
        self.media_type = media_type
        self.init_headers({**HEADERS, "Content-Type": media_type})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_left(self._send(scope, receive, send), receive, record_of(scope))

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        async with contextlib.aclosing(self._pieces):
            try:
                first = await anext(self._pieces, b"")
            except KNOWN as error:
                problem = Problem.of(error)
                record.problem = problem.in_full
                await self._shape(problem)(scope, receive, send)
                return
            self.headers["Server-Timing"] = f"first-audio;dur={1000 * record.elapsed():.0f}"
            headers = self.raw_headers
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await _body(send, first)
            try:
                async for piece in self._pieces:
                    await _body(send, piece)
            except KNOWN as error:
                # The status is out; without a last piece the connection is cut.
                record.problem = f"broke off: {error}"
                raise BrokeOff from error
            await send({"type": "http.response.body", "body": b"", "more_body": False})


class WholeAnswer(Response):
    """One piece with its length, made while the caller stays.

    Args:
        make: the body.
        media_type: of the answer.
        shape: how an error is told.
    """

    def __init__(
        self,
        make: Callable[[], Awaitable[bytes]],
        media_type: str,
        shape: Shape,
    ) -> None:
        self._make = make
        self._shape = shape
        self._type = media_type
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await until_left(self._send(scope, receive, send), receive, record_of(scope))

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        try:
            body = await self._make()
        except KNOWN as error:
            problem = Problem.of(error)
            record.problem = problem.in_full
            answer = self._shape(problem)
        else:
            timing = {"Server-Timing": f"answer;dur={1000 * record.elapsed():.0f}"}
            headers = {**HEADERS, **timing, "Content-Type": self._type}
            answer = Response(body, 200, headers)
        await answer(scope, receive, send)


class BrokeOff(Exception):
    """An answer that has begun can't be completed; the guard closes the connection."""


async def until_left(work: Coroutine[Any, Any, None], receive: Receive, record: Record) -> None:
    """Do the work, unless the caller leaves first: then cancel it and wait until it has ended."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            record.left = True
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working
            return
        await working
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Ends when the caller is gone; the body has been read by now."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(send: Send, data: bytes) -> None:
    if data:
        await send({"type": "http.response.body", "body": data, "more_body": True})
