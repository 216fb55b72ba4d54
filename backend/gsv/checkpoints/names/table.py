"""Tables of names as patterns, for files with many repeated blocks."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NUMBER, _LEAF = "#", "*"
_LEAVES = r"(weight|bias|weight_g|weight_v)"


class NameTable:
    """Upstream's patterns and ours; ``#`` stands for a number, a last ``*`` for weight or bias.

    A pattern without a name of ours is a key that is dropped on purpose.
    """

    def __init__(self, patterns: Mapping[str, str | None]) -> None:
        self._patterns = [(_compile(theirs), ours) for theirs, ours in patterns.items()]

    def rename(self, key: str) -> str | None:
        """Our name for ``key``, None when it is dropped; KeyError when no pattern fits."""
        for pattern, ours in self._patterns:
            if match := pattern.fullmatch(key):
                return None if ours is None else _fill(ours, match.groups())
        raise KeyError(key)


def _compile(pattern: str) -> re.Pattern[str]:
    escaped = re.escape(pattern)
    escaped = escaped.replace(re.escape(_NUMBER), r"(\d+)").replace(re.escape(_LEAF), _LEAVES)
    return re.compile(escaped)


def _fill(template: str, values: tuple[str, ...]) -> str:
    for value in values:
        template = re.sub(r"[#*]", value, template, count=1)
    return template
