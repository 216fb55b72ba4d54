"""The public request: defaults, every limit, and the rules between inputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from gsv.errors import InvalidRequest
from gsv.stages.speech import PublicRequest

WAVE = np.zeros(64_000, np.float32)
REFERENCE: dict[str, Any] = {
    "reference_audio": WAVE,
    "reference_sample_rate": 16_000,
    "reference_text": "Hello.",
}


def test_defaults_are_those_of_the_interface() -> None:
    filled = dataclasses.asdict(PublicRequest(text="Hello.").filled())
    tensors = {name.upper(): value for name, value in filled.items() if value is not None}
    seed = tensors.pop("SEED")
    assert 0 <= seed < 2**63
    assert tensors == {
        "TEXT": "Hello.",
        "LANGUAGE": "auto",
        "VOICE": "",
        "REFERENCE_TEXT": "",
        "REFERENCE_LANGUAGE": "auto",
        "TOP_K": 15,
        "TOP_P": 1.0,
        "TEMPERATURE": 1.0,
        "REPETITION_PENALTY": 1.35,
        "SPEED": 1.0,
        "SAMPLE_STEPS": 32,
        "SPLIT_METHOD": "cut5",
        "PAUSE_SECONDS": 0.3,
        "SAMPLE_RATE": 48_000,
        "GUARD": 1,
        "DETAILS": 0,
    }


def test_a_seed_is_kept_and_a_random_one_is_drawn_anew() -> None:
    assert PublicRequest(text="a", seed=7).filled().seed == 7
    drawn = {PublicRequest(text="a", seed=-1).filled().seed for _ in range(4)}
    assert len(drawn) == 4  # equal by chance once in 2**125


@pytest.mark.parametrize(
    ("field", "accepted", "refused"),
    [
        ("top_k", [1, 1025], [0, 1026, -1]),
        ("top_p", [1e-6, 1.0], [0.0, 1.000001, -0.1, float("nan"), float("inf")]),
        ("temperature", [1e-6, 2.0], [0.0, 2.1, float("nan")]),
        ("repetition_penalty", [1.0, 2.0], [0.99, 2.01]),
        ("seed", [-1, 0, 2**63 - 1], [-2, 2**63]),
        ("speed", [0.6, 1.65], [0.59, 1.66]),
        ("sample_steps", [1, 100], [0, 101]),
        ("pause_seconds", [0.0, 5.0], [-0.01, 5.01]),
        ("sample_rate", [8_000, 48_000], [0, 11_025, 96_000]),
        ("guard", [0, 1], [-1, 2]),
        ("split_method", ["cut0", "cut5"], ["cut6", "", "CUT1"]),
        ("language", ["auto", "all_yue"], ["fr", "", "ZH"]),
        ("reference_language", ["ja"], ["xx"]),
        ("text", ["a", "a" * 10_000], ["", " \n", "a" * 10_001]),
    ],
)
def test_limits(field: str, accepted: list[Any], refused: list[Any]) -> None:
    for value in accepted:
        PublicRequest(**{"text": "Hello.", field: value})
    for value in refused:
        with pytest.raises(InvalidRequest, match=field.upper()) as caught:
            PublicRequest(**{"text": "Hello.", field: value})
        assert "allowed" in str(caught.value)


@pytest.mark.parametrize("missing", list(REFERENCE))
def test_a_reference_is_complete(missing: str) -> None:
    parts = {name: value for name, value in REFERENCE.items() if name != missing}
    with pytest.raises(InvalidRequest, match=missing.upper()):
        PublicRequest(text="Hello.", **parts)


def test_a_reference_excludes_a_voice() -> None:
    PublicRequest(text="Hello.", **REFERENCE)
    with pytest.raises(InvalidRequest, match="VOICE"):
        PublicRequest(text="Hello.", voice="sample", **REFERENCE)


@pytest.mark.parametrize("rate", [7_999, 192_001])
def test_the_reference_rate_has_limits(rate: int) -> None:
    with pytest.raises(InvalidRequest, match="REFERENCE_SAMPLE_RATE"):
        PublicRequest(text="Hello.", **{**REFERENCE, "reference_sample_rate": rate})
