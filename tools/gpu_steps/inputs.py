"""What text frontend and reference encoder would give: the same phonemes and reference always."""

from __future__ import annotations

import numpy as np

from gsv.constants import BERT_DIM, FRAMES_PER_TOKEN, MEL_CHANNELS, STYLE_BINS
from gsv.stages.messages import ReferenceResult, TextResult

PROMPT_TOKENS = 125  # five seconds of reference
PHONEMES = 40  # of a sentence of some four seconds
PROMPT_PHONEMES = 50
MOST_SENTENCES = 8


def text(sentences: int) -> TextResult:
    """Phonemes of so many sentences and of the reference."""
    if not 1 <= sentences <= MOST_SENTENCES:
        raise ValueError(f"sentences: got {sentences}; allowed: 1 to {MOST_SENTENCES}")
    rng = np.random.default_rng(sentences)
    return TextResult(
        phonemes=rng.integers(0, 732, PHONEMES * sentences, dtype=np.int32),
        phoneme_counts=np.full(sentences, PHONEMES, np.int32),
        bert_features=np.zeros((1, BERT_DIM), np.float32),  # English: one row of zeros for all
        bert_rows=np.zeros(PHONEMES * sentences, np.int32),
        phoneme_languages=np.ones(PHONEMES * sentences, np.int32),
        pauses=np.zeros(sentences + 1, np.float32),
        prompt_phonemes=rng.integers(0, 732, PROMPT_PHONEMES, dtype=np.int32),
        prompt_bert_features=np.zeros((1, BERT_DIM), np.float32),
        prompt_bert_rows=np.zeros(PROMPT_PHONEMES, np.int32),
        analysis="{}",
    )


def reference() -> ReferenceResult:
    """A reference; the same every time, so that its voice is warm after the first request."""
    rng = np.random.default_rng(0)
    frames = PROMPT_TOKENS * FRAMES_PER_TOKEN
    return ReferenceResult(
        prompt_tokens=rng.integers(0, 1024, PROMPT_TOKENS, dtype=np.int32),
        reference_spectrum=rng.random((STYLE_BINS, frames // 2), dtype=np.float32),
        reference_mel=rng.random((MEL_CHANNELS, frames), dtype=np.float32) * 2 - 1,
    )
