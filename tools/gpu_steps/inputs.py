"""What text frontend and reference encoder would give: the same phonemes and reference always."""

from __future__ import annotations

from typing import Any

import numpy as np

from gsv.constants import BERT_DIM, FRAMES_PER_TOKEN, MEL_CHANNELS, STYLE_BINS

PROMPT_TOKENS = 125  # five seconds of reference
PHONEMES = 40  # of a sentence of some four seconds
PROMPT_PHONEMES = 50
MOST_SENTENCES = 8


def text(sentences: int) -> dict[str, Any]:
    """Phonemes of so many sentences and of the reference; tensors by wire name."""
    if not 1 <= sentences <= MOST_SENTENCES:
        raise ValueError(f"sentences: got {sentences}; allowed: 1 to {MOST_SENTENCES}")
    rng = np.random.default_rng(sentences)
    return {
        "PHONEMES": rng.integers(0, 732, PHONEMES * sentences, dtype=np.int32),
        "PHONEME_COUNTS": np.full(sentences, PHONEMES, np.int32),
        "BERT_FEATURES": np.zeros((1, BERT_DIM), np.float32),  # English: one row of zeros for all
        "BERT_ROWS": np.zeros(PHONEMES * sentences, np.int32),
        "PHONEME_LANGUAGES": np.ones(PHONEMES * sentences, np.int32),
        "PAUSES": np.zeros(sentences + 1, np.float32),
        "PROMPT_PHONEMES": rng.integers(0, 732, PROMPT_PHONEMES, dtype=np.int32),
        "PROMPT_BERT_FEATURES": np.zeros((1, BERT_DIM), np.float32),
        "PROMPT_BERT_ROWS": np.zeros(PROMPT_PHONEMES, np.int32),
    }


def reference() -> dict[str, Any]:
    """A reference; the same every time, so that its voice is warm after the first request."""
    rng = np.random.default_rng(0)
    frames = PROMPT_TOKENS * FRAMES_PER_TOKEN
    return {
        "PROMPT_TOKENS": rng.integers(0, 1024, PROMPT_TOKENS, dtype=np.int32),
        "REFERENCE_SPECTRUM": rng.random((STYLE_BINS, frames // 2), dtype=np.float32),
        "REFERENCE_MEL": rng.random((MEL_CHANNELS, frames), dtype=np.float32) * 2 - 1,
    }
