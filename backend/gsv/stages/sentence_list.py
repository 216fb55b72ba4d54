"""The sentences of one request to the semantic GPT, each made when its turn comes.

A text of ten thousand characters has over a thousand sentences, and each one's request holds the
BERT features of the prompt as well: all of them at once would take hundreds of megabytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gsv.constants import MAX_TOKENS
from gsv.engine.gpt.guard import Guard
from gsv.engine.gpt.judge import BoundsTable, Limits, phonemes_by_language
from gsv.engine.gpt.sequence import IsBuffered, SamplingParams, SequenceRequest
from gsv.engine.turns import Turn
from gsv.stages.arrays import split_by_counts
from gsv.stages.messages import SemanticRequest


class SentenceList:
    """Makes the engine's requests of one request's sentences.

    Args:
        request: whose sentences they are.
        params: how to draw.
        model: that the engine knows by this name.
        is_buffered: as of :class:`~gsv.engine.gpt.sequence.SequenceRequest`.
    """

    def __init__(
        self,
        request: SemanticRequest,
        params: SamplingParams,
        model: str,
        is_buffered: IsBuffered = lambda: False,
    ) -> None:
        self.request = request
        self.phonemes_by_language = phonemes_by_language(
            request.phoneme_counts, request.phoneme_languages
        )
        self._params = params
        self._model = model
        self._is_buffered = is_buffered
        self._turn = Turn.of(request)
        self._phonemes = split_by_counts(request.phonemes, request.phoneme_counts)
        self._bert_rows = split_by_counts(request.bert_rows, request.phoneme_counts)
        self._prompt_bert = request.prompt_bert_features[request.prompt_bert_rows]

    def __len__(self) -> int:
        return len(self._phonemes)

    def phonemes(self, index: int) -> int:
        """How many phonemes the sentence has of its own."""
        return len(self._phonemes[index])

    @property
    def params(self) -> SamplingParams:
        """How they are drawn."""
        return self._params

    @property
    def prefix(self) -> NDArray[np.int32]:
        """Tokens of a stream's sentence that are drawn already, int32 [k]."""
        drawn = self.request.drawn_tokens
        return np.zeros(0, np.int32) if drawn is None else drawn

    def sequence(self, index: int, *, accepted: bool) -> SequenceRequest:
        """What the engine is asked for.

        Args:
            index: of the sentence.
            accepted: as of :class:`~gsv.engine.gpt.sequence.SequenceRequest`.
        """
        request = self.request
        bert = request.bert_features[self._bert_rows[index]]
        return SequenceRequest(
            phonemes=np.concatenate([request.prompt_phonemes, self._phonemes[index]]),
            bert=np.concatenate([self._prompt_bert, bert]),
            prompt_tokens=request.prompt_tokens,
            params=self._params,
            sentence=request.first_sentence + index,
            chunk_tokens=min(request.chunk_tokens, 1),  # the session cuts chunks
            model=self._model,
            is_buffered=self._is_buffered,
            prefix_tokens=self.prefix,
            turn=self._turn,
            accepted=accepted,
        )


class GuardSettings:
    """How the sentences of one request are guarded.

    Args:
        bounds: of the checkpoint.
        retries: how often a sentence may be drawn again.
        silent: tokens that are silence in this reference.
    """

    def __init__(self, bounds: BoundsTable, retries: int, silent: frozenset[int]) -> None:
        self._bounds = bounds
        self._retries = retries
        self._silent = silent

    def limits(self, sentences: SentenceList, index: int) -> Limits:
        """What is normal for one sentence."""
        return self._bounds.limits(sentences.phonemes_by_language[index], self._silent)

    def guard(self, sentences: SentenceList, index: int) -> Guard:
        """The guard of one sentence."""
        request, limits = sentences.request, self.limits(sentences, index)
        # What a stream asks for at first is what its first chunk needs.
        in_chunks = request.in_chunks and request.chunk_tokens < MAX_TOKENS
        first = request.chunk_tokens if in_chunks else None
        return Guard(limits, self._retries, first, request.drawn_attempt)
