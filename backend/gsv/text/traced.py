"""Text that remembers where each of its characters came from.

The normaliser is a long chain of replacements. Inline readings (``重{chong2}庆``) are given at a
place in the text as written, and needed at a place in the text as spoken; a ``Traced`` string
carries the former through the chain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

NOWHERE = -1
"""Source of a character that stands for no single written one: the words of a number, say."""


@dataclass(frozen=True, slots=True)
class Traced:
    """A string and, for each character, the index of its written character (or ``NOWHERE``)."""

    text: str
    sources: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> Traced:
        """The text as written: every character is its own source."""
        return cls(text, tuple(range(len(text))))

    @classmethod
    def join(cls, parts: Iterable[Traced]) -> Traced:
        """The parts one after the other."""
        parts = tuple(parts)
        return cls(
            "".join(part.text for part in parts),
            tuple(source for part in parts for source in part.sources),
        )

    def cut(self, start: int, end: int) -> Traced:
        """The characters from ``start`` up to ``end``."""
        return Traced(self.text[start:end], self.sources[start:end])

    def strip(self) -> Traced:
        """Without white space at both ends."""
        start = len(self.text) - len(self.text.lstrip())
        return self.cut(start, len(self.text.rstrip())) if self.text.strip() else Traced("", ())

    def split(self, separator: re.Pattern[str]) -> Iterator[Traced]:
        """The parts between matches of ``separator``, empty ones too."""
        start = 0
        for match in separator.finditer(self.text):
            yield self.cut(start, match.start())
            start = match.end()
        yield self.cut(start, len(self.text))

    def translate(self, table: Mapping[str, str]) -> Traced:
        """Characters replaced one for one; a character that maps to "" is deleted."""
        if not any(char in table for char in self.text):
            return self
        pairs = [
            (table.get(char, char), source)
            for char, source in zip(self.text, self.sources, strict=True)
        ]
        return Traced(
            "".join(char for char, _ in pairs), tuple(source for char, source in pairs if char)
        )

    def sub(self, pattern: re.Pattern[str], spoken: Callable[[re.Match[str]], str]) -> Traced:
        """Every match replaced. What a replacement leaves at its ends keeps its sources."""
        parts: list[Traced] = []
        end = 0
        for match in pattern.finditer(self.text):
            parts.append(self.cut(end, match.start()))
            parts.append(self._replaced(match.start(), match.end(), spoken(match)))
            end = match.end()
        if not parts:
            return self
        return Traced.join([*parts, self.cut(end, len(self.text))])

    def _replaced(self, start: int, end: int, new: str) -> Traced:
        old = self.text[start:end]
        shorter = min(len(old), len(new))
        head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
        rest = shorter - head
        tail = next((i for i in range(rest) if old[-1 - i] != new[-1 - i]), rest)
        middle = (NOWHERE,) * (len(new) - head - tail)
        kept = self.sources[start:end]
        return Traced(new, kept[:head] + middle + kept[len(old) - tail :])
