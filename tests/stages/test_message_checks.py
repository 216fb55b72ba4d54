"""What inner models refuse: whoever reaches the server can call them with anything."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from gsv.errors import InvalidRequest
from gsv.stages.messages import MelRequest, SemanticRequest, WaveRequest


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
