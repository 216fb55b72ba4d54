"""Alignments of sentences that have been drawn, one after another on a thread of their own.

The engine's thread goes on decoding meanwhile: it must not wait for a forward pass over a whole
sentence, and nobody waits for an alignment but the request that asked for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsv.device import end_if_fatal, prepare
from gsv.engine.gpt.alignment import Alignment, align_sentence
from gsv.engine.gpt.sequence import SequenceRequest
from gsv.errors import Cancelled
from gsv.models.gpt import SemanticGPT


@dataclasses.dataclass(frozen=True)
class DrawnSentence:
    """A sentence with all of its tokens.

    Attributes:
        request: that was submitted; names the model, and holds the prompt.
        own: how many of its phonemes, the last ones, are the sentence's own.
        tokens: int32 [T], of the sentence from its beginning on.
    """

    request: SequenceRequest
    own: int
    tokens: NDArray[np.int32]


class Aligner:
    """Aligns what it is given, in order.

    Args:
        model_of: the resident model of a name, as ``Engine.model_of``.
        device: that the models are on.
    """

    def __init__(self, model_of: Callable[[str], SemanticGPT], device: str) -> None:
        self._model_of = model_of
        self._device = device
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gpt-aligner")
        self._closing = threading.Event()
        # A stream of its own, so that decoding steps don't queue behind a whole sentence.
        self._stream: Any = None if device == "cpu" else torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def align(
        self,
        sentence: DrawnSentence,
        on_aligned: Callable[[Alignment], None],
        on_error: Callable[[BaseException], None],
        has_left: Callable[[], bool] = lambda: False,
    ) -> None:
        """Align a sentence; returns at once.

        Args:
            sentence: whose model stays resident until one of the callbacks has returned.
            on_aligned: gets its alignment.
            on_error: gets what went wrong instead, Cancelled among it. One of the two is called
                once, on the aligner's thread.
            has_left: whether nobody waits any more; asked when its turn comes.
        """

        def work() -> None:
            try:
                found = self._align(sentence, has_left)
            except BaseException as error:  # whatever it is, the request is answered
                end_if_fatal(error)
                on_error(error)
            else:
                on_aligned(found)

        self._pool.submit(work)

    def close(self) -> None:
        """End the thread; whoever still waits gets Cancelled."""
        self._closing.set()
        self._pool.shutdown(wait=True)

    @torch.inference_mode()
    def _align(self, sentence: DrawnSentence, has_left: Callable[[], bool]) -> Alignment:
        if self._closing.is_set() or has_left():
            raise Cancelled("the alignment was given up")
        request = sentence.request
        if not len(sentence.tokens):
            nowhere = np.zeros(0, np.int64)
            return Alignment(np.zeros(sentence.own + 1), nowhere, 0.0, nowhere)
        prepare(self._device)
        with contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return align_sentence(
                self._model_of(request.model),
                request.phonemes,
                request.bert,
                request.prompt_tokens,
                sentence.tokens,
                sentence.own,
            )
