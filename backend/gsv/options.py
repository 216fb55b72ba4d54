"""What a caller chose, checked: the same rules for every stage.

Ranges and choices stand in ``gsv_client.limits``, which the client reads too. Nothing is clamped: a
value outside is refused with its name, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import secrets

from gsv.errors import InvalidRequest
from gsv_client.limits import (
    LANGUAGES,
    RANDOM_SEED,
    RANGES,
    SAMPLE_RATES,
    SEED_MAX,
    SPLIT_METHODS,
    TEXT_LIMIT,
)

__all__ = [
    "DEFAULTS",
    "LANGUAGES",
    "RANGES",
    "READINGS",
    "SAMPLE_RATES",
    "SPLIT_METHODS",
    "TEXT_LIMIT",
    "SpeechOptions",
    "check_choice",
    "check_range",
    "check_seed",
    "check_text",
    "resolve_seed",
]

READINGS = ("corrected", "upstream")  # of a text: see gsv.text.frontend


def check_range(tensor: str, value: float) -> None:
    """InvalidRequest unless ``value`` lies in the range of ``tensor``."""
    allowed = RANGES[tensor]
    if value not in allowed:
        raise InvalidRequest.value(tensor, value, str(allowed))


def check_choice(tensor: str, value: str | int, choices: tuple[str | int, ...]) -> None:
    """InvalidRequest unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise InvalidRequest.value(tensor, value, ", ".join(map(str, choices)))


def check_seed(value: int) -> None:
    """InvalidRequest unless ``value`` is a seed or the mark for a random one."""
    if not RANDOM_SEED <= value <= SEED_MAX:
        raise InvalidRequest.value("SEED", value, f"0 to {SEED_MAX}, or {RANDOM_SEED} for random")


def resolve_seed(value: int) -> int:
    """The seed to use: ``value`` itself, or a fresh random one for -1."""
    return secrets.randbelow(SEED_MAX) if value == RANDOM_SEED else value


def check_text(tensor: str, text: str) -> None:
    """InvalidRequest when ``text`` is too long or has nothing in it."""
    if len(text) > TEXT_LIMIT:
        raise InvalidRequest(
            f"{tensor}: got {len(text)} characters; allowed: up to {TEXT_LIMIT}; "
            "send longer texts in several requests"
        )
    if not text.strip():
        raise InvalidRequest.value(tensor, text, "text with at least one character to speak")


@dataclasses.dataclass(frozen=True)
class SpeechOptions:
    """Every scalar choice of a request but its texts; making one checks all of them."""

    top_k: int = 15
    top_p: float = 1.0
    temperature: float = 1.0
    repetition_penalty: float = 1.35
    seed: int = RANDOM_SEED
    speed: float = 1.0
    sample_steps: int = 32
    split_method: str = "cut5"
    pause_seconds: float = 0.3
    sample_rate: int = 48_000
    guard: int = 1  # against bad speech; 0: none

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            tensor = field.name.upper()
            if tensor in RANGES:
                check_range(tensor, getattr(self, field.name))
        check_seed(self.seed)
        check_choice("SPLIT_METHOD", self.split_method, SPLIT_METHODS)
        check_choice("SAMPLE_RATE", self.sample_rate, SAMPLE_RATES)


DEFAULTS = SpeechOptions()
