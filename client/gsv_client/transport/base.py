"""The interface between client and transport, and the address of a server."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from numpy.typing import NDArray

from gsv_client.errors import InvalidRequest

Tensors = dict[str, NDArray[Any]]

BALANCE = "balance=round_robin"  # in an address
DEFAULT_PORTS = {"http": 8000, "grpc": 8001}
_PROTOCOL_OF_SCHEME = {"http": "http", "https": "http", "grpc": "grpc", "grpcs": "grpc"}


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
        parts = urlsplit(text if "://" in text else f"{protocol or 'http'}://{text}")
        chosen = _PROTOCOL_OF_SCHEME.get(parts.scheme)
        if chosen is None:
            raise InvalidRequest.value("url", url, "[http|https|grpc|grpcs]://host:port")
        if protocol is not None and protocol != chosen:
            raise InvalidRequest.value(
                "protocol", protocol, f"http or grpc, and {chosen} with the address {text}"
            )
        try:
            port = parts.port or DEFAULT_PORTS[chosen]
        except ValueError as error:
            raise InvalidRequest.value("url", url, "a port from 1 to 65535") from error
        if not parts.hostname or parts.fragment or parts.username:
            raise InvalidRequest.value("url", url, "scheme://host:port and nothing more")
        balance = parts.query == BALANCE and chosen == "grpc"
        if parts.query and not balance:
            raise InvalidRequest.value(
                "url", url, f"scheme://host:port; after that, with grpc or grpcs, ?{BALANCE}"
            )
        path, secure = parts.path.rstrip("/"), parts.scheme.endswith("s")
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
    `first_timeout`, if given, to the answer, or to a stream's first part.
    `declined` are outputs that the server need not make, for a protocol that asks for all of them.
    `headers` go with this request, beside those that go with every one.
    """

    model: str
    inputs: Tensors
    outputs: tuple[str, ...]
    request_id: str = ""
    timeout: float = 60.0
    declined: tuple[str, ...] = ()
    first_timeout: float | None = None
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def patience(self, *, begun: bool = False) -> float:
        """Seconds to wait for the answer; in a stream, for the first part or another one."""
        return self.timeout if begun or self.first_timeout is None else self.first_timeout


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


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
