"""Words whose pronunciation is given, on their way through the normaliser.

The normaliser spells acronyms and splits at capitals, so ``NVIDIA`` never reaches the dictionary.
A word with a given pronunciation is replaced by a made-up lower-case word, which nothing rewrites,
and is put back into the normalised text afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

ENGLISH_WORD = re.compile(r"[A-Za-z0-9]+(?:['’-][A-Za-z0-9]+)*")
_PARTS = re.compile("-")
_POSSESSIVE = re.compile("['’][sS]$")


class Placeholders:
    """The made-up words of one text.

    Attributes:
        phones: made-up word → the pronunciation given for what it stands for.
    """

    def __init__(self, text: str) -> None:
        """``text``: what the made-up words must differ from."""
        self.phones: dict[str, tuple[str, ...]] = {}
        self._words: dict[str, str] = {}
        self._marker = "zq"
        while self._marker in text.lower():
            self._marker += "q"

    def placeholder(self, word: str, phones: tuple[str, ...]) -> str:
        """A made-up word for one that is pronounced so."""
        number, letters = len(self.phones), ""
        while number or not letters:
            number, digit = divmod(number, 25)
            letters += "abcdefghijklmnopqrstuvwxy"[digit]  # no z: it begins the marker
        made_up = self._marker + letters
        self.phones[made_up] = phones
        self._words[made_up] = word
        return made_up

    def replace_known(self, text: str, known: Mapping[str, tuple[str, ...]]) -> str:
        """The text with every word replaced that is known, alone, possessive or in a compound.

        ``known``: lower-case word → pronunciation.
        """
        if not known:
            return text

        def replaced(word: str) -> str | None:
            if phones := known.get(word.lower()):
                return self.placeholder(word, phones)
            base = _POSSESSIVE.sub("", word)
            if base != word and (phones := known.get(base.lower())):
                return self.placeholder(base, phones) + "'s"
            return None

        def compound(match: re.Match[str]) -> str:
            if whole := replaced(match.group()):
                return whole
            parts = _PARTS.split(match.group())
            found = [replaced(part) for part in parts]
            if not any(found):
                return match.group()
            return " ".join(new or part for new, part in zip(found, parts, strict=True))

        return ENGLISH_WORD.sub(compound, text)

    def restored(self, text: str) -> str:
        """The text with the words themselves in it again."""
        if not self._words:
            return text
        made_up = re.compile(f"{self._marker}[a-y]+")
        return made_up.sub(lambda match: self._words.get(match.group(), match.group()), text)
