"""HTTP: `infer` with binary tensors, and `generate_stream` as server-sent events.

urllib3 rather than tritonclient.http: that one is built on gevent, forbids use from several
threads, and can't read a stream.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import urllib3

from gsv_client.errors import (
    Cancelled,
    GsvClientError,
    ServerError,
    ServerUnavailable,
    from_generate,
    from_status,
    redirected,
)
from gsv_client.transport import wire
from gsv_client.transport.base import (
    Endpoint,
    ModelIO,
    ModelState,
    Patience,
    Request,
    Tensors,
    checked_headers,
)
from gsv_client.transport.connection import Connection, Connections

EVENTS = "text/event-stream"
READ_BYTES = 65_536
JSON_LENGTH = "Inference-Header-Content-Length"


class HTTPTransport:
    """Speaks KServe v2 over HTTP/1.1 with kept connections."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str] | None = None) -> None:
        self.address = str(endpoint)
        self._path = endpoint.path
        self._headers = checked_headers(headers)
        self._connections = Connections(endpoint)

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
        path = f"{self._path}/v2/models/{_name(request.model)}/generate_stream"
        headers = {**self._headers, **request.headers, "Content-Type": "application/json"}
        body = wire.generate_body(request)
        connection = self._connections.new()
        return HTTPStream(connection, self.address, path, headers, body, Patience(request))

    def is_live(self, timeout: float) -> bool:
        return self._is_well("/v2/health/live", timeout)

    def is_ready(self, timeout: float) -> bool:
        return self._is_well("/v2/health/ready", timeout)

    def server_version(self, timeout: float) -> str:
        return str(wire.parse_json(self._call("GET", "/v2", timeout)[0]).get("version", ""))

    def models(self, timeout: float) -> list[ModelState]:
        body, _ = self._call("POST", "/v2/repository/index", timeout)
        listed = wire.parse_json(b'{"models":' + body + b"}")["models"]
        with wire.promised():
            return [
                ModelState(m["name"], m.get("version", ""), m.get("state", ""), m.get("reason", ""))
                for m in listed
            ]

    def model_io(self, model: str, timeout: float) -> ModelIO:
        values = wire.parse_json(self._call("GET", f"/v2/models/{_name(model)}", timeout)[0])
        with wire.promised():
            return ModelIO(
                {t["name"]: t["datatype"] for t in values.get("inputs", ())},
                {t["name"]: t["datatype"] for t in values.get("outputs", ())},
            )

    def close(self) -> None:
        self._connections.close()

    def _is_well(self, path: str, timeout: float) -> bool:
        response = self._request("GET", path, timeout)
        # 400 is how Triton says no.
        if response.status not in (200, 400):
            raise self._refused("GET", path, response)
        return response.status == 200

    def _call(
        self,
        method: str,
        path: str,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[bytes, int | None]:
        """Body of a good answer, and the length of its JSON part if a binary one follows."""
        response = self._request(method, path, timeout, body, headers)
        if response.status != 200:
            raise self._refused(method, path, response)
        length = response.headers.get(JSON_LENGTH)
        if length is not None and not length.isdecimal():
            raise ServerError(f"{self.address}: answered with {JSON_LENGTH}: {length!r}")
        return response.data, None if length is None else int(length)

    def _refused(
        self, method: str, path: str, response: urllib3.BaseHTTPResponse
    ) -> GsvClientError:
        if response.status == 405:
            return ServerUnavailable(
                f"{self.address}: does not take {method} {path}: this looks like the port for "
                "metrics; give the server's HTTP port as url (--url)"
            )
        return _refusal(response, self.address)

    def _request(
        self,
        method: str,
        path: str,
        timeout: float,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        connection = self._connections.take()
        try:
            with connection.within(timeout):
                response = connection.ask(
                    method, self._path + path, body, {**self._headers, **(headers or {})}
                )
        except BaseException:  # Ctrl-C too: what is left of the answer must not meet another call
            connection.close()
            raise
        self._connections.keep(connection)
        return response


class HTTPStream:
    """One `generate_stream` request on a connection of its own."""

    def __init__(
        self,
        connection: Connection,
        address: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes,
        patience: Patience,
    ) -> None:
        self._connection = connection
        self._address = address
        self._path = path
        self._headers = headers
        self._body = body
        self._patience = patience
        self._events: Iterator[bytes] | None = None
        self._reading = threading.Lock()
        self._closed = False

    def __iter__(self) -> HTTPStream:
        return self

    def __next__(self) -> Tensors:
        with self._reading:
            try:
                with self._connection.within(self._patience.seconds()):
                    return self._read()
            except BaseException as error:  # the end, a fault, or Ctrl-C: nothing more comes
                self._connection.close()
                if self._closed and not isinstance(error, (StopIteration, KeyboardInterrupt)):
                    raise Cancelled(f"{self._address}: the stream was closed") from error
                raise

    def close(self) -> None:
        """Hang up; the server sees it, and a thread that is reading gets Cancelled."""
        self._closed = True
        self._connection.hang_up()
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
        self._patience.take(answer)
        return answer

    def _open(self) -> Iterator[bytes]:
        response = self._connection.ask("POST", self._path, self._body, self._headers, whole=False)
        if response.status != 200:
            raise _refusal(response, self._address, generate=True)
        # Without it a proxy's page, or headers that broke off, would look like an empty stream.
        if not response.headers.get("Content-Type", "").startswith(EVENTS):
            raise ServerError(f"{self._address}: its answer is no stream of events; is it Triton?")
        return response.stream(READ_BYTES)


def _refusal(
    response: urllib3.BaseHTTPResponse, address: str, *, generate: bool = False
) -> GsvClientError:
    """The error that an answer other than 200 stands for."""
    if 300 <= response.status < 400:
        return redirected(response.status, response.headers.get("Location", ""), address)
    message = wire.error_message(response.data)
    if generate:
        error = from_generate(response.status, message, address)
    else:
        error = from_status(response.status, message, address)
    if isinstance(error, ServerUnavailable) and error.wait is None:
        error.wait = _retry_after(response.headers.get("Retry-After"))
    return error


def _retry_after(header: str | None) -> float | None:
    """Seconds to wait, which a proxy tells in seconds or as a date; None if it tells nothing."""
    try:
        return urllib3.Retry().parse_retry_after(header) if header else None
    except urllib3.exceptions.InvalidHeader:
        return None


def _name(model: str) -> str:
    return quote(model, safe="")
