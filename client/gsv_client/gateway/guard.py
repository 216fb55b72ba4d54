"""What every request passes before a door sees it: origin, key, number, size, pace; and the log."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections import Counter
from collections.abc import Callable
from urllib.parse import SplitResult, parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gsv_client.gateway.keys import KeyRing
from gsv_client.gateway.metrics import Metrics
from gsv_client.gateway.problems import Problem
from gsv_client.gateway.record import ANYBODY, Record
from gsv_client.gateway.sending import BrokeOff
from gsv_client.gateway.settings import Settings, is_loopback

logger = logging.getLogger("gsv_client.gateway")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# W3C Trace Context: version – trace – parent – flags; others are to be ignored. The flags' last bit
# says that the caller's span is recorded. Triton 2.51 does not look at it, so the gateway does.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][13579bdf]")
_TOO_BIG, _TOO_SLOW = 413, 408
_CLOSE_POLICY = 1008  # WebSocket close code of a refused caller
# A refused caller who is still sending its body would get a reset instead of the answer. So the
# rest of the body is read and thrown away first, within these times.
_REST_SECONDS, _REST_PAUSE_SECONDS = 5.0, 0.5


class Guard:
    """ASGI middleware.

    Args:
        app: the doors.
        settings: limits.
        metrics: where ended requests are counted.
        needs_key: whether a path is for key holders only.
        is_counted: whether a request of that path is one of those that may run at once.
        route_of: the name under which a path is counted.
        shape_of: how a path's clients expect an error.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        needs_key: Callable[[str], bool],
        is_counted: Callable[[str], bool],
        route_of: Callable[[str], str],
        shape_of: Callable[[str], Callable[[Problem], Response]],
    ) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = KeyRing(settings.keys) if settings.keys else None
        self._needs_key, self._is_counted = needs_key, is_counted
        self._route_of, self._shape_of = route_of, shape_of
        self._running: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        record = _record(scope)
        scope.setdefault("state", {})["record"] = record
        self._metrics.in_flight += 1
        try:
            await self._admit(scope, record, receive, _noting(send, record))
        except BrokeOff:
            pass  # in the record; uvicorn cuts a connection whose answer is incomplete
        finally:
            self._metrics.in_flight -= 1
            self._metrics.count(self._route_of(record.path), record)
            logger.info("%s", record.line())

    async def _admit(self, scope: Scope, record: Record, receive: Receive, send: Send) -> None:
        try:
            self._check_host(scope)
            self._check_origin(scope)
            if self._needs_key(record.path):
                record.caller = self._caller(scope)
            if self._is_counted(record.path):
                await self._counted(scope, record, receive, send)
                return
        except Problem as problem:
            await self._refuse(problem, scope, record, receive, send)
            return
        await self._app(scope, self._bounded(scope, receive), send)

    async def _counted(self, scope: Scope, record: Record, receive: Receive, send: Send) -> None:
        """Count the request among those that run at once; Problem when there are too many."""
        caller = record.caller
        if sum(self._running.values()) >= self._settings.concurrency:
            raise Problem(
                503, "too many requests at once; try again later", "server_error", "overloaded",
                retry_after=1,
            )  # fmt: skip
        if caller != ANYBODY and self._running[caller] >= self._settings.per_key:
            raise Problem(
                429,
                f"this key has {self._running[caller]} requests under way; allowed: "
                f"{self._settings.per_key}; wait for one of them",
                "rate_limit_error", "rate_limit_exceeded", retry_after=1,
            )  # fmt: skip
        self._running[caller] += 1
        try:
            await self._app(scope, self._bounded(scope, receive), send)
        finally:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]

    def _caller(self, scope: Scope) -> str:
        """The name of the key that came along; Problem when there is none that counts."""
        if self._keys is None:
            return ANYBODY
        headers = Headers(scope=scope)
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            # Clients of api_v2 and browsers' WebSockets can't send headers.
            query = parse_qs(scope["query_string"].decode("latin-1"))
            given = headers.get("x-api-key") or query.get("api_key", [""])[0]
        name = self._keys.name_of(given.strip()) if given else None
        if name is None:
            told = "is not known here" if given else "is missing"
            raise Problem(
                401,
                f"the API key {told}; send one of this server's as `Authorization: Bearer KEY`",
                code="invalid_api_key",
            )
        return name

    def _check_host(self, scope: Scope) -> None:
        """Without a key, on loopback: a page must not come here under a name that it lets point
        to this machine."""
        host = Headers(scope=scope).get("host", "")
        if not self._settings.local or self._keys is not None:
            return
        known = {urlsplit(origin).netloc for origin in self._settings.cors}
        if not is_loopback(_address(f"//{host}").hostname or "") and host not in known:
            raise Problem(
                403,
                f"this server answers on this machine only, not as {host[:200]!r}; its operator "
                "can allow a name (`gsv gateway --cors http://NAME`) or ask for keys (`--keys`)",
                code="host_not_allowed",
            )

    def _check_origin(self, scope: Scope) -> None:
        """A page of another site must not reach this server through its reader's browser."""
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = self._settings.cors
        if origin is None or "*" in allowed or origin in allowed:
            return
        place = _address(origin).netloc
        if not place or place != headers.get("host"):
            raise Problem(
                403,
                f"pages of {origin[:200]} may not call this server; its operator can allow it: "
                "`gsv gateway --cors ORIGIN`",
                code="origin_not_allowed",
            )

    async def _refuse(
        self, problem: Problem, scope: Scope, record: Record, receive: Receive, send: Send
    ) -> None:
        record.problem = problem.message
        if scope["type"] == "websocket":
            record.status = problem.status
            if "websocket.http.response" in scope.get("extensions", {}):
                # Otherwise the server makes 403 of it, without a word.
                await problem.response()(scope, receive, send)
                return
            await send(
                {"type": "websocket.close", "code": _CLOSE_POLICY, "reason": problem.message[:100]}
            )
            return
        response = self._shape_of(record.path)(problem)
        await _throw_away(scope, receive, self._settings.most_body)
        # There may be more of the body: the connection can't be used again.
        response.headers["Connection"] = "close"
        await response(scope, receive, send)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """`receive`, with a limit to the body's size and to the time that it takes."""
        if scope["type"] == "websocket":
            return receive
        most, seconds = self._settings.most_body, self._settings.body_seconds
        declared = Headers(scope=scope).get("content-length", "")
        got, complete = 0, False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds

        async def bounded() -> Message:
            nonlocal got, complete
            if complete:
                return await receive()
            if declared.isdigit() and int(declared) > most:
                await _throw_away(scope, receive, 4 * most)
                raise _too_big(most)
            try:
                message = await asyncio.wait_for(receive(), max(deadline - loop.time(), 0.001))
            except asyncio.TimeoutError:  # noqa: UP041
                raise HTTPException(
                    _TOO_SLOW, f"the request's body was not there after {seconds:g} s"
                ) from None
            got += len(message.get("body", b""))
            if got > most:
                if message.get("more_body", False):
                    await _throw_away(scope, receive, 4 * most)
                raise _too_big(most)
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return bounded


async def _throw_away(scope: Scope, receive: Receive, most: int) -> None:
    """Read what is on its way of a body that nobody wants, up to so many bytes."""
    headers = Headers(scope=scope)
    if "expect" in headers or not ({"content-length", "transfer-encoding"} & set(headers)):
        return  # the caller waits for `100 Continue` before it sends, or there is no body
    loop = asyncio.get_running_loop()
    deadline, got = loop.time() + _REST_SECONDS, 0
    while got < most and loop.time() < deadline:
        try:
            message = await asyncio.wait_for(receive(), _REST_PAUSE_SECONDS)
        except asyncio.TimeoutError:  # noqa: UP041
            return
        got += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            return


def _address(text: str) -> SplitResult:
    """The parts of an address; all empty when it is none."""
    try:
        return urlsplit(text)
    except ValueError:
        return urlsplit("")


def _noting(send: Send, record: Record) -> Send:
    """`send`, with the status noted and the request's id added."""

    async def noted(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            record.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = record.request_id
            if message["status"] in (_TOO_BIG, _TOO_SLOW):
                headers["Connection"] = "close"
        elif message["type"] == "websocket.accept":
            record.status = 101
        elif message["type"] == "websocket.close" and not record.status:
            record.status = 403  # what the server makes of a socket that was never accepted
        await send(message)

    return noted


def _record(scope: Scope) -> Record:
    given = Headers(scope=scope).get("x-request-id", "")
    request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    method = scope.get("method", "WS")
    # Bounded and printable: it goes to the log.
    path = re.sub(r"[^!-~]", "?", scope["path"])[:200]
    trace = Headers(scope=scope).get("traceparent", "").strip()
    return Record(request_id, method, path, trace=trace if _TRACEPARENT.fullmatch(trace) else "")


def _too_big(most: int) -> HTTPException:
    return HTTPException(
        _TOO_BIG, f"the request's body is too large; allowed: {most} bytes ({most >> 20} MiB)"
    )
