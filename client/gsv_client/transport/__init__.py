"""How requests travel. The client knows only the protocol `Transport`; so do its tests."""

from __future__ import annotations

from collections.abc import Mapping

from gsv_client.transport.base import (
    Endpoint,
    ModelIO,
    ModelState,
    Request,
    TensorStream,
    Transport,
)

__all__ = [
    "Endpoint",
    "ModelIO",
    "ModelState",
    "Request",
    "TensorStream",
    "Transport",
    "open_transport",
]


def open_transport(endpoint: Endpoint, headers: Mapping[str, str] | None = None) -> Transport:
    """The transport for an endpoint. Nothing is sent yet."""
    # Imported here: gRPC takes a noticeable part of a second that an HTTP call need not pay.
    if endpoint.protocol == "grpc":
        from gsv_client.transport.over_grpc import GRPCTransport

        return GRPCTransport(endpoint, headers)
    from gsv_client.transport.over_http import HTTPTransport

    return HTTPTransport(endpoint, headers)
