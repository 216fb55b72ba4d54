"""A local HTTP server that speaks the few KServe routes the client uses, as Triton does."""

from __future__ import annotations

import contextlib
import json
import select
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from kserve_models import INDEX, METADATA, METRICS, RESTRICTED, Died, Models, Refusal
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

JSON_LENGTH = "Inference-Header-Content-Length"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: Models

    def log_message(self, *_: Any) -> None:
        """Nothing: pytest shows what matters."""

    def do_GET(self) -> None:
        if self.path == "/v2/health/live":
            self.answer(200, b"")
        elif self.path == "/v2/health/ready":
            self.answer(200 if self.models.ready else 400, b"")
        elif self.path == "/metrics":
            self.answer(200, METRICS.encode())
        elif self.path == "/v2":
            self.answer_json({"name": "triton", "version": "2.51.0"})
        else:
            self.metadata(self.path.removeprefix("/v2/models/"))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v2/repository/index":
            if self.headers.get("x-key", "") == self.models.key:
                self.answer_json(INDEX)
            else:
                self.answer_json({"error": RESTRICTED}, 403)
            return
        _, _, _, model, verb = self.path.split("/")
        try:
            self.infer(model, body) if verb == "infer" else self.generate_stream(model, body)
        except Refusal as refusal:
            # Triton answers whatever fails in `generate_stream` with 400, an unknown model apart.
            known = verb == "infer" or refusal.http == 404
            self.answer_json({"error": refusal.message}, refusal.http if known else 400)

    def metadata(self, model: str) -> None:
        if model not in METADATA:
            self.answer_json({"error": f"Request for unknown model: '{model}' is not found"}, 404)
            return
        tensors = {
            kind: [{"name": n, "datatype": d, "shape": [-1, 1]} for n, d in found.items()]
            for kind, found in METADATA[model].items()
        }
        self.answer_json({"name": model, "versions": ["1"], **tensors})

    def infer(self, model: str, body: bytes) -> None:
        length = int(self.headers[JSON_LENGTH])
        request, rest = json.loads(body[:length]), body[length:]
        inputs = {}
        for tensor in request["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            data, rest = rest[:size], rest[size:]
            kind = tensor["datatype"]
            flat = (
                deserialize_bytes_tensor(data)
                if kind == "BYTES"
                else np.frombuffer(data, triton_to_np_dtype(kind))
            )
            inputs[tensor["name"]] = flat.reshape(tensor["shape"])
        assert not rest
        outputs = self.models.infer(model, inputs, request.get("id", ""), dict(self.headers))
        wanted = [output["name"] for output in request["outputs"]]
        contents = {name: _bytes(outputs[name]) for name in wanted}
        header = json.dumps(
            {
                "outputs": [
                    {
                        "name": name,
                        "datatype": np_to_triton_dtype(outputs[name].dtype),
                        "shape": list(outputs[name].shape),
                        "parameters": {"binary_data_size": len(contents[name])},
                    }
                    for name in wanted
                ]
            }
        ).encode()
        self.answer(200, header + b"".join(contents.values()), {JSON_LENGTH: str(len(header))})

    def generate_stream(self, model: str, body: bytes) -> None:
        request = json.loads(body)
        # A field that is not an input is a parameter: an output that need not be made.
        inputs = {
            name: _tensor(value)
            for name, value in request.items()
            if name != "id" and not isinstance(value, bool)
        }
        started = False
        answers = self.models.stream(
            model, inputs, request.get("id", ""), dict(self.headers), self.client_left
        )
        try:
            for answer in answers:
                if not started:
                    self.start_events()
                    started = True
                self.event({name: _plain(array) for name, array in answer.items()})
            if not started:
                self.start_events()
        except Refusal as refusal:
            if not started:
                raise
            self.event({"error": refusal.message})
        except Died:
            self.close_connection = True
            return
        except OSError:
            self.models.cancelled.set()
            self.close_connection = True
            return
        with contextlib.suppress(OSError):
            self.wfile.write(b"0\r\n\r\n")

    def client_left(self) -> bool:
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable)

    def start_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, values: dict[str, Any]) -> None:
        data = b"data: " + json.dumps(values).encode() + b"\n\n"
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def answer_json(self, values: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(values).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """Says nothing of clients that hang up: stderr is what the tests read."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve_http(models: Models) -> Iterator[str]:
    """Address of a running server."""
    handler = type("BoundHandler", (Handler,), {"models": models})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _tensor(value: Any) -> np.ndarray:
    """As Triton maps a JSON value of `generate` to a tensor of one row."""
    flat = value if isinstance(value, list) else [value]
    if isinstance(flat[0], str):
        return np.array([[text.encode() for text in flat]], dtype=np.object_)
    return np.array([flat])


def _plain(array: np.ndarray) -> Any:
    flat = array.reshape(-1).tolist()
    return flat[0] if len(flat) == 1 else flat


def _bytes(array: np.ndarray) -> bytes:
    if array.dtype == np.object_:
        return bytes(serialize_byte_tensor(array).item())
    return array.tobytes()
