"""gRPC for asyncio: the same calls as `over_grpc`, on one event loop and without a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gsv_client.errors import Cancelled, InvalidRequest, grpc_errors, timed_out
from gsv_client.transport.base import Endpoint, ModelIO, ModelState, Patience, Request, Tensors
from gsv_client.transport.over_grpc import (
    END_SECONDS,
    channel_options,
    infer_message,
    metadata_of,
    refused,
    tensors_of,
)


class AioGRPCTransport:
    """Speaks KServe v2 over one gRPC channel, which the first call opens on its event loop."""

    def __init__(self, endpoint: Endpoint, headers: Mapping[str, str] | None = None) -> None:
        if endpoint.protocol != "grpc" or endpoint.path:
            raise InvalidRequest.value("url", str(endpoint), "grpc://host:port without a path")
        self.address = str(endpoint)
        self._endpoint = endpoint
        self._metadata = metadata_of(headers)
        self._channel: Any = None
        self._opened_stub: Any = None

    async def infer(self, request: Request) -> Tensors:
        message, timeout = infer_message(request), request.patience()
        return tensors_of(await self._call("ModelInfer", message, timeout, request.headers))

    def stream(self, request: Request) -> AioGRPCStream:
        return AioGRPCStream(self._stub(), self._metadata, self.address, request)

    async def is_live(self, timeout: float) -> bool:
        return bool((await self._call("ServerLive", service_pb2.ServerLiveRequest(), timeout)).live)

    async def is_ready(self, timeout: float) -> bool:
        answer = await self._call("ServerReady", service_pb2.ServerReadyRequest(), timeout)
        return bool(answer.ready)

    async def is_model_ready(self, model: str, timeout: float) -> bool:
        message = service_pb2.ModelReadyRequest(name=model)
        return bool((await self._call("ModelReady", message, timeout)).ready)

    async def server_version(self, timeout: float) -> str:
        answer = await self._call("ServerMetadata", service_pb2.ServerMetadataRequest(), timeout)
        return str(answer.version)

    async def models(self, timeout: float) -> list[ModelState]:
        answer = await self._call("RepositoryIndex", service_pb2.RepositoryIndexRequest(), timeout)
        return [ModelState(m.name, m.version, m.state, m.reason) for m in answer.models]

    async def model_io(self, model: str, timeout: float) -> ModelIO:
        message = service_pb2.ModelMetadataRequest(name=model)
        answer = await self._call("ModelMetadata", message, timeout)
        return ModelIO(
            {t.name: t.datatype for t in answer.inputs},
            {t.name: t.datatype for t in answer.outputs},
        )

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def _call(
        self, method: str, message: Any, timeout: float, headers: Mapping[str, str] | None = None
    ) -> Any:
        stub, metadata = self._stub(), (*self._metadata, *metadata_of(headers))
        with grpc_errors(self.address, timeout):
            return await getattr(stub, method)(message, timeout=timeout, metadata=metadata)

    def _stub(self) -> Any:
        if self._opened_stub is None:
            # Here and not in __init__: the channel belongs to the event loop that is running.
            authority, options = self._endpoint.authority, channel_options(self._endpoint)
            self._channel = (
                grpc.aio.secure_channel(authority, grpc.ssl_channel_credentials(), options)
                if self._endpoint.secure
                else grpc.aio.insecure_channel(authority, options)
            )
            self._opened_stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        return self._opened_stub


class AioGRPCStream:
    """One request on a `ModelStreamInfer` call of its own."""

    def __init__(
        self, stub: Any, metadata: tuple[Any, ...], address: str, request: Request
    ) -> None:
        self._stub = stub
        self._metadata = (*metadata, *metadata_of(request.headers))
        self._address = address
        self._request = request
        self._patience = Patience(request)
        self._call: Any = None
        self._closed = False

    def __aiter__(self) -> AioGRPCStream:
        return self

    async def __anext__(self) -> Tensors:
        if self._closed:
            raise Cancelled(f"{self._address}: the stream was closed")
        timeout = self._patience.seconds()
        try:
            with grpc_errors(self._address, timeout):
                if self._call is None:
                    self._call = self._stub.ModelStreamInfer(
                        iter([infer_message(self._request)]), metadata=self._metadata
                    )
                # gRPC knows a deadline for the whole call only; what matters is the next part.
                answer = await asyncio.wait_for(self._call.read(), timeout)
        except asyncio.TimeoutError as error:  # noqa: UP041 (not TimeoutError before Python 3.11)
            self.close()
            raise timed_out(self._address, timeout) from error
        except asyncio.CancelledError:
            # `close` from another task cancels the call, and gRPC reports that as our own
            # cancellation; but when this task was cancelled, it stays so.
            task = asyncio.current_task()
            if self._closed and not (task and getattr(task, "cancelling", int)()):
                raise Cancelled(f"{self._address}: the stream was closed") from None
            self.close()
            raise
        if answer is grpc.aio.EOF:
            raise StopAsyncIteration
        if answer.error_message:
            await self._await_end()
            raise refused(answer.error_message, self._address)
        tensors = tensors_of(answer.infer_response)
        self._patience.take(tensors)
        return tensors

    async def _await_end(self) -> None:
        """As GRPCStream does."""
        with contextlib.suppress(grpc.RpcError, asyncio.TimeoutError):
            await asyncio.wait_for(self._call.read(), END_SECONDS)
        self.close()

    def close(self) -> None:
        self._closed = True
        if self._call is not None:
            self._call.cancel()
