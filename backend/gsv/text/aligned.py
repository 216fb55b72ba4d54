"""Text that remembers where each of its characters came from.

The normaliser is a long chain of replacements. Inline readings (``重{chong2}庆``) are given at a
place in the text as written, and needed at a place in the text as spoken; an ``AlignedText``
carries the former through the chain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

NOWHERE = -1
"""Source of a character that stands for no single written one: the words of a number, say."""


@dataclass(frozen=True, slots=True)
class AlignedText:
    """A string and, for each character, the index of its written character (or ``NOWHERE``)."""

    text: str
    sources: tuple[int, ...]

    @classmethod
    def of(cls, text: str) -> AlignedText:
        """The text as written: every character is its own source."""
        return cls(text, tuple(range(len(text))))

    @classmethod
    def join(cls, parts: Iterable[AlignedText]) -> AlignedText:
        """The parts one after the other."""
        parts = tuple(parts)
        return cls(
            "".join(part.text for part in parts),
            tuple(source for part in parts for source in part.sources),
        )

    def cut(self, start: int, end: int) -> AlignedText:
        """The characters from ``start`` up to ``end``."""
        return AlignedText(self.text[start:end], self.sources[start:end])

    def strip(self) -> AlignedText:
        """Without white space at both ends."""
        start = len(self.text) - len(self.text.lstrip())
        end = len(self.text.rstrip())
        return self.cut(start, end) if end else AlignedText("", ())

    def split(self, separator: re.Pattern[str]) -> Iterator[AlignedText]:
        """The parts between matches of ``separator``, empty ones too."""
        start = 0
        for match in separator.finditer(self.text):
            yield self.cut(start, match.start())
            start = match.end()
        yield self.cut(start, len(self.text))

    def translate(self, table: Mapping[str, str]) -> AlignedText:
        """Characters replaced one for one; a character that maps to "" is deleted."""
        if not any(char in table for char in self.text):
            return self
        pairs = [
            (table.get(char, char), source)
            for char, source in zip(self.text, self.sources, strict=True)
        ]
        return AlignedText(
            "".join(char for char, _ in pairs), tuple(source for char, source in pairs if char)
        )

    def sub(self, pattern: re.Pattern[str], spoken: Callable[[re.Match[str]], str]) -> AlignedText:
        """Every match replaced. What a replacement leaves at its ends keeps its sources."""
        parts: list[AlignedText] = []
        end = 0
        for match in pattern.finditer(self.text):
            parts.append(self.cut(end, match.start()))
            parts.append(self._replaced(match.start(), match.end(), spoken(match)))
            end = match.end()
        if not parts:
            return self
        return AlignedText.join([*parts, self.cut(end, len(self.text))])

    def _replaced(self, start: int, end: int, new: str) -> AlignedText:
        old = self.text[start:end]
        shorter = min(len(old), len(new))
        head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
        rest = shorter - head
        tail = next((i for i in range(rest) if old[-1 - i] != new[-1 - i]), rest)
        middle = (NOWHERE,) * (len(new) - head - tail)
        kept = self.sources[start:end]
        return AlignedText(new, kept[:head] + middle + kept[len(old) - tail :])
