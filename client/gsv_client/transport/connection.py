"""A connection to an HTTP server on which nothing outlasts its time, and those kept for later."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from gsv_client.errors import http_errors, timed_out
from gsv_client.transport.base import Endpoint

CONNECT_SECONDS = 10.0  # at most, whatever time there is for the answer
CONNECTIONS_KEPT = 64
SHORTEST = 0.001  # a timeout of 0 would be no waiting at all


class Connection:
    """One request after another to one server."""

    def __init__(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> None:
        self._address = str(endpoint)
        self._http: HTTPConnection = (
            _Secure(endpoint.host, endpoint.port, ssl_context=context)
            if context is not None
            else _Plain(endpoint.host, endpoint.port)
        )
        self._socket: socket.socket | None = None  # also while http.client has let go of it
        self._hung_up = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent: neither side has closed it."""
        return self._http.is_connected

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """End the block in time, and make this package's errors of what goes wrong in it.

        A socket's own timeout is for each read: a byte now and then would keep a call alive.
        """
        self._http.timeout = seconds
        if self._socket is not None:
            self._socket.settimeout(seconds)
        watch = _Watch(seconds, self.hang_up)
        try:
            with http_errors(self._address, seconds), watch:
                yield
        except Exception as error:  # the end of a stream too
            # Who does not even take the connection is reported as such.
            if watch.expired and self._socket is not None:
                raise timed_out(self._address, seconds) from error
            raise
        if watch.expired:  # http.client takes headers that break off for all of them
            raise timed_out(self._address, seconds)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        whole: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """Send a request; its answer, of which nothing but the headers is read if not `whole`."""
        if self._socket is None:
            self._connect()
        # Who refuses a large request may answer and close before it has read all of it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._http.request(method, path, body, headers, preload_content=whole)
        return self._http.getresponse()

    def hang_up(self) -> None:
        """Wake who reads or sends; from any thread."""
        self._hung_up = True
        if self._socket is not None:
            # Closing does not wake a thread that reads, shutting down does.
            with contextlib.suppress(OSError):  # the other side may have been faster
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Only by the thread that uses it."""
        self._http.close()

    def _connect(self) -> None:
        seconds = cast("float", self._http.timeout)
        self._http.timeout = min(seconds, CONNECT_SECONDS)
        try:
            self._http.connect()
        finally:
            self._http.timeout = seconds
        self._socket = self._http.sock
        if self._hung_up:  # before there was a socket to shut down
            raise ConnectionAbortedError("hung up while it was connecting")
        # urllib3 would give a large body no more time than it took to connect.
        self._socket.settimeout(seconds)


class Connections:
    """Connections of this process to one server, kept for another request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._context = ssl.create_default_context() if endpoint.secure else None
        self._kept: deque[Connection] = deque()
        self._process = os.getpid()

    def new(self) -> Connection:
        """A connection that nobody else uses."""
        return Connection(self._endpoint, self._context)

    def take(self) -> Connection:
        """One that was kept, or a new one."""
        if self._process != os.getpid():
            # One that has forked off would hear the other's answers.
            self._kept, self._process = deque(), os.getpid()
        with contextlib.suppress(IndexError):
            while True:
                kept = self._kept.pop()
                if kept.usable:
                    return kept
                kept.close()
        return self.new()

    def keep(self, connection: Connection) -> None:
        """Take back one whose answer has been read."""
        if connection.usable and len(self._kept) < CONNECTIONS_KEPT:
            self._kept.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close those that nobody uses."""
        with contextlib.suppress(IndexError):
            while True:
                self._kept.pop().close()


class _Watch:
    """Calls `expire` when a block lasts too long, never after its end."""

    def __init__(self, seconds: float, expire: Callable[[], None]) -> None:
        self.expired = False
        self._expire = expire
        self._lock = threading.Lock()  # guards expired and _over
        self._over = False
        self._timer = threading.Timer(seconds, self._run)
        self._timer.daemon = True

    def __enter__(self) -> _Watch:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True

    def _run(self) -> None:
        with self._lock:
            if not self._over:
                self.expired = True
                self._expire()


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _reach(self)


class _Secure(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _reach(self)


def _reach(connection: HTTPConnection) -> socket.socket:
    """Connect to the first address that answers; urllib3 would give each of them the whole time."""
    end = time.monotonic() + cast("float", connection.timeout)
    try:
        found = socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    failed: OSError = OSError("the name has no address")
    for index, (family, kind, protocol, _, address) in enumerate(found):
        share = (end - time.monotonic()) / (len(found) - index)
        made = socket.socket(family, kind, protocol)
        try:
            for option in connection.socket_options or ():
                made.setsockopt(*option)
            made.settimeout(max(share, SHORTEST))
            made.connect(address)
        except OSError as error:
            made.close()
            failed = error
        else:
            return made
    if isinstance(failed, TimeoutError):
        raise ConnectTimeoutError(connection, "it does not take the connection") from failed
    raise NewConnectionError(connection, f"no new connection: {failed}") from failed
