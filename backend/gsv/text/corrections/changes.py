"""A text under correction, and the record of what was changed in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gsv.text.aligned import NOWHERE, AlignedText


@dataclass(frozen=True, slots=True)
class Change:
    """One replacement.

    Attributes:
        written: what stood there.
        spoken: what is read in its place; "" where it is left out.
        reason: why, for people.
        source: index of the first written character in the text that was corrected.
    """

    written: str
    spoken: str
    reason: str
    source: int = 0


@dataclass
class Draft:
    """A text that is being corrected; every replacement is recorded.

    Attributes:
        text: the text so far; each character knows its index in the written text.
        changes: the replacements, in the order in which they were made.
    """

    text: AlignedText
    changes: list[Change] = field(default_factory=list)

    @classmethod
    def of(cls, text: str) -> Draft:
        """The text as written."""
        return cls(AlignedText.of(text))

    def sub(
        self, pattern: re.Pattern[str], spoken: str | Callable[[re.Match[str]], str], reason: str
    ) -> None:
        """Replace every match; a match that stays as it is leaves no record."""

        def replaced(match: re.Match[str]) -> str:
            new = match.expand(spoken) if isinstance(spoken, str) else spoken(match)
            if new != match.group():
                place = self._source(match.start())
                self.changes.append(Change(match.group(), new, reason, place))
            return new

        if pattern.search(self.text.text):
            self.text = self.text.sub(pattern, replaced)

    def _source(self, index: int) -> int:
        """The written place of a character, or of the last one before it that has one."""
        for source in reversed(self.text.sources[: index + 1]):
            if source != NOWHERE:
                return source
        return 0


def any_of(words: Sequence[str]) -> str:
    """A pattern that matches any of the words, the longest first."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
