"""Reading prompts on a GPU: captured for a few lengths, some of them side by side.

A prompt is some four hundred kernels, none of which fills a GPU, so four prompts take hardly longer
than one. Each is still read alone and on a stream of its own, rounded up to a multiple of 64
positions: nothing of its arithmetic depends on its neighbours.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import numpy as np
import torch

from gsv.device import upload
from gsv.engine.cuda_graphs import CapturedCalls
from gsv.engine.gpt.cache import KVCache
from gsv.engine.gpt.model_runner import PROMPT_STEP
from gsv.engine.gpt.sequence import Sequence as Row
from gsv.models.gpt import Cache, SemanticGPT

# Positions up to which reading a prompt is captured: ten seconds of reference, its phonemes and a
# sentence of two hundred. Four readers' landings together are as long as a row.
PROMPT_GRAPHS = 640
MOST_READERS = 4
SLOTS_PER_READER = 8  # a voice's own GPT, which has few slots, has one reader


class PromptReader:
    """Reads one prompt at a time into a row of the cache.

    Args:
        model: on its device.
        cache: of the running batch.
        device: where both are. On a CPU nothing is captured and nothing runs beside anything.

    Attributes:
        logits: float32 [1, V], of the next token of the prompt read last; valid after :meth:`join`.
    """

    def __init__(self, model: SemanticGPT, cache: KVCache, device: torch.device) -> None:
        self._model = model
        self._cache = cache
        self._device = device
        self._calls = CapturedCalls(device)
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        config = model.config
        self._longest = min(PROMPT_GRAPHS, cache.max_length)
        # A graph writes where it was captured, and a prompt may go to any row: it lands here first.
        self._landing = cache.storage.new_zeros(1, *cache.storage[0, :, : self._longest].shape)
        self._ids = torch.zeros(cache.max_length, dtype=torch.int64, device=device)
        self._bert = torch.zeros(cache.max_length, config.bert_dim, device=device)
        # Of the text block and of the prompt.
        self._lengths = torch.zeros(2, dtype=torch.int64, device=device)
        self.logits = torch.zeros(1, config.vocabulary, device=device)
        # Where the prompt that has landed goes, and its rounded length; None: it is there already.
        self._landed: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Graphs captured."""
        return len(self._calls)

    def capture_all(self) -> None:
        """Capture every length, the longest first."""
        for length in range(self._longest // PROMPT_STEP * PROMPT_STEP, 0, -PROMPT_STEP):
            self._calls.capture(length, partial(self._land, length))

    def begin(self, sequence: Row, row: int) -> None:
        """Queue the reading of a sequence's prompt, after what was queued before.

        It is in ``row`` for what is queued after :meth:`join`.
        """
        length = -(-sequence.prompt_length // PROMPT_STEP) * PROMPT_STEP
        if length > self._longest:
            self._landed = None
            self._upload(sequence)
            self._read(length, self._cache.window(row, 1, length))
            return
        self._landed = row, length
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with self._own_stream():
            self._upload(sequence)
            self._calls(length, partial(self._land, length))

    def join(self) -> None:
        """Let what is queued from now on find the prompt in its row."""
        if self._landed is None:
            return
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        row, length = self._landed
        self._cache.storage[row, :, :length] = self._landing[0, :, :length]

    def _own_stream(self) -> contextlib.AbstractContextManager[Any]:
        if self._stream is None:
            return contextlib.nullcontext()
        stream: contextlib.AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return stream

    def _upload(self, sequence: Row) -> None:
        request = sequence.request
        ids = np.concatenate([request.phonemes, request.spoken_tokens]).astype(np.int64)
        self._ids[: len(ids)] = upload(ids, self._device)
        text = self._bert[: len(request.phonemes)]
        if request.bert.any():
            text.copy_(upload(request.bert.astype(np.float32), self._device))
        else:
            text.zero_()
        lengths = np.array([sequence.text_length, sequence.prompt_length])
        self._lengths.copy_(upload(lengths, self._device))

    def _land(self, length: int) -> None:
        """Read the uploaded prompt, which ``length`` positions hold."""
        planes = self._landing[:, :, :length].unbind(1)
        self._read(length, list(zip(planes[0::2], planes[1::2], strict=True)))

    def _read(self, length: int, into: Cache) -> None:
        text_length, whole = self._lengths.unbind()
        x = self._model.embed_padded(self._ids[:length], self._bert[:length], text_length)
        logits = self._model.prefill(x[None], text_length[None], whole[None], into)
        self.logits.copy_(logits)


def readers(model: SemanticGPT, cache: KVCache, device: torch.device) -> list[PromptReader]:
    """As many as the slots of a running batch are worth, 1 to 4."""
    count = min(max(cache.slots // SLOTS_PER_READER, 1), MOST_READERS)
    return [PromptReader(model, cache, device) for _ in range(count)]
