"""The phonemes of American English as CMUdict writes them."""

from __future__ import annotations

_CONSONANTS = ("B CH D DH F G HH JH K L M N", "NG P R S SH T TH V W Y Z ZH")
_VOWELS = ("AA AE AH AO AW AY EH ER", "EY IH IY OW OY UH UW")

ARPABET = frozenset(
    [phoneme for line in _CONSONANTS for phoneme in line.split()]
    + [vowel + stress for line in _VOWELS for vowel in line.split() for stress in "012"]
)
