"""A local gRPC server that speaks the few KServe calls the client uses, as Triton does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from kserve_models import INDEX, METADATA, RESTRICTED, Died, Models, Refusal
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)


class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, models: Models) -> None:
        self.models = models

    def ServerLive(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=self.models.ready)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerMetadataResponse(name="triton", version="2.51.0")

    def RepositoryIndex(self, request: Any, context: Any) -> Any:
        if _headers(context).get("triton-grpc-protocol-x-key", "") != self.models.key:
            context.abort(grpc.StatusCode.UNAVAILABLE, RESTRICTED)
        response = service_pb2.RepositoryIndexResponse()
        for model in INDEX:
            response.models.add(**model)
        return response

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name not in METADATA:
            message = f"Request for unknown model: '{request.name}' is not found"
            context.abort(grpc.StatusCode.NOT_FOUND, message)
        response = service_pb2.ModelMetadataResponse(name=request.name)
        for kind, found in METADATA[request.name].items():
            for name, datatype in found.items():
                getattr(response, kind).add(name=name, datatype=datatype)
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:
        try:
            outputs = self.models.infer(
                request.model_name, _inputs(request), request.id, _headers(context)
            )
        except Refusal as refusal:
            context.abort(grpc.StatusCode[refusal.grpc], refusal.message)
        return _response({output.name: outputs[output.name] for output in request.outputs})

    def ModelStreamInfer(self, requests: Any, context: Any) -> Iterator[Any]:
        headers = _headers(context)
        for request in requests:
            if request.model_name not in METADATA:
                # As Triton does: no status, even if asked for, and the stream goes on.
                message = f"Request for unknown model: '{request.model_name}' is not found"
                yield service_pb2.ModelStreamInferResponse(error_message=message)
                continue
            answers = self.models.stream(
                request.model_name, _inputs(request), request.id, headers,
                lambda: not context.is_active(),
            )  # fmt: skip
            try:
                for answer in answers:
                    yield service_pb2.ModelStreamInferResponse(infer_response=_response(answer))
                if request.parameters["triton_enable_empty_final_response"].bool_param:
                    final = service_pb2.ModelInferResponse()
                    final.parameters["triton_final_response"].bool_param = True
                    yield service_pb2.ModelStreamInferResponse(infer_response=final)
            except Refusal as refusal:
                if headers.get("triton_grpc_error") == "true":
                    context.abort(grpc.StatusCode[refusal.grpc], refusal.message)
                yield service_pb2.ModelStreamInferResponse(error_message=refusal.message)
            except Died:
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            except GeneratorExit:
                self.models.cancelled.set()
                raise


@contextlib.contextmanager
def serve_grpc(models: Models) -> Iterator[str]:
    """Address of a running server."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(models), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


def _headers(context: Any) -> dict[str, str]:
    return {item.key: item.value for item in context.invocation_metadata()}


def _inputs(request: Any) -> dict[str, np.ndarray]:
    inputs = {}
    for tensor, data in zip(request.inputs, request.raw_input_contents, strict=True):
        flat = (
            deserialize_bytes_tensor(data)
            if tensor.datatype == "BYTES"
            else np.frombuffer(data, triton_to_np_dtype(tensor.datatype))
        )
        inputs[tensor.name] = flat.reshape(tuple(tensor.shape))
    return inputs


def _response(outputs: dict[str, np.ndarray]) -> Any:
    response = service_pb2.ModelInferResponse()
    response.parameters["triton_final_response"].bool_param = False
    for name, array in outputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        data = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
        response.raw_output_contents.append(data)
    return response
