"""What a server tells of speech beside its samples: when words are spoken, and how it went."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class WordTime:
    """A word (in Chinese, Cantonese and Japanese a character) and when it is spoken.

    `start` and `end` are seconds of the answer, `sentence` the index of its sentence.
    """

    word: str
    start: float
    end: float
    sentence: int = 0


@dataclasses.dataclass(frozen=True)
class SentenceReport:
    """How a sentence came about.

    Attributes:
        text: as it was cut out of the request's text.
        phonemes, tokens: how many; 25 tokens are a second at speed 1.
        seconds: that it lasts in the answer.
        retries: why it was drawn again, once for each time: `run`, `loop`, `silence`, `too_long`,
            `limit`, `too_short`.
        seed: that its tokens were drawn with; derived from the request's where it was drawn again.
        signals: what is still wrong with it; a good sentence has none.
        details: all that the server tells of it.
    """

    text: str
    phonemes: int
    tokens: int
    seconds: float
    retries: tuple[str, ...]
    seed: int
    signals: tuple[str, ...]
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SentenceReport:
        """One entry of REPORT's JSON."""
        return cls(
            text=str(values["text"]),
            phonemes=int(values["phonemes"]),
            tokens=int(values["tokens"]),
            seconds=float(values["seconds"]),
            retries=tuple(map(str, values["retries"])),
            seed=int(values["seed"]),
            signals=tuple(map(str, values["signals"])),
            details=dict(values),
        )

    def line(self) -> str:
        """For people."""
        parts = [f"{self.seconds:.2f} s, {self.phonemes} phonemes, {self.tokens} tokens"]
        if self.retries:
            parts.append(f"drawn again for {', '.join(self.retries)}")
        if self.signals:
            parts.append(f"still wrong: {', '.join(self.signals)}")
        return f"{'; '.join(parts)}: {self.text.strip()}"
