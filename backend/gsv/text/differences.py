"""What the frontend does otherwise than upstream, on purpose.

Upstream's phonemes are what the models were trained on, so its readings are kept, odd ones too,
except where it fails or leaves words out. ``gsv.text.agreement`` counts a case that upstream raised
on, or that shows one of these differences, apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gsv.text.split import MAX_SENTENCE, SENTENCE_MARKS


@dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        upstream: what upstream does.
        here: what is done here.
        shows: texts that can show it where upstream does not raise; None if it always raises.
    """

    upstream: str
    here: str
    shows: re.Pattern[str] | None = None


_MARKS = re.escape("".join(sorted(SENTENCE_MARKS)))

DIFFERENCES = (
    Difference(
        "raises on blank text, and on text that only has marks",
        "no sentences; a request without any is refused (INVALID_ARG)",
    ),
    Difference(
        "a run of more than 510 characters without a mark gives an empty sentence (which raises in "
        "most modes, and is spoken as a pause in en) and one that is too long for BERT",
        "no empty sentence; the run is cut at its last 、 ; or space within the limit, or at it",
        re.compile(rf"[^{_MARKS}\n]{{{MAX_SENTENCE - 1},}}"),
    ),
    Difference(
        "a Mandarin piece of more than 510 characters when written out (digits become words) is "
        "too long for BERT",
        "the sentence is cut near its middle until its pieces fit",
    ),
    Difference(
        "collapsing of repeated marks is left out when streaming",
        "always done",
    ),
    Difference(
        "an amount such as (5$) or ,5£ raises",
        "five dollars",
    ),
    Difference(
        "English numbers of more than 36 digits raise",
        "read digit by digit",
    ),
    Difference(
        "an English possessive of a word that the network is silent about raises",
        "'s is read alone",
    ),
    Difference(
        "an empty Mandarin segment raises in the BERT step",
        "it is left out",
    ),
)
