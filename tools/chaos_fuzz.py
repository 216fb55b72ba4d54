"""Requests that are wrong in one way or another, the same for the same seed."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import random
import threading
import time
from collections import Counter
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

MODELS = (
    "gpt_sovits_v4", "gpt_sovits_v4_stream", "gpt_sovits_v4_pipeline", "text_frontend",
    "reference_encoder", "semantic_gpt", "sovits_v4", "vocoder", "voices",
    "no_such_model", "../etc", "",
)  # fmt: skip
DECOUPLED = "gpt_sovits_v4_stream"
PUBLIC = (DECOUPLED, "gpt_sovits_v4")
NAMES = (
    "TEXT", "LANGUAGE", "VOICE", "SEED", "TOP_K", "SPEED", "SAMPLE_STEPS", "REFERENCE_AUDIO",
    "PHONES", "TOKENS", "MEL", "NO_SUCH_INPUT", "",
)  # fmt: skip
TYPES = ("BYTES", "FP32", "INT32", "INT64", "BOOL", "FP64", "UINT8", "NONSENSE")
TEXTS = ("Hi.", "", "\x00", "\ud83d\ude00" * 3, "a" * 2000, "你好。", "<speak>", "%s%n", "\u202e")
HUGE = [1 << 40]
# Triton's HTTP frontend answers 500 to JSON that it can't read; no model sees such a request.
UNREAD = ("failed to parse the request JSON buffer", "Unable to parse")
UNREAD_OUTCOME = "500, a body that Triton can't read"
SECONDS = 20.0
WORKERS = 8


class Fuzzer:
    """Sends them to a server at ``http`` (an address with its scheme) and ``grpc``.

    ``fatal``: also with what is known to end tritonserver within seconds, and hides all else: gRPC
    streams that ask for decoupled models and others, JSON with shapes larger than the memory
    (docs/versions.md).
    """

    def __init__(self, http: str, grpc_address: str, seed: int, *, fatal: bool = False) -> None:
        self._http, self._grpc = http.rpartition("//")[2], grpc_address
        self._seed, self._fatal = seed, fatal
        self.outcomes: Counter[str] = Counter()
        self._lock = threading.Lock()

    def run(self, requests: int) -> str:
        """Send so many; what they were, in a few words."""
        with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
            try:
                list(pool.map(self._one, range(requests)))
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
        return f"{requests} requests"

    def _one(self, number: int) -> None:
        draw = random.Random(f"{self._seed}-{number}")
        way = draw.choice([self._json, self._binary, self._unary, self._stream, self._stream])
        try:
            outcome = way(draw)
        except (OSError, http.client.HTTPException) as error:
            outcome = type(error).__name__
        except grpc.RpcError as error:
            outcome = error.code().name
        with self._lock:
            self.outcomes[f"{way.__name__.strip('_')} {outcome}"] += 1

    def _post(self, path: str, body: bytes, headers: dict[str, str], leaves: bool) -> str:
        connection = http.client.HTTPConnection(self._http, timeout=SECONDS)
        try:
            connection.request("POST", path, body, headers)
            if leaves:
                return "left"
            response = connection.getresponse()
            told = response.read().decode("utf-8", "replace")
            unread = response.status == 500 and any(words in told for words in UNREAD)
            return UNREAD_OUTCOME if unread else str(response.status)
        finally:
            connection.close()

    def _json(self, draw: random.Random) -> str:
        model = draw.choice(MODELS)
        path = draw.choice(["infer", "generate", "generate_stream", "nothing"])
        values: Any
        if path.startswith("generate"):
            values = {draw.choice(NAMES): value(draw) for _ in range(draw.randrange(5))}
            values.setdefault("TEXT", draw.choice(TEXTS))
            values["SAMPLE_STEPS"] = draw.choice([1, 1, 0, -3, "x"])
        else:
            inputs = [tensor(draw) for _ in range(draw.randrange(4))]
            values = {"inputs": [one for one in inputs if self._fatal or one["shape"] != HUGE]}
        body = json.dumps(values).encode("utf-8", "surrogatepass")
        if draw.random() < 0.1:
            body = body[: draw.randrange(len(body))]
        model = model.replace("/", "%2f")
        return self._post(f"/v2/models/{model}/{path}", body, {}, draw.random() < 0.1)

    def _binary(self, draw: random.Random) -> str:
        model = draw.choice(MODELS).replace("/", "%2f")
        inputs = [tensor(draw) for _ in range(1 + draw.randrange(3))]
        data = b""
        for one in inputs:
            raw = draw.randbytes(draw.choice([0, 1, 4, 8, 100]))
            size = len(raw) if draw.random() < 0.8 else draw.choice([-1, 1 << 40, len(raw) + 3])
            one["parameters"] = {"binary_data_size": size}
            del one["data"]
            data += raw
        head = json.dumps({"inputs": inputs}).encode()
        length = len(head) if draw.random() < 0.8 else draw.choice([0, 1, len(head) + 999])
        headers = {"Inference-Header-Content-Length": str(length)}
        return self._post(f"/v2/models/{model}/infer", head + data, headers, draw.random() < 0.1)

    def _unary(self, draw: random.Random) -> str:
        with grpc.insecure_channel(self._grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            call = stub.ModelInfer.future(message(draw, draw.choice(MODELS)), timeout=SECONDS)
            if draw.random() < 0.3:
                time.sleep(draw.random() * 0.1)
                call.cancel()
                return "left"
            call.result()
            return "OK"

    def _stream(self, draw: random.Random) -> str:
        """Some requests on one stream, good ones and wrong ones, and often a cancellation."""
        models = PUBLIC if draw.random() < 0.7 else MODELS
        if not self._fatal:
            decoupled = draw.random() < 0.6
            models = tuple(m for m in models if (m == DECOUPLED) == decoupled)
        messages = [
            message(draw, draw.choice(models), good=draw.random() < 0.5)
            for _ in range(1 + draw.randrange(4))
        ]
        cancels = draw.random() < 0.6
        with grpc.insecure_channel(self._grpc) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            call = stub.ModelStreamInfer(iter(messages), timeout=SECONDS)
            if cancels:
                threading.Timer(draw.random() * 0.2, call.cancel).start()
            count = sum(1 for _ in call)
            return "OK" if count else "empty"


def value(draw: random.Random) -> Any:
    """Any JSON value."""
    return draw.choice(
        [draw.choice(TEXTS), -1, 0, 1.5, 1e308, 2**63, True, None, [], [1, "a"], {"a": 1}, [[1.0]]]
    )


def tensor(draw: random.Random) -> dict[str, Any]:
    """An input in JSON."""
    shape = draw.choice([[1], [1, 1], [], [0], [-1], [2, 1], [1, 3], HUGE, [1, 1, 1, 1]])
    return {
        "name": draw.choice(NAMES),
        "shape": shape,
        "datatype": draw.choice(TYPES),
        "data": [value(draw) for _ in range(draw.choice([0, 1, 1, 3]))],
    }


def message(draw: random.Random, model: str, good: bool = False) -> Any:
    """A gRPC request; a good one is one that the public models answer."""
    request = service_pb2.ModelInferRequest(model_name=model, id=draw.choice(["", "7", "x" * 300]))
    if good or draw.random() < 0.5:
        add(
            request,
            "TEXT",
            "BYTES",
            [1, 1],
            packed(draw.choice(["Hi.", "Hello there. And so on."])),
        )
        steps = 1 if good else draw.choice([1, 0, 999])
        add(request, "SAMPLE_STEPS", "INT32", [1, 1], steps.to_bytes(4, "little"))
        if good:
            return request
    for _ in range(draw.randrange(3)):
        shape = draw.choice([[1, 1], [1], [2, 1], [-1, 1], [0], [1, 1 << 30]])
        raw = draw.choice([b"", b"\x01", draw.randbytes(8), packed(draw.choice(TEXTS[:3]))])
        add(request, draw.choice(NAMES), draw.choice(TYPES), shape, raw)
    if draw.random() < 0.2:
        request.outputs.add(name=draw.choice(["AUDIO", "SAMPLE_RATE", "NO_SUCH_OUTPUT"]))
    if draw.random() < 0.1:
        request.parameters["sequence_id"].int64_param = draw.choice([0, 1, -1, 2**40])
        request.parameters["sequence_end"].bool_param = True
    return request


def add(request: Any, name: str, datatype: str, shape: list[int], raw: bytes) -> None:
    """One input with its bytes."""
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(raw)


def packed(text: str) -> bytes:
    """A text as the one element of a tensor of bytes."""
    data = text.encode("utf-8", "replace")
    return len(data).to_bytes(4, "little") + data
