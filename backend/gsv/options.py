"""What a caller may choose, and the limits of each choice: one table for every stage.

The names, defaults and ranges are those of the public interface (``config.pbtxt`` of
``gpt_sovits_v4``). Nothing is clamped: a value outside is refused with its name, the value and
what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
import secrets

from gsv.constants import OUTPUT_RATES, VOCABULARY
from gsv.errors import InvalidRequest

LANGUAGES = (
    "auto", "auto_yue", "zh", "en", "ja", "ko", "yue", "all_zh", "all_ja", "all_ko", "all_yue",
)  # fmt: skip
READINGS = ("corrected", "upstream")  # of a text: see gsv.text.frontend
SPLIT_METHODS = ("cut0", "cut1", "cut2", "cut3", "cut4", "cut5")
TEXT_LIMIT = 10_000  # characters
SEED_MAX = 2**63 - 1
RANDOM_SEED = -1


@dataclasses.dataclass(frozen=True)
class Range:
    """A closed interval, or one that is open below."""

    low: float
    high: float
    open_below: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        above = value > self.low if self.open_below else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        start = "above" if self.open_below else "from"
        return f"{start} {self.low:g} to {self.high:g}"


RANGES = {
    "TOP_K": Range(1, VOCABULARY),
    "TOP_P": Range(0, 1, open_below=True),
    "TEMPERATURE": Range(0, 2, open_below=True),
    "REPETITION_PENALTY": Range(1, 2),
    "SPEED": Range(0.6, 1.65),
    "SAMPLE_STEPS": Range(1, 100),
    "PAUSE_SECONDS": Range(0, 5),
    "REFERENCE_SAMPLE_RATE": Range(8_000, 192_000),
}


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
    """InvalidRequest when ``text`` has nothing in it, is too long, or holds a lone surrogate."""
    if not text.strip():
        raise InvalidRequest.value(tensor, text, "text with at least one character to speak")
    if len(text) > TEXT_LIMIT:
        raise InvalidRequest(
            f"{tensor}: got {len(text)} characters; allowed: up to {TEXT_LIMIT}; "
            "send longer texts in several requests"
        )


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

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            tensor = field.name.upper()
            if tensor in RANGES:
                check_range(tensor, getattr(self, field.name))
        check_seed(self.seed)
        check_choice("SPLIT_METHOD", self.split_method, SPLIT_METHODS)
        check_choice("SAMPLE_RATE", self.sample_rate, OUTPUT_RATES)


DEFAULTS = SpeechOptions()
