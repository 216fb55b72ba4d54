"""Tensors as bytes and JSON: the parts of the KServe v2 protocol that both transports share.

Reference: KServe "Predict Protocol v2" and Triton's extensions `binary_tensor_data` and `generate`.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from gsv_client.errors import InvalidRequest, ServerError
from gsv_client.transport.base import Request, Tensors


def datatype_of(array: NDArray[Any]) -> str:
    """Triton's name of the array's type."""
    return str(np_to_triton_dtype(array.dtype))


def to_bytes(array: NDArray[Any]) -> bytes:
    """A tensor's raw content; strings carry their length before them."""
    if array.dtype == np.object_:
        return bytes(serialize_byte_tensor(array).item())
    return array.tobytes()


def from_bytes(data: bytes, datatype: str, shape: Iterable[int]) -> NDArray[Any]:
    """The inverse of `to_bytes`."""
    if datatype == "BYTES":
        return np.asarray(deserialize_bytes_tensor(data)).reshape(tuple(shape))
    kind = triton_to_np_dtype(datatype)
    if kind is None:
        raise ServerError(f"the server answered with the datatype {datatype!r}, which is not known")
    # A copy, because what lies over bytes could not be written to.
    return np.frombuffer(data, dtype=kind).reshape(tuple(shape)).copy()


def infer_body(request: Request) -> tuple[bytes, int]:
    """Body of an HTTP `infer` request, tensors in binary, and the length of its JSON part."""
    contents = {name: to_bytes(array) for name, array in request.inputs.items()}
    header: dict[str, Any] = {
        "inputs": [
            {
                "name": name,
                "datatype": datatype_of(array),
                "shape": list(array.shape),
                "parameters": {"binary_data_size": len(contents[name])},
            }
            for name, array in request.inputs.items()
        ],
        "outputs": [
            {"name": name, "parameters": {"binary_data": True}} for name in request.outputs
        ],
    }
    if request.request_id:
        header["id"] = request.request_id
    text = json.dumps(header).encode()
    return text + b"".join(contents.values()), len(text)


def infer_answer(body: bytes, json_length: int | None) -> Tensors:
    """Outputs of an HTTP `infer` answer; `json_length` None when it holds no binary part."""
    split = len(body) if json_length is None else json_length
    answer, position, tensors = parse_json(body[:split]), split, {}
    with promised():
        for output in answer.get("outputs", ()):
            name, datatype, shape = output["name"], output["datatype"], output["shape"]
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                values = np.asarray(output["data"], triton_to_np_dtype(datatype))
                tensors[name] = values.reshape(shape)
                continue
            tensors[name] = from_bytes(body[position : position + size], datatype, shape)
            position += size
    return tensors


@contextlib.contextmanager
def promised() -> Iterator[None]:
    """ServerError for an answer inside the block that is not as the protocol has it."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise ServerError(
            f"the server's answer is not as the protocol has it: {error!r}; is it a Triton server?"
        ) from error


def generate_body(request: Request) -> bytes:
    """Body of an HTTP `generate_stream` request: each tensor a plain JSON value.

    Raises:
        InvalidRequest: numbers that are not finite, for which JSON has no sign.
    """
    values: dict[str, Any] = {"id": request.request_id} if request.request_id else {}
    values |= {name: False for name in request.declined}
    for name, array in request.inputs.items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise InvalidRequest(f"{name}: got values that are not finite; allowed: numbers")
        flat = [v.decode() if isinstance(v, bytes) else v for v in array.reshape(-1).tolist()]
        # A wave stays a list even if it had one sample only; scalars go as scalars.
        values[name] = flat[0] if array.shape == (1, 1) else flat
    return json.dumps(values, allow_nan=False).encode()


def generate_answer(event: bytes) -> Tensors:
    """Tensors of one event of `generate_stream`; ServerError when it reports one."""
    values = parse_json(event)
    if "error" in values:
        raise ServerError(f"the stream broke off: {' '.join(str(values['error']).split())}")
    return {
        name: _from_json(value)
        for name, value in values.items()
        if name not in ("id", "model_name", "model_version")
    }


def _from_json(value: Any) -> NDArray[Any]:
    flat = value if isinstance(value, list) else [value]
    if flat and isinstance(flat[0], str):
        return np.array([[text.encode() for text in flat]], dtype=np.object_)
    return np.asarray(flat)[None]  # [1, n]


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object from the server; ServerError for anything else."""
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ServerError(f"the server's answer is not JSON: {data[:80]!r}") from error
    if not isinstance(values, dict):
        raise ServerError(f"the server's answer is not a JSON object: {data[:80]!r}")
    return values


def error_message(body: bytes) -> str:
    """What an answer with an error status says: JSON, a server-sent event with JSON, or text.

    A page, which a proxy sends, says nothing that belongs in a line.
    """
    text = body.decode("utf-8", "replace").strip().removeprefix("data:").strip()
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return "" if text.startswith("<") else text[:300]


def events(pieces: Iterable[bytes]) -> Iterator[bytes]:
    r"""Data of each server-sent event in a byte stream cut anywhere.

    >>> list(events([b'data: {"A"', b':1}\n', b'\ndata: {}\n\n']))
    [b'{"A":1}', b'{}']
    """
    buffer, searched = bytearray(), 0
    for piece in pieces:
        buffer += piece
        # An event is up to a megabyte and comes in small pieces: search only what is new.
        while (end := buffer.find(b"\n\n", max(searched - 1, 0))) >= 0:
            event = bytes(buffer[:end]).strip()
            del buffer[: end + 2]
            searched = 0
            if event.startswith(b"data:"):
                yield event.removeprefix(b"data:").strip()
        searched = len(buffer)
    if buffer.strip():
        raise ServerError(f"the stream broke off inside an event: {bytes(buffer[:80])!r}")
