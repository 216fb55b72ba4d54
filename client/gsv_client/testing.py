"""A transport for tests of programs that use this client: it answers, and sends nothing."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gsv_client.answers import REPORT, TIMES
from gsv_client.errors import Cancelled, GsvClientError, NotFound
from gsv_client.options import FRONTEND_MODEL, MODEL, OUTPUTS, STREAM_MODEL, TENSORS, VOICES_MODEL
from gsv_client.transport import ModelIO, ModelState, Request
from gsv_client.transport.base import Tensors

SECONDS_PER_CHARACTER = 0.1
CHUNK_SECONDS = 0.5
TONE_HZ = 220.0
PEAK = 0.1
DEFAULT_RATE = 48_000


class FakeTransport:
    """Speaks a tone of 0.1 s for each character; a stream in chunks of 0.5 s.

    >>> from gsv_client import Client
    >>> transport = FakeTransport()
    >>> Client(transport=transport).say("Hello.", seed=3).duration
    0.6
    >>> sorted(transport.requests[0].inputs)
    ['SEED', 'TEXT']

    Args:
        models: what the repository holds.
        refuse: called with each request; an error that it returns is raised.
        break_after: every stream breaks with this many chunks sent, with the error `broken`.
        times: the public models offer TIMES: a word for each run of letters, 0.1 s for each.

    Attributes:
        requests: what was asked, in order.
        closed: how many streams were closed before their end.
    """

    address = "fake://server"

    def __init__(
        self,
        *,
        models: Sequence[str] = (MODEL, STREAM_MODEL, FRONTEND_MODEL, VOICES_MODEL),
        refuse: Callable[[Request], GsvClientError | None] = lambda request: None,
        break_after: int | None = None,
        broken: GsvClientError | None = None,
        times: bool = False,
    ) -> None:
        self.requests: list[Request] = []
        self.closed = 0
        self._models = models
        self._refuse = refuse
        self._break_after = break_after
        self._broken = broken or GsvClientError("broken on purpose")
        self._times = times

    def infer(self, request: Request) -> Tensors:
        """The answer of one of the models."""
        self._take(request)
        if request.model == FRONTEND_MODEL:
            return {"ANALYSIS": _json(_analysis(text_of(request)))}
        if request.model == VOICES_MODEL:
            voice = {"name": "demo", "language": "en", "text": "Hello.", "references": ["happy"]}
            return {"VOICES": _json({"default": "demo", "voices": [voice]})}
        rate = _rate(request)
        outputs = _outputs(_tone(len(text_of(request)) * SECONDS_PER_CHARACTER, rate), rate)
        if TIMES in request.outputs:
            outputs[TIMES] = _json(_words(text_of(request)))
        if REPORT in request.outputs:
            outputs[REPORT] = _json([_sentence_report(text_of(request))])
        return outputs

    def stream(self, request: Request) -> FakeStream:
        """The answers of the stream model."""
        return FakeStream(self, request)

    def is_live(self, timeout: float) -> bool:
        """Always."""
        return True

    def is_ready(self, timeout: float) -> bool:
        """Always."""
        return True

    def server_version(self, timeout: float) -> str:
        """A version."""
        return "0.0.0"

    def models(self, timeout: float) -> list[ModelState]:
        """All ready."""
        return [ModelState(name, "1", "READY", "") for name in self._models]

    def model_io(self, model: str, timeout: float) -> ModelIO:
        """What the interface says of the public models."""
        outputs = {tensor.name: tensor.datatype for tensor in OUTPUTS.values()}
        if model == MODEL:
            del outputs[OUTPUTS["sentence"].name]
        if self._times:
            outputs[TIMES] = "BYTES"
        return ModelIO({tensor.name: tensor.datatype for tensor in TENSORS.values()}, outputs)

    def close(self) -> None:
        """Nothing to let go of."""

    def _take(self, request: Request) -> None:
        self.requests.append(request)
        if request.model not in self._models:
            raise NotFound(f"{self.address}: unknown model: {request.model!r}")
        error = self._refuse(request)
        if error is not None:
            raise error

    def _chunks(self, request: Request) -> list[Tensors]:
        rate = _rate(request)
        chunks: list[Tensors] = []
        begin = 0.0  # seconds of the answer
        for index, sentence in enumerate(
            re.findall(r"[^.!?。！？]+[.!?。！？]*", text_of(request))
        ):
            audio = _tone(len(sentence.strip()) * SECONDS_PER_CHARACTER, rate)
            step = int(CHUNK_SECONDS * rate)
            pieces: list[Tensors] = [
                {**_outputs(audio[i : i + step], rate), "SENTENCE_INDEX": _number(index)}
                for i in range(0, len(audio), step)
            ]
            if TIMES in request.outputs:
                words = _words(sentence.strip(), index, begin)
                for number, piece in enumerate(pieces):
                    piece[TIMES] = _json(words if number == 0 else [])
            if REPORT in request.outputs:
                for number, piece in enumerate(pieces):
                    ends = number == len(pieces) - 1
                    piece[REPORT] = _json([_sentence_report(sentence)] if ends else [])
            chunks += pieces
            begin += len(audio) / rate
        return chunks


def _sentence_report(sentence: str) -> dict[str, object]:
    """As if each sentence had been drawn twice."""
    text = sentence.strip()
    return {
        "text": text,
        "phonemes": len(text),
        "tokens": 2 * len(text),
        "seconds": len(text) * SECONDS_PER_CHARACTER,
        "retries": ["loop"],
        "seed": 7,
        "signals": [],
    }


class FakeStream:
    """One stream of a FakeTransport; the request is taken with the first `next`."""

    def __init__(self, transport: FakeTransport, request: Request) -> None:
        self._transport = transport
        self._request = request
        self._left: list[Tensors] | None = None
        self._sent = 0
        self._closed = False

    def __iter__(self) -> FakeStream:
        return self

    def __next__(self) -> Tensors:
        if self._closed:
            raise Cancelled("fake://server: the stream was closed")
        if self._left is None:
            self._transport._take(self._request)
            self._left = self._transport._chunks(self._request)
        if self._sent == self._transport._break_after:
            raise self._transport._broken
        if not self._left:
            raise StopIteration
        self._sent += 1
        return self._left.pop(0)

    def close(self) -> None:
        """Counted if something was left."""
        if self._left and not self._closed:
            self._transport.closed += 1
        self._closed = True


class FakeAsyncTransport:
    """A FakeTransport for `AsyncClient`.

    >>> import asyncio
    >>> from gsv_client import AsyncClient
    >>> asyncio.run(AsyncClient(transport=FakeAsyncTransport()).say("Hello.")).duration
    0.6

    Args:
        inner: the transport that answers.
        pace: seconds before each chunk of a stream.
    """

    def __init__(self, inner: FakeTransport | None = None, *, pace: float = 0.0) -> None:
        self.inner = inner or FakeTransport()
        self.address = self.inner.address
        self.pace = pace

    async def infer(self, request: Request) -> Tensors:
        """As FakeTransport."""
        await asyncio.sleep(self.pace)
        return self.inner.infer(request)

    def stream(self, request: Request) -> FakeAsyncStream:
        """As FakeTransport."""
        return FakeAsyncStream(self.inner.stream(request), self.pace)

    async def is_live(self, timeout: float) -> bool:
        """Always."""
        return True

    async def is_ready(self, timeout: float) -> bool:
        """Always."""
        return True

    async def is_model_ready(self, model: str, timeout: float) -> bool:
        """Whether there is such a model."""
        return any(state.name == model for state in self.inner.models(timeout))

    async def server_version(self, timeout: float) -> str:
        """A version."""
        return self.inner.server_version(timeout)

    async def models(self, timeout: float) -> list[ModelState]:
        """All ready."""
        return self.inner.models(timeout)

    async def model_io(self, model: str, timeout: float) -> ModelIO:
        """What the interface says of the public models."""
        return self.inner.model_io(model, timeout)

    async def close(self) -> None:
        """Nothing to let go of."""


class FakeAsyncStream:
    """One stream of a FakeAsyncTransport."""

    def __init__(self, inner: FakeStream, pace: float) -> None:
        self._inner = inner
        self._pace = pace

    def __aiter__(self) -> FakeAsyncStream:
        return self

    async def __anext__(self) -> Tensors:
        await asyncio.sleep(self._pace)
        try:
            return next(self._inner)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Counted if something was left."""
        self._inner.close()


def text_of(request: Request) -> str:
    """The text that a request is about."""
    return str(request.inputs["TEXT"][0, 0].decode())


def _rate(request: Request) -> int:
    given = request.inputs.get("SAMPLE_RATE")
    return DEFAULT_RATE if given is None else int(given[0, 0])


def _tone(seconds: float, rate: int) -> NDArray[np.float32]:
    phase = np.arange(round(seconds * rate)) * (2 * np.pi * TONE_HZ / rate)
    tone: NDArray[np.float32] = (PEAK * np.sin(phase)).astype(np.float32)
    return tone


def _outputs(audio: NDArray[np.float32], rate: int) -> Tensors:
    return {"AUDIO": audio[None], "SAMPLE_RATE": _number(rate)}


def _number(value: int) -> NDArray[np.int32]:
    return np.array([[value]], np.int32)


def _json(values: object) -> NDArray[np.object_]:
    return np.array([[json.dumps(values, ensure_ascii=False).encode()]], dtype=np.object_)


def _words(text: str, sentence: int = 0, begin: float = 0.0) -> list[dict[str, object]]:
    return [
        {
            "word": match.group(),
            "start": round(begin + match.start() * SECONDS_PER_CHARACTER, 3),
            "end": round(begin + match.end() * SECONDS_PER_CHARACTER, 3),
            "sentence": sentence,
        }
        for match in re.finditer(r"\w+", text)
    ]


def _analysis(text: str) -> dict[str, object]:
    """Each letter its own phoneme, its id the code point."""
    letters = [letter for letter in text if not letter.isspace()]
    segment = {
        "language": "en",
        "text": text,
        "normalized": text.lower(),
        "phonemes": letters,
        "ids": [ord(letter) for letter in letters],
        "word2ph": None,
    }
    sentence = {"text": text, "normalized": text.lower(), "pause_after": 0.3, "segments": [segment]}
    return {"sentences": [sentence]}
