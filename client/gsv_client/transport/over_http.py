"""HTTP: `infer` with binary tensors, and `generate_stream` as server-sent events.

urllib3 rather than tritonclient.http: that one is built on gevent, forbids use from several
threads, and can't read a stream.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import cast
from urllib.parse import quote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from gsv_client.errors import (
    Cancelled,
    ServerUnavailable,
    from_generate,
    from_status,
    http_errors,
)
from gsv_client.transport import wire
from gsv_client.transport.base import Endpoint, ModelIO, ModelState, Request, Tensors

CONNECT_SECONDS = 10.0
CONNECTIONS_KEPT = 64
READ_BYTES = 65_536
JSON_LENGTH = "Inference-Header-Content-Length"


class HTTPTransport:
    """Speaks KServe v2 over HTTP/1.1 with kept connections."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str] | None = None) -> None:
        self.address = str(endpoint)
        self._endpoint = endpoint
        self._headers = dict(headers or {})
        self._kept = self._new_pool()
        self._process = os.getpid()

    def _new_pool(self) -> urllib3.HTTPConnectionPool:
        pool = urllib3.HTTPSConnectionPool if self._endpoint.secure else urllib3.HTTPConnectionPool
        made = pool(
            self._endpoint.host, self._endpoint.port,
            maxsize=CONNECTIONS_KEPT, retries=False, block=False,
        )  # fmt: skip
        made.ConnectionCls = _SecureConnection if self._endpoint.secure else _PlainConnection
        return made

    @property
    def _pool(self) -> urllib3.HTTPConnectionPool:
        """This process's: one that has forked off would hear the other's answers."""
        if self._process != os.getpid():
            self._kept, self._process = self._new_pool(), os.getpid()
        return self._kept

    def infer(self, request: Request) -> Tensors:
        body, json_length = wire.infer_body(request)
        headers = {
            **request.headers,
            "Content-Type": "application/octet-stream",
            JSON_LENGTH: str(json_length),
        }
        answer, length = self._call(
            "POST", f"/v2/models/{_name(request.model)}/infer", request.patience(), body, headers
        )
        return wire.infer_answer(answer, length)

    def stream(self, request: Request) -> HTTPStream:
        return HTTPStream(self._endpoint, self._headers, request)

    def is_live(self, timeout: float) -> bool:
        return self._status("/v2/health/live", timeout) == 200

    def is_ready(self, timeout: float) -> bool:
        return self._status("/v2/health/ready", timeout) == 200

    def server_version(self, timeout: float) -> str:
        return str(wire.parse_json(self._call("GET", "/v2", timeout)[0]).get("version", ""))

    def models(self, timeout: float) -> list[ModelState]:
        body, _ = self._call("POST", "/v2/repository/index", timeout)
        listed = wire.parse_json(b'{"models":' + body + b"}")["models"]
        return [
            ModelState(m["name"], m.get("version", ""), m.get("state", ""), m.get("reason", ""))
            for m in listed
        ]

    def model_io(self, model: str, timeout: float) -> ModelIO:
        values = wire.parse_json(self._call("GET", f"/v2/models/{_name(model)}", timeout)[0])
        return ModelIO(
            {t["name"]: t["datatype"] for t in values.get("inputs", ())},
            {t["name"]: t["datatype"] for t in values.get("outputs", ())},
        )

    def close(self) -> None:
        self._pool.close()

    def _status(self, path: str, timeout: float) -> int:
        with http_errors(self.address, timeout):
            return self._request("GET", path, timeout).status

    def _call(
        self,
        method: str,
        path: str,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, int | None]:
        """Body of a good answer, and the length of its JSON part if a binary one follows."""
        with http_errors(self.address, timeout):
            response = self._request(method, path, timeout, body, headers)
        if response.status == 405:
            raise ServerUnavailable(
                f"{self.address}: does not take {method} {path}: this looks like the port for "
                "metrics; give the server's HTTP port as url (--url)"
            )
        if response.status != 200:
            raise from_status(response.status, wire.error_message(response.data), self.address)
        length = response.headers.get(JSON_LENGTH)
        return response.data, None if length is None else int(length)

    def _request(
        self,
        method: str,
        path: str,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        return self._pool.urlopen(
            method,
            self._endpoint.path + path,
            body=body,
            headers={**self._headers, **(headers or {})},
            timeout=urllib3.Timeout(connect=timeout, read=timeout),
            redirect=False,
        )


class _PlainConnection(HTTPConnection):
    """Gets its time to connect from here: urllib3 would give a large body no more than that."""

    def connect(self) -> None:
        _connect(self, super().connect)


class _SecureConnection(HTTPSConnection):
    """As a plain one."""

    def connect(self) -> None:
        _connect(self, super().connect)


def _connect(connection: HTTPConnection, connect: Callable[[], None]) -> None:
    patience = cast("float", connection.timeout)
    connection.timeout = min(patience, CONNECT_SECONDS)
    try:
        connect()
    finally:
        connection.timeout = patience
    connection.sock.settimeout(patience)


class HTTPStream:
    """One `generate_stream` request on a connection of its own."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str], request: Request) -> None:
        self._address = str(endpoint)
        self._request = request
        self._path = f"{endpoint.path}/v2/models/{_name(request.model)}/generate_stream"
        self._headers = {**headers, **request.headers, "Content-Type": "application/json"}
        self._connection = _connection(endpoint, request.patience())
        self._socket: socket.socket | None = None
        self._events: Iterator[bytes] | None = None
        self._reading = threading.Lock()
        self._begun = False
        self._closed = False

    def __iter__(self) -> HTTPStream:
        return self

    def __next__(self) -> Tensors:
        with self._reading:
            try:
                with http_errors(self._address, self._request.patience(begun=self._begun)):
                    return self._read()
            except BaseException as error:  # the end, a fault, or Ctrl-C: nothing more comes
                self._connection.close()
                if self._closed and not isinstance(error, (StopIteration, KeyboardInterrupt)):
                    raise Cancelled(f"{self._address}: the stream was closed") from error
                raise

    def close(self) -> None:
        """Hang up; the server sees it, and a thread that is reading gets Cancelled."""
        self._closed = True
        if self._socket is not None:
            # Closing does not wake a thread that reads, shutting down does.
            with contextlib.suppress(OSError):  # the other side may have been faster
                self._socket.shutdown(socket.SHUT_RDWR)
        # A reading thread closes the connection itself, when it has woken.
        if self._reading.acquire(blocking=False):
            self._connection.close()
            self._reading.release()

    def _read(self) -> Tensors:
        if self._closed:
            raise Cancelled(f"{self._address}: the stream was closed")
        if self._events is None:
            self._events = wire.events(self._open())
        answer = wire.generate_answer(next(self._events))
        if not self._begun and self._socket is not None:
            self._begun = True
            self._socket.settimeout(self._request.timeout)
        return answer

    def _open(self) -> Iterator[bytes]:
        self._connection.connect()
        self._socket = self._connection.sock
        if self._closed or self._socket is None:
            raise Cancelled(f"{self._address}: the stream was closed")
        # The timeout is per read, also before the first audio. It is set on the connection, because
        # urllib3 sets the socket's again for each request and response.
        self._connection.timeout = self._request.patience()
        body = wire.generate_body(self._request)
        self._connection.request("POST", self._path, body, self._headers, preload_content=False)
        response = self._connection.getresponse()
        if response.status != 200:
            message = wire.error_message(response.read())
            raise from_generate(response.status, message, self._address)
        return response.stream(READ_BYTES)


def _connection(endpoint: Endpoint, timeout: float) -> HTTPConnection:
    connect = min(timeout, CONNECT_SECONDS)
    if not endpoint.secure:
        return HTTPConnection(endpoint.host, endpoint.port, timeout=connect)
    context = ssl.create_default_context()
    return HTTPSConnection(endpoint.host, endpoint.port, timeout=connect, ssl_context=context)


def _name(model: str) -> str:
    return quote(model, safe="")
