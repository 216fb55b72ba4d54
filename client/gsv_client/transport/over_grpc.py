"""gRPC: `ModelInfer`, and `ModelStreamInfer` with one request to a stream.

Uses tritonclient's gRPC stubs without its client. Reading the call directly needs no reader thread,
lets gRPC's flow control slow a server down to its reader, and keeps no process alive at exit.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Mapping
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gsv_client.errors import (
    Cancelled,
    GsvClientError,
    InvalidRequest,
    ServerError,
    from_generate,
    from_status,
    grpc_errors,
    timed_out,
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
    is_loopback,
)

UNLIMITED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
# After an outage gRPC's own pauses between attempts to connect grow to two minutes.
RECONNECT = [("grpc.initial_reconnect_backoff_ms", 500), ("grpc.max_reconnect_backoff_ms", 2_000)]
# A connection that takes nothing for so long is given up (TCP_USER_TIMEOUT, which gRPC sets where
# keepalive is on); one that a router has forgotten would fail every call for a quarter of an hour.
# Pings themselves are rarer than the five minutes that Triton allows.
KEEPALIVE = [("grpc.keepalive_time_ms", 600_000), ("grpc.keepalive_timeout_ms", 20_000)]
DIRECT = ("grpc.enable_http_proxy", 0)  # gRPC asks a proxy even for this machine
# Calls go in turn to all addresses that the host's name has, each with a connection of its own. The
# default takes the first address for all calls. Names are looked up again when a connection ends.
ROUND_ROBIN = ("grpc.lb_policy_name", "round_robin")
METADATA_NAME = re.compile("[0-9a-z_.-]+")
RESTRICTED_API = "triton-grpc-protocol-"
# A stream tells an error as text alone. There is a header that asks for status codes instead
# (triton_grpc_error), which must not be used: up to 26.03 a refusal in that mode ends tritonserver
# with signal 11, sooner or later (server #8708).
END_SECONDS = 1.0  # for the server to end a stream whose request it has refused


class GRPCTransport:
    """Speaks KServe v2 over one gRPC channel."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str] | None = None) -> None:
        if endpoint.path:
            raise InvalidRequest.value("url", str(endpoint), "grpc://host:port without a path")
        self.address = str(endpoint)
        self._metadata = metadata_of(headers)
        options = channel_options(endpoint)
        if endpoint.secure:
            credentials = grpc.ssl_channel_credentials()
            self._channel = grpc.secure_channel(endpoint.authority, credentials, options)
        else:
            self._channel = grpc.insecure_channel(endpoint.authority, options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def infer(self, request: Request) -> Tensors:
        message, timeout = infer_message(request), request.patience()
        return tensors_of(self._call("ModelInfer", message, timeout, request.headers))

    def stream(self, request: Request) -> GRPCStream:
        return GRPCStream(self._stub, self._metadata, self.address, request)

    def is_live(self, timeout: float) -> bool:
        return bool(self._call("ServerLive", service_pb2.ServerLiveRequest(), timeout).live)

    def is_ready(self, timeout: float) -> bool:
        return bool(self._call("ServerReady", service_pb2.ServerReadyRequest(), timeout).ready)

    def server_version(self, timeout: float) -> str:
        answer = self._call("ServerMetadata", service_pb2.ServerMetadataRequest(), timeout)
        return str(answer.version)

    def models(self, timeout: float) -> list[ModelState]:
        answer = self._call("RepositoryIndex", service_pb2.RepositoryIndexRequest(), timeout)
        return [ModelState(m.name, m.version, m.state, m.reason) for m in answer.models]

    def model_io(self, model: str, timeout: float) -> ModelIO:
        answer = self._call("ModelMetadata", service_pb2.ModelMetadataRequest(name=model), timeout)
        return ModelIO(
            {t.name: t.datatype for t in answer.inputs},
            {t.name: t.datatype for t in answer.outputs},
        )

    def close(self) -> None:
        self._channel.close()

    def _call(
        self, method: str, message: Any, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Any:
        metadata = (*self._metadata, *metadata_of(headers))
        with grpc_errors(self.address, timeout):
            return getattr(self._stub, method)(message, timeout=timeout, metadata=metadata)


class GRPCStream:
    """One request on a `ModelStreamInfer` call of its own."""

    def __init__(
        self, stub: Any, metadata: tuple[Any, ...], address: str, request: Request
    ) -> None:
        self._stub = stub
        self._metadata = (*metadata, *metadata_of(request.headers))
        self._address = address
        self._request = request
        self._patience = Patience(request)
        self._lock = threading.Lock()  # guards _call and _closed
        self._call: Any = None
        self._closed = False

    def __iter__(self) -> GRPCStream:
        return self

    def __next__(self) -> Tensors:
        call = self._opened()
        expired = threading.Event()
        timeout = self._patience.seconds()

        def expire() -> None:
            expired.set()
            call.cancel()

        # gRPC knows a deadline for the whole call only; what matters is the wait for the next part.
        watch = threading.Timer(timeout, expire)
        watch.daemon = True
        watch.start()
        try:
            with grpc_errors(self._address, timeout):
                answer = next(call)
        except Cancelled as error:
            if expired.is_set():
                raise timed_out(self._address, timeout) from error
            if self._closed:
                raise Cancelled(f"{self._address}: the stream was closed") from error
            raise
        except KeyboardInterrupt:
            call.cancel()
            raise
        finally:
            watch.cancel()
        if answer.error_message:
            self._await_end(call)
            raise refused(answer.error_message, self._address)
        tensors = tensors_of(answer.infer_response)
        self._patience.take(tensors)
        return tensors

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._call is not None:
                self._call.cancel()

    def _await_end(self, call: Any) -> None:
        """Let the server end the call: a cancellation that meets its end has crashed servers."""
        watch = threading.Timer(END_SECONDS, call.cancel)
        watch.daemon = True
        watch.start()
        with contextlib.suppress(grpc.RpcError):
            for _ in call:
                pass  # after an error there is nothing to come
        watch.cancel()
        self.close()

    def _opened(self) -> Any:
        with self._lock:
            if self._closed:
                raise Cancelled(f"{self._address}: the stream was closed")
            if self._call is None:
                with grpc_errors(self._address, self._request.timeout):
                    self._call = self._stub.ModelStreamInfer(
                        iter([infer_message(self._request)]), metadata=self._metadata
                    )
            return self._call


def channel_options(endpoint: Endpoint) -> list[tuple[str, int | str]]:
    """Settings of a channel: messages of any size, no proxy on the way to this machine, turns."""
    direct = [DIRECT] if is_loopback(endpoint.host) else []
    balance = [ROUND_ROBIN] if endpoint.balance else []
    return [*UNLIMITED, *RECONNECT, *KEEPALIVE, *direct, *balance]


def metadata_of(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """A caller's headers as gRPC metadata.

    What opens a restricted API has a longer name over gRPC; callers need to know one only.

    Raises:
        InvalidRequest: what gRPC can't carry.
    """
    given = {name.lower(): value for name, value in checked_headers(headers).items()}
    for name in given:
        if not METADATA_NAME.fullmatch(name) or name.endswith("-bin"):
            raise InvalidRequest.value(
                "headers: name", name, "over gRPC letters, digits and _.-, without -bin at the end"
            )
    return tuple(
        (prefix + name, value) for name, value in given.items() for prefix in ("", RESTRICTED_API)
    )


def refused(message: str, address: str) -> GsvClientError:
    """The error that a stream tells as text."""
    if "unknown model" in message:
        return from_status(404, message, address)
    return from_generate(400, message, address)


def infer_message(request: Request) -> Any:
    """A request as protobuf."""
    message = service_pb2.ModelInferRequest(model_name=request.model, id=request.request_id)
    for name, array in request.inputs.items():
        message.inputs.add(name=name, datatype=wire.datatype_of(array), shape=array.shape)
        message.raw_input_contents.append(wire.to_bytes(array))
    for name in request.outputs:
        message.outputs.add(name=name)
    return message


def tensors_of(response: Any) -> Tensors:
    """The inverse: the outputs of an answer."""
    if len(response.outputs) != len(response.raw_output_contents):
        raise ServerError("the server's answer holds tensors that are not in raw form")
    return {
        output.name: wire.from_bytes(content, output.datatype, output.shape)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
