"""What inner models refuse: whoever reaches the server can call them with anything."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from gsv.constants import (
    MAX_TOKENS,
    MEL_RATE,
    REFERENCE_MAX_SECONDS,
    REFERENCE_RATE,
    SPECTRUM_HOP,
    SSL_RATE,
    SSL_TAIL_SAMPLES,
    TOKEN_RATE,
)
from gsv.errors import InvalidRequest
from gsv.models.gpt import MAX_POSITIONS
from gsv.stages.conditions import MOST_SCORES
from gsv.stages.messages import (
    SENTENCE_PHONEMES,
    SENTENCE_TOKENS,
    MelRequest,
    SemanticRequest,
    WaveRequest,
)


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


SEMANTIC = SemanticRequest(
    phonemes=ids(1, 2, 3),
    phoneme_counts=ids(3),
    bert_features=np.zeros((1, 1024), np.float32),
    bert_rows=ids(0, 0, 0),
    prompt_phonemes=ids(1, 731),
    prompt_bert_features=np.zeros((1, 1024), np.float32),
    prompt_bert_rows=ids(0, 0),
    prompt_tokens=ids(0, 1023),
)
MEL = MelRequest(
    tokens=ids(0, 1023),
    token_counts=ids(2),
    phonemes=ids(1, 2, 3),
    phoneme_counts=ids(3),
    prompt_tokens=ids(5, 6),
    prompt_phonemes=ids(1, 2),
    reference_spectrum=np.zeros((704, 5), np.float32),
    reference_mel=np.zeros((100, 5), np.float32),
)
WAVE = WaveRequest(mel=np.zeros((100, 4), np.float32), mel_counts=ids(4))


@pytest.mark.parametrize(
    ("valid", "field", "value"),
    [
        *((SEMANTIC, "phonemes", ids(1, wrong, 3)) for wrong in (-1, 732, 2**31 - 1)),
        *((SEMANTIC, "prompt_phonemes", ids(1, wrong)) for wrong in (-1, 732)),
        *((SEMANTIC, "prompt_tokens", ids(0, wrong)) for wrong in (-1, 1024)),
        *((SEMANTIC, "bert_rows", ids(0, 0, wrong)) for wrong in (-1, 1)),
        *((SEMANTIC, "prompt_bert_rows", ids(0, wrong)) for wrong in (-1, 1)),
        (SEMANTIC, "bert_rows", ids(0, 0)),
        (SEMANTIC, "bert_features", np.zeros((1, 3), np.float32)),
        (SEMANTIC, "bert_features", np.zeros((0, 1024), np.float32)),
        (SEMANTIC, "phoneme_counts", ids(2)),
        (SEMANTIC, "phoneme_counts", ids(4, -1)),
        (SEMANTIC, "phoneme_languages", ids(0, 0, 99)),
        (SEMANTIC, "phoneme_languages", ids(0)),
        (SEMANTIC, "drawn_tokens", ids(1024)),
        (SEMANTIC, "first_sentence", -1),
        (SEMANTIC, "chunk_tokens", -1),
        (SEMANTIC, "listener_seconds", math.nan),
        (SEMANTIC, "top_k", 0),
        (SEMANTIC, "temperature", math.nan),
        *((MEL, "tokens", ids(0, wrong)) for wrong in (-1, 1024)),
        *((MEL, "prompt_tokens", ids(0, wrong)) for wrong in (-1, 1024)),
        *((MEL, "phonemes", ids(1, wrong, 3)) for wrong in (-1, 732)),
        *((MEL, "prompt_phonemes", ids(1, wrong)) for wrong in (-1, 732)),
        (MEL, "prompt_tokens", ids()),
        (MEL, "token_counts", ids(1)),
        (MEL, "token_counts", ids(1, 1)),
        (MEL, "reference_spectrum", np.zeros((703, 5), np.float32)),
        (MEL, "reference_spectrum", np.zeros((704, 0), np.float32)),
        (MEL, "reference_mel", np.zeros((100, 0), np.float32)),
        (MEL, "past_mel", np.zeros((99, 5), np.float32)),
        (MEL, "first_frame", 4),  # without PAST_MEL
        (MEL, "first_frame", -4),
        (MEL, "frame_count", -1),
        (MEL, "first_sentence", -1),
        (MEL, "speed", math.inf),
        (MEL, "sample_steps", 0),
        (WAVE, "mel", np.zeros((99, 4), np.float32)),
        (WAVE, "mel_counts", ids(5)),
        (WAVE, "mel_counts", ids(5, -1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_lies_outside_is_refused_by_name(valid: Any, field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^(?:[A-Z_]*{field.upper()}|PHONEME_COUNTS|BERT_)"):
        dataclasses.replace(valid, **{field: value})


def sentences(tokens: int, phonemes: int, count: int = 1) -> dict[str, np.ndarray]:
    """The fields of so many sentences of that length."""
    return {
        "tokens": np.zeros(tokens * count, np.int32),
        "token_counts": np.full(count, tokens, np.int32),
        "phonemes": np.zeros(phonemes * count, np.int32),
        "phoneme_counts": np.full(count, phonemes, np.int32),
    }


def reference(seconds: float) -> dict[str, np.ndarray]:
    """The fields of a reference."""
    return {
        "prompt_tokens": np.zeros(round(seconds * TOKEN_RATE), np.int32),
        "reference_spectrum": np.zeros((704, round(seconds * REFERENCE_RATE / SPECTRUM_HOP))),
        "reference_mel": np.zeros((100, round(seconds * MEL_RATE))),
    }


def test_the_longest_that_is_ever_sent_is_taken() -> None:
    """By the GPT's own limits, which no parameter raises; many sentences may be long together."""
    assert MAX_TOKENS < SENTENCE_TOKENS
    assert MAX_POSITIONS <= SENTENCE_PHONEMES
    for count in (1, 20):
        dataclasses.replace(MEL, **sentences(MAX_TOKENS, MAX_POSITIONS, count))
    tail = SSL_TAIL_SAMPLES / SSL_RATE
    dataclasses.replace(MEL, **reference(REFERENCE_MAX_SECONDS + tail + 1))
    dataclasses.replace(MEL, prompt_phonemes=np.zeros(MAX_POSITIONS, np.int32))


def test_one_row_at_its_limits_fits_into_a_batch() -> None:
    assert SENTENCE_TOKENS**2 <= MOST_SCORES
    assert (SENTENCE_PHONEMES / 2) ** 2 <= MOST_SCORES


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (sentences(100_000, 10), "TOKEN_COUNTS: got 100,000 tokens in one sentence;"),
        (sentences(2_001, 10, 3), "TOKEN_COUNTS: got 2,001 tokens in one sentence;"),
        (sentences(10, 100_000), "PHONEME_COUNTS: got 100,000 phonemes in one sentence;"),
        (sentences(10, 4_001), "PHONEME_COUNTS: got 4,001 phonemes in one sentence;"),
        ({"prompt_tokens": np.zeros(501, np.int32)}, "PROMPT_TOKENS: got 501 tokens;"),
        ({"prompt_phonemes": np.zeros(4_001, np.int32)}, "PROMPT_PHONEMES: got 4,001 phonemes;"),
        ({"reference_spectrum": np.zeros((704, 1_001))}, "REFERENCE_SPECTRUM: got 1,001 frames;"),
        ({"reference_mel": np.zeros((100, 2_001))}, "REFERENCE_MEL: got 2,001 frames;"),
    ],
)  # fmt: skip
def test_what_would_take_all_memory_is_refused(changed: dict[str, Any], message: str) -> None:
    """Scores of attention grow with the square of a length."""
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        dataclasses.replace(MEL, **changed)
