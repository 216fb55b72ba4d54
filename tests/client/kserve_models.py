"""Models behind the two real local servers of these tests: tones, echoes, faults on demand.

The text says what to do: `sleep S`, `bug`, `busy`, `busy N` (the first N times), `count N`
(chunks), `wait S` (before the first chunk), `breaks` (after two chunks), `dies` (the connection
goes after two chunks).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]
PACE = 0.02  # seconds between chunks
CHUNK = 2_400  # samples


class Refusal(Exception):
    """An error as Triton reports it."""

    def __init__(self, http: int, grpc: str, message: str) -> None:
        super().__init__(message)
        self.http, self.grpc, self.message = http, grpc, message


class Died(Exception):
    """The server goes away in the middle."""


class Models:
    """What both servers serve. `seen` holds (model, inputs, request id, headers)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Tensors, str, dict[str, str]]] = []
        self.cancelled = threading.Event()
        self.ready = True
        self.pause_after_first = 0.0  # seconds, in streams
        self.key = ""  # what the header `x-key` must be to see the list of models

    def infer(
        self, model: str, inputs: Tensors, request_id: str, headers: dict[str, str]
    ) -> Tensors:
        self._see(model, inputs, request_id, headers)
        if model == "text_frontend":
            return {"ANALYSIS": _json({"sentences": [_sentence(_text(inputs))]})}
        if model == "voices":
            return {
                "VOICES": _json(
                    {"default": None, "voices": [{"name": "爱丽丝"}], "broken": ["bob: no text"]}
                )
            }
        if model == "old_voices":
            return {"VOICES": _json(["alice"])}
        text = _text(inputs)
        if text.startswith("sleep"):
            time.sleep(float(text.split()[1]))
        rate = int(inputs["SAMPLE_RATE"][0, 0]) if "SAMPLE_RATE" in inputs else 48_000
        audio = inputs.get("REFERENCE_AUDIO", np.full((1, CHUNK), 0.25, np.float32))
        return {"AUDIO": audio, "SAMPLE_RATE": np.array([[rate]], np.int32)}

    def stream(
        self,
        model: str,
        inputs: Tensors,
        request_id: str,
        headers: dict[str, str],
        left: Callable[[], bool],
    ) -> Iterator[Tensors]:
        self._see(model, inputs, request_id, headers)
        text = _text(inputs)
        if text.startswith("wait"):
            self._pause(float(text.split()[1]), left)
        count = int(text.split()[1]) if text.startswith("count") else 3
        for index in range(count):
            if left():
                self.cancelled.set()
                return
            if index == 2 and text == "breaks":
                raise Refusal(500, "INTERNAL", "it broke in the middle")
            if index == 2 and text == "dies":
                raise Died
            yield {
                "AUDIO": np.full((1, CHUNK), 0.25 * (index + 1) / count, np.float32),
                "SAMPLE_RATE": np.array([[48_000]], np.int32),
                "SENTENCE_INDEX": np.array([[index // 2]], np.int32),
            }
            time.sleep(PACE if index else max(PACE, self.pause_after_first))

    def _pause(self, seconds: float, left: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not left():
            time.sleep(PACE)

    def _see(self, model: str, inputs: Tensors, request_id: str, headers: dict[str, str]) -> None:
        self.seen.append((model, inputs, request_id, headers))
        if model not in (*METADATA, "voices", "old_voices", "text_frontend"):
            raise Refusal(404, "NOT_FOUND", f"Request for unknown model: '{model}' is not found")
        if "VOICE" in inputs and inputs["VOICE"][0, 0] == b"nobody":
            message = f"in ensemble '{model}', VOICE: got 'nobody'; allowed: demo"
            raise Refusal(400, "INVALID_ARGUMENT", message)
        if model in METADATA and _text(inputs) == "bug":
            raise Refusal(500, "INTERNAL", "Failed to process:\n\nAt:\n  model.py(19): execute")
        if model in METADATA and _text(inputs) == "busy":
            raise Refusal(503, "UNAVAILABLE", "64 requests are waiting; try again later")
        if model in METADATA and _text(inputs).startswith("busy "):
            times = sum(_text(inputs) == _text(other) for _, other, *_ in self.seen)
            if times <= int(_text(inputs).split()[1]):
                raise Refusal(503, "UNAVAILABLE", "64 requests are waiting; try again in 0.1 s")


METADATA: dict[str, dict[str, Any]] = {
    "gpt_sovits_v4": {
        "inputs": {"TEXT": "BYTES", "SEED": "INT64"},
        "outputs": {"AUDIO": "FP32", "SAMPLE_RATE": "INT32"},
    },
    "gpt_sovits_v4_stream": {"inputs": {"TEXT": "BYTES"}, "outputs": {"AUDIO": "FP32"}},
}
RESTRICTED = "This API is restricted, expecting header 'x-key'"
INDEX = [
    {"name": "gpt_sovits_v4", "version": "1", "state": "READY", "reason": ""},
    {"name": "vocoder", "version": "1", "state": "UNAVAILABLE", "reason": "no weights"},
]
METRICS = """# HELP nv_inference_count Number of inferences performed
# TYPE nv_inference_count counter
nv_inference_count{model="vocoder",version="1"} 8
gsv_audio_seconds_total 2.5
"""


def _text(inputs: Tensors) -> str:
    return str(inputs["TEXT"][0, 0].decode())


def _json(values: object) -> np.ndarray:
    return np.array([[json.dumps(values, ensure_ascii=False).encode()]], dtype=np.object_)


def _sentence(text: str) -> dict[str, Any]:
    segment = {
        "language": "zh", "text": text, "normalized": text,
        "phonemes": ["n", "i3"], "ids": [227, 168], "word2ph": [2], "of_a_newer_server": True,
    }  # fmt: skip
    return {"text": text, "normalized": text, "pause_after": 0.3, "segments": [segment]}
