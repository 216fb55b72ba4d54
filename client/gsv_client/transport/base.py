"""The interface between client and transport, and the address of a server."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from numpy.typing import NDArray

from gsv_client.errors import InvalidRequest

Tensors = dict[str, NDArray[Any]]

BALANCE = "balance=round_robin"  # in an address
SHORTEST_WAIT = 0.001  # seconds
DEFAULT_PORTS = {"http": 8000, "grpc": 8001}
_PROTOCOL_OF_SCHEME = {"http": "http", "https": "http", "grpc": "grpc", "grpcs": "grpc"}
_IN_A_PATH = "/%:@!$&'()*+,;=~"  # RFC 3986, beside letters, digits and -._
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, a token
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Address of a server.

    >>> Endpoint.parse("localhost:8000")
    Endpoint(protocol='http', host='localhost', port=8000, path='', secure=False, balance=False)
    >>> str(Endpoint.parse("grpcs://speech.example.org"))
    'grpcs://speech.example.org:8001'

    Attributes:
        balance: whether calls are spread over all addresses that the host's name has.
    """

    protocol: str
    host: str
    port: int
    path: str = ""
    secure: bool = False
    balance: bool = False

    @classmethod
    def parse(cls, url: str | None, protocol: str | None = None) -> Endpoint:
        """Read `[http|https|grpc|grpcs://]host[:port][/path]`; None is the usual local port.

        An address of gRPC may end with `?balance=round_robin`.

        Raises:
            InvalidRequest: not such an address, or a protocol that contradicts its scheme.
        """
        text = url or "localhost"
        try:
            parts = urlsplit(text if "://" in text else f"{protocol or 'http'}://{text}")
        except ValueError as error:  # such as one bracket of an IPv6 address
            raise InvalidRequest.value("url", url, "[http|https|grpc|grpcs]://host:port") from error
        chosen = _PROTOCOL_OF_SCHEME.get(parts.scheme)
        if chosen is None:
            raise InvalidRequest.value("url", url, "[http|https|grpc|grpcs]://host:port")
        if protocol is not None and protocol != chosen:
            raise InvalidRequest.value(
                "protocol", protocol, f"http or grpc, and {chosen} with the address {text}"
            )
        try:
            port = DEFAULT_PORTS[chosen] if parts.port is None else parts.port
        except ValueError:
            port = 0
        if not port:
            raise InvalidRequest.value("url", url, "a port from 1 to 65535")
        if not parts.hostname or parts.fragment or parts.username:
            raise InvalidRequest.value("url", url, "scheme://host:port and nothing more")
        try:
            parts.hostname.encode("idna")
        except UnicodeError as error:
            raise InvalidRequest.value("url", url, "the name or address of a host") from error
        balance = parts.query == BALANCE and chosen == "grpc"
        if parts.query and not balance:
            raise InvalidRequest.value(
                "url", url, f"scheme://host:port; after that, with grpc or grpcs, ?{BALANCE}"
            )
        path, secure = quote(parts.path.rstrip("/"), _IN_A_PATH), parts.scheme.endswith("s")
        return cls(chosen, parts.hostname, port, path, secure, balance)

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        scheme = f"{self.protocol}{'s' if self.secure else ''}"
        query = f"?{BALANCE}" if self.balance else ""
        return f"{scheme}://{self.authority}{self.path}{query}"


@dataclasses.dataclass(frozen=True)
class Request:
    """One inference request.

    `timeout` is in seconds: to the whole answer, or in a stream to each next part of it;
    `first_timeout`, if given, to the answer, or to the first part of a stream that holds something.
    `declined` are outputs that the server need not make, for a protocol that asks for all of them.
    `headers` go with this request, beside those that go with every one.

    Raises:
        InvalidRequest: headers that can't be sent.
    """

    model: str
    inputs: Tensors
    outputs: tuple[str, ...]
    request_id: str = ""
    timeout: float = 60.0
    declined: tuple[str, ...] = ()
    first_timeout: float | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_headers(self.headers)

    def patience(self) -> float:
        """Seconds to wait for the answer."""
        return self.timeout if self.first_timeout is None else self.first_timeout


class Patience:
    """How long a stream of answers waits for the next one.

    >>> patience = Patience(Request("m", {}, (), timeout=10.0, first_timeout=2.0))
    >>> round(patience.seconds(), 2)
    2.0
    >>> import numpy as np
    >>> patience.take({"AUDIO": np.zeros((1, 480), np.float32)})
    >>> patience.seconds()
    10.0
    """

    def __init__(self, request: Request, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeout = request.timeout
        self._first = request.first_timeout
        self._clock = clock
        self._end: float | None = None  # of the time for the first answer

    def seconds(self) -> float:
        """For the next answer, from now on."""
        if self._first is None:
            return self._timeout
        if self._end is None:
            self._end = self._clock() + self._first
        return max(self._end - self._clock(), SHORTEST_WAIT)

    def take(self, answer: Tensors) -> None:
        """An answer has come. One that is empty only says that the server is at work."""
        if all(array.size for array in answer.values()):
            self._first = None


@dataclasses.dataclass(frozen=True)
class ModelState:
    """One line of the repository index; `state` is READY, LOADING, UNAVAILABLE … or empty."""

    name: str
    version: str
    state: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ModelIO:
    """Tensor names and datatypes of a model, as the server declares them."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class TensorStream(Protocol):
    """Answers of a decoupled model, in order. The request leaves with the first `next`."""

    def __iter__(self) -> TensorStream: ...

    def __next__(self) -> Tensors:
        """The next answer; raises this package's errors, Cancelled after `close`."""

    def close(self) -> None:
        """Cancel what is not finished. From any thread, any number of times; never waits."""


class Transport(Protocol):
    """What carries requests to a server and answers back. Safe to use from several threads."""

    address: str

    def infer(self, request: Request) -> Tensors:
        """The outputs of one request."""

    def stream(self, request: Request) -> TensorStream:
        """The answers of a decoupled model, as they come."""

    def is_live(self, timeout: float) -> bool:
        """Whether a server runs there; ServerUnavailable when nothing answers."""

    def is_ready(self, timeout: float) -> bool:
        """Whether the server is ready for requests."""

    def server_version(self, timeout: float) -> str:
        """Version of tritonserver."""

    def models(self, timeout: float) -> list[ModelState]:
        """Every model of the repository, with its state."""

    def model_io(self, model: str, timeout: float) -> ModelIO:
        """Tensors of a model; NotFound when there is none of that name."""

    def close(self) -> None:
        """Let go of the connections."""


class AsyncTensorStream(Protocol):
    """Answers of a decoupled model, in order. The request leaves with the first `anext`."""

    def __aiter__(self) -> AsyncTensorStream: ...

    async def __anext__(self) -> Tensors:
        """The next answer; raises this package's errors, Cancelled after `close`."""

    def close(self) -> None:
        """Cancel what is not finished. Any number of times; never waits."""


class AsyncTransport(Protocol):
    """What carries requests to a server on one event loop."""

    address: str

    async def infer(self, request: Request) -> Tensors:
        """The outputs of one request; cancelling the task cancels the request."""

    def stream(self, request: Request) -> AsyncTensorStream:
        """The answers of a decoupled model, as they come."""

    async def is_live(self, timeout: float) -> bool:
        """Whether a server runs there; ServerUnavailable when nothing answers."""

    async def is_ready(self, timeout: float) -> bool:
        """Whether the server is ready for requests."""

    async def is_model_ready(self, model: str, timeout: float) -> bool:
        """Whether this model is ready for requests."""

    async def server_version(self, timeout: float) -> str:
        """Version of tritonserver."""

    async def models(self, timeout: float) -> list[ModelState]:
        """Every model of the repository, with its state."""

    async def model_io(self, model: str, timeout: float) -> ModelIO:
        """Tensors of a model; NotFound when there is none of that name."""

    async def close(self) -> None:
        """Let go of the connections."""


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers, each of which HTTP and gRPC can carry.

    Raises:
        InvalidRequest: one of another form.
    """
    for name, value in (headers or {}).items():
        if not (isinstance(name, str) and _HEADER_NAME.fullmatch(name)):
            raise InvalidRequest.value("headers: name", name, "letters, digits and -")
        if not (isinstance(value, str) and _HEADER_VALUE.fullmatch(value)):
            # Not the value, which may be a secret.
            raise InvalidRequest(f"headers: {name}: allowed: a string of printable ASCII")
    return dict(headers or {})


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
