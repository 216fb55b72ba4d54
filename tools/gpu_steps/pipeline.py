"""The real generating stages in one process, with stand-ins for text and reference."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gpu_steps.inputs import MOST_SENTENCES, reference, text
from gpu_steps.setup import Setup
from gsv.stages.base import Place, Tensors
from gsv.stages.semantic_gpt import SemanticGPTEngineStage
from gsv.stages.sovits_v4 import SoVITSStage
from gsv.stages.stream import SpeechStreamStage
from gsv.stages.vocoder import VocoderStage

_VOCODER_BATCH = 16  # as in the model's configuration
_VOCODER_DELAY = 0.002  # seconds, likewise
_ANSWER_SECONDS = 120.0


def vocoder_dtype(setup: Setup) -> str:
    """The vocoder's precision: float16 rounds less than bfloat16 and is as fast."""
    return "float16" if setup.on_gpu else "float32"


class Pipeline:
    """Engine, flow, vocoder and the stream in front of them, called as Triton would call them.

    Args:
        setup: the run; its repository has the weights.
        sentence_tokens: length of every sentence; the GPT itself never ends one.

    Attributes:
        calls: model, begin and end (``perf_counter``) of each call between stages; None: not kept.
    """

    def __init__(self, setup: Setup, sentence_tokens: int) -> None:
        self.calls: list[tuple[str, float, float]] | None = None
        self._text = {n: text(n) for n in range(1, MOST_SENTENCES + 1)}
        self._reference = reference()
        self._running: dict[tuple[str, str], Callable[[], None]] = {}
        settings: dict[type[Any], dict[str, str]] = {
            SemanticGPTEngineStage: {"dtype": setup.dtype, "max_tokens": str(sentence_tokens)},
            SoVITSStage: {"dtype": setup.dtype},
            VocoderStage: {"dtype": vocoder_dtype(setup)},
            SpeechStreamStage: {},
        }
        names = ("semantic_gpt", "sovits_v4", "vocoder", "gpt_sovits_v4_stream")
        self._stages: dict[str, Any] = {}
        for name, (kind, values) in zip(names, settings.items(), strict=True):
            place = Place(setup.repository / name / "1", setup.device)
            bridge = (self,) if kind is SpeechStreamStage else ()
            self._stages[name] = kind(place, kind.settings_type.parse(values), *bridge)
        for stage in self._stages.values():
            stage.warm_up()
        vocoder = self._stages["vocoder"]
        self._batches = _Batches(vocoder.run_batch) if hasattr(vocoder, "run_batch") else None

    def close(self) -> None:
        """End every stage, the stream first."""
        for stage in reversed(list(self._stages.values())):
            stage.close()
        if self._batches is not None:
            self._batches.close()

    def stream(self, sentences: int, seed: int, steps: int) -> Iterator[Tensors]:
        """Chunks of an answer of so many sentences."""
        # The stand-ins answer to the number of sentences that the text names. The recording is not
        # listened to: it makes the request complete without a voice folder.
        request = {
            "TEXT": str(sentences),
            "REFERENCE_AUDIO": np.zeros(64_000, np.float32),
            "REFERENCE_SAMPLE_RATE": 16_000,
            "REFERENCE_TEXT": "reference",
            "SEED": seed,
            "SAMPLE_STEPS": steps,
        }
        yield from self._submit("gpt_sovits_v4_stream", request, "").answers()

    def whole(self, sentences: int, seed: int, steps: int) -> Tensors:
        """A whole answer, stage after stage as in the ensemble."""
        known = self._text[sentences] | self._reference | {"SEED": seed, "SAMPLE_STEPS": steps}
        known |= self("semantic_gpt", known, [])
        known |= self("sovits_v4", known, [])
        return self("vocoder", known, [])

    def __call__(
        self, model: str, tensors: Tensors, outputs: Sequence[str], *, job: str = ""
    ) -> Tensors:
        """As :class:`gsv.stages.calls.CallModel`."""
        started = time.perf_counter()
        answer = self._answer(model, tensors, job)
        if self.calls is not None:
            self.calls.append((model, started, time.perf_counter()))
        return answer

    def _answer(self, model: str, tensors: Tensors, job: str) -> Tensors:
        if model == "text_frontend":
            return self._text[int(tensors["TEXT"])]
        if model == "reference_encoder":
            return self._reference
        if model == "vocoder" and self._batches is not None:
            return _tensors(self._batches.answer(self._request(model, tensors)))
        return next(iter(self._submit(model, tensors, job).answers()))

    def cancel(self, model: str, job: str) -> None:
        """As :class:`gsv.stages.calls.CallModel`."""
        stop = self._running.get((job, model))
        if stop is not None:
            stop()
        elif abandon := getattr(self._stages.get(model), "abandon", None):
            abandon(job)

    def _request(self, model: str, tensors: Tensors) -> Any:
        kind = self._stages[model].request_type
        fields = {field.name for field in dataclasses.fields(kind)}
        return kind(**{n.lower(): v for n, v in tensors.items() if n.lower() in fields})

    def _submit(self, model: str, tensors: Tensors, job: str) -> _Waiting:
        waiting = _Waiting(lambda: self._running.pop((job, model), None))
        stop = self._stages[model].submit(self._request(model, tensors), waiting)
        if job:
            self._running[job, model] = stop
        return waiting


class _Batches:
    """Requests that came while a batch was computed make the next one, as dynamic batching does."""

    def __init__(self, run_batch: Callable[[list[Any]], list[Any]]) -> None:
        self._run_batch = run_batch
        self._queue: queue.SimpleQueue[tuple[Any, concurrent.futures.Future[Any]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="vocoder", daemon=True)
        self._thread.start()

    def answer(self, request: Any) -> Any:
        """Wait for the answer to ``request``."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._queue.put((request, future))
        return future.result(_ANSWER_SECONDS)

    def close(self) -> None:
        """End the thread."""
        self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (first := self._queue.get()) is not None:
            batch = [first]
            while len(batch) < _VOCODER_BATCH:
                try:
                    another = self._queue.get(timeout=_VOCODER_DELAY)
                except queue.Empty:
                    break
                if another is None:
                    self._queue.put(None)
                    break
                batch.append(another)
            try:
                answers = self._run_batch([request for request, _ in batch])
            except Exception as error:
                answers = [error] * len(batch)
            for (_, future), answer in zip(batch, answers, strict=True):
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)


class _Waiting:
    """A reply that a thread waits for."""

    def __init__(self, ended: Callable[[], object]) -> None:
        self._queue: queue.SimpleQueue[tuple[Any, bool]] = queue.SimpleQueue()
        self._ended = ended

    def send(self, result: Any, *, final: bool) -> None:
        self._queue.put((_tensors(result), final))

    def finish(self) -> None:
        self._queue.put((None, True))

    def fail(self, error: BaseException) -> None:
        self._queue.put((error, True))

    def answers(self) -> Iterator[Tensors]:
        final = False
        while not final:
            answer, final = self._queue.get(timeout=_ANSWER_SECONDS)
            if final:
                self._ended()
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                yield answer


def _tensors(result: Any) -> Tensors:
    return {field.name.upper(): getattr(result, field.name) for field in dataclasses.fields(result)}
