"""What a request may choose, and the limits and default of each choice: the one table.

Backend, client, command line and tests read it here; ``config.pbtxt`` says the same in words, and a
test compares the two. Only the standard library is imported: every stage of the server reads this.
"""

from __future__ import annotations

import dataclasses

LANGUAGES = (
    "auto", "auto_yue", "zh", "en", "ja", "ko", "yue", "all_zh", "all_ja", "all_ko", "all_yue",
)  # fmt: skip
SPLIT_METHODS = ("cut0", "cut1", "cut2", "cut3", "cut4", "cut5")
SAMPLE_RATES = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)  # Hz, of the answer
TEXT_LIMIT = 10_000  # characters
SEED_MAX = 2**63 - 1
RANDOM_SEED = -1


@dataclasses.dataclass(frozen=True)
class Range:
    """A closed interval of finite bounds, or one that is open below.

    >>> 1.0 in Range(0, 1, open_below=True), 0.0 in Range(0, 1, open_below=True)
    (True, False)
    """

    low: float
    high: float
    open_below: bool = False

    def __contains__(self, value: float) -> bool:
        # By comparison alone: `isfinite` fails for an integer beyond all floats, and NaN is neither
        # above nor below anything.
        above = value > self.low if self.open_below else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        start = "above" if self.open_below else "from"
        return f"{start} {self.low:g} to {self.high:g}"


# By tensor name.
RANGES = {
    "TOP_K": Range(1, 1025),  # the vocabulary of the semantic GPT
    "TOP_P": Range(0, 1, open_below=True),
    "TEMPERATURE": Range(0, 2, open_below=True),
    "REPETITION_PENALTY": Range(1, 2),
    "SPEED": Range(0.6, 1.65),
    "SAMPLE_STEPS": Range(1, 100),
    "PAUSE_SECONDS": Range(0, 5),
    "GUARD": Range(0, 1),  # whole numbers: off, on
    "REFERENCE_SAMPLE_RATE": Range(8_000, 192_000),
}
DEFAULTS: dict[str, str | int | float] = {
    "LANGUAGE": "auto",
    "REFERENCE_LANGUAGE": "auto",
    "TOP_K": 15,
    "TOP_P": 1.0,
    "TEMPERATURE": 1.0,
    "REPETITION_PENALTY": 1.35,
    "SEED": RANDOM_SEED,
    "SPEED": 1.0,
    "SAMPLE_STEPS": 32,
    "SPLIT_METHOD": "cut5",
    "PAUSE_SECONDS": 0.3,
    "SAMPLE_RATE": 48_000,
    "GUARD": 1,
}


def described(tensor: str) -> str:
    """Range and default of a number, for help texts.

    >>> described("SPEED")
    'From 0.6 to 1.65.  [default: 1]'
    """
    return f"{str(RANGES[tensor]).capitalize()}.  [default: {DEFAULTS[tensor]:g}]"
