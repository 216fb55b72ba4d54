"""Limits on sockets: how many are open, how long headers may take, how long a reader may stall."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from gsv_client.gateway.metrics import Metrics
from gsv_client.gateway.settings import Settings

LEAST_TAKEN = 16_384  # bytes that a reader must take in `stall_seconds`
BAD_HANDSHAKE = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"
    b"not a WebSocket handshake: allowed: GET without a body, up to 128 headers of 8 KiB\n"
)

logger = logging.getLogger("gsv_client.gateway")


def protocol_classes(
    settings: Settings, metrics: Metrics
) -> tuple[type[H11Protocol], type[WebSocketsSansIOProtocol]]:
    """uvicorn's protocols, HTTP and WebSocket, with bounds that uvicorn leaves to a proxy."""

    class Bounded(asyncio.Protocol):
        """Counts sockets, and cuts off who takes nothing."""

        transport: asyncio.Transport
        loop: asyncio.AbstractEventLoop
        client: tuple[str, int] | None
        _stalled: asyncio.TimerHandle | None = None  # for the caller to take what was sent
        _unsent = 0  # bytes, when that timer began

        def connection_made(self, transport: Any) -> None:
            # Whatever is left counts: below asyncio's own mark of 64 KiB nobody would be told that
            # a connection waits for its reader, also one that is to be closed.
            transport.set_write_buffer_limits(high=0)
            super().connection_made(transport)
            metrics.connections += 1

        def connection_lost(self, exc: Exception | None) -> None:
            metrics.connections -= 1
            self._stop_stalling()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._stalled is None:
                self._wait_for_reader()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._stop_stalling()

        def _stop_stalling(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None

        def _wait_for_reader(self) -> None:
            self._unsent = self.transport.get_write_buffer_size()
            self._stalled = self.loop.call_later(settings.stall_seconds, self._look_at_reader)

        def _look_at_reader(self) -> None:
            taken = self._unsent - self.transport.get_write_buffer_size()
            if taken >= LEAST_TAKEN:  # a whole answer is one write, and takes its time
                self._wait_for_reader()
                return
            logger.warning(
                "%s took %d bytes in %g s and was cut off",
                self._peer(), max(taken, 0), settings.stall_seconds,
            )  # fmt: skip
            self.transport.abort()

        def _peer(self) -> str:
            return self.client[0] if self.client else "somebody"

    class BoundedSocket(Bounded, WebSocketsSansIOProtocol):
        pass

    class BoundedHTTP(Bounded, H11Protocol):
        _waiting: asyncio.TimerHandle | None = None  # for a request's line and headers

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if metrics.connections > settings.connections:
                self._refuse(f"{settings.connections} sockets are open")
                return
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            if self._waiting is None and (before is None or before.response_complete):
                self._wait()
            super().data_received(data)
            if self.cycle is not before or self.transport.get_protocol() is not self:
                self._stop_waiting()

        def handle_websocket_upgrade(self, event: Any) -> None:
            # From here on the socket is the other protocol's, which has counted it too.
            super().handle_websocket_upgrade(event)
            self._stop_waiting()
            self._stop_stalling()
            metrics.connections -= 1
            # What h11 takes and the WebSocket's parser doesn't (a long header, a body) would get no
            # answer, and nothing would end it.
            taken_over: Any = self.transport.get_protocol()
            if not taken_over.handshake_initiated and not self.transport.is_closing():
                self.transport.write(BAD_HANDSHAKE)
                self.transport.close()

        def _wait(self) -> None:
            def expire() -> None:
                self._refuse(f"no whole request after {settings.head_seconds:g} s")

            self._waiting = self.loop.call_later(settings.head_seconds, expire)

        def _stop_waiting(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _refuse(self, why: str) -> None:
            self._stop_waiting()
            metrics.refuse_connection()
            logger.warning("a connection from %s was closed: %s", self._peer(), why)
            self.transport.abort()

    return BoundedHTTP, BoundedSocket
