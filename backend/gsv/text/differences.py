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
        languages: in which it shows; empty for all.
    """

    upstream: str
    here: str
    shows: re.Pattern[str] | None = None
    languages: tuple[str, ...] = ()

    def can_show(self, text: str, mode: str) -> bool:
        """Whether a text read in this language mode ("": any) can differ for this reason."""
        if self.shows is None or not self.shows.search(text):
            return False
        language = mode.removeprefix("all_")
        return (
            not (mode and self.languages) or mode.startswith("auto") or (language in self.languages)
        )


_MARKS = re.escape("".join(sorted(SENTENCE_MARKS)))

DIFFERENCES = (
    Difference(
        "raises on blank text, and on text that has nothing but marks",
        "no sentences; a request without any is refused (INVALID_ARG)",
    ),
    Difference(
        "a run of more than 510 characters without a mark gives an empty sentence, which raises or "
        "is spoken as a pause, and a sentence that is too long for BERT",
        "no empty sentence; the run is cut at its last 、 ; or space within the limit, or at it",
        re.compile(rf"[^{_MARKS}\n]{{{MAX_SENTENCE - 1},}}"),
    ),
    Difference(
        "a Mandarin sentence of more than 510 characters when written out is too long for BERT",
        "it is cut near its middle until its parts fit",
    ),
    Difference(
        "repeated marks are not collapsed when streaming",
        "they always are",
    ),
    Difference(
        "an empty Mandarin segment raises in the BERT step",
        "it is left out",
    ),
    Difference(
        "characters without a reading raise: 兙, 甅 and ten more in Mandarin, 讠, 钅 and 17 more "
        "radicals in Cantonese",
        "they are read as UNK",
    ),
    Difference(
        "decimal digits of scripts other than ASCII and full-width raise in Mandarin and Cantonese",
        "they are read",
    ),
    Difference(
        "in a time range (9:30-10:15) the first time's minutes decide whether either is 半",
        "each time's own minutes are read",
        re.compile(r"\d:\d\d(:\d\d)?[~-]\d{1,2}:\d\d"),
        ("zh", "yue"),
    ),
    Difference(
        "a character whose simplified form lies outside U+4E00–9FA5 is dropped (綵, 訢 and others)",
        "it stays as it is and is read",
        re.compile("[儸綵訢撝瞜讌螮貙鰆鷈鷉鷿鸊]"),
        ("zh", "yue"),
    ),
    Difference(
        "榜 is taken for a traditional character, and read as 搒 (bàng)",
        "it is read as it is (bǎng)",
        re.compile("榜"),
        ("zh", "yue"),
    ),
    Difference(
        "a character with two syllables in Cantonese (卅, 瓩) is read as a broken one",
        "both are read",
        re.compile("[兙兛兝兞兡兣卄卅卌嗧瓧瓩瓰瓱瓸甅竍竏竓竕竡竰籿粀粁粌粍粨粴糎]"),
        ("yue",),
    ),
    Difference(
        "a Korean number before a counted noun is also replaced inside other numbers of the "
        "sentence; one of more than 16 digits raises",
        "each number is replaced where it stands; long ones are read digit by digit",
        re.compile(
            r"(?<!\d)(\d+)[ㄱ-힣].*(?:\d\1|\1\d)|\d(\d+)\D.*(?<!\d)\2[ㄱ-힣]|"
            r"(?<!\d)(\d+)\d+\D.*(?<!\d)\3[ㄱ-힣]"
        ),
        ("ko",),
    ),
    Difference(
        "very long runs of Japanese overflow OpenJTalk's buffers and crash the process",
        "they are read in parts",
    ),
    Difference(
        "English amounts such as (5$) or ,5£ raise",
        "five dollars, five pounds",
    ),
    Difference(
        "English numbers of more than 36 digits raise",
        "they are read digit by digit",
    ),
    Difference(
        "the possessive of an English word that no dictionary has and the network is silent about "
        "raises",
        "'s is read alone",
    ),
)


def table() -> str:
    """The differences as a Markdown table."""
    rows = [f"| {difference.upstream} | {difference.here} |" for difference in DIFFERENCES]
    return "\n".join(["| upstream | here |", "|---|---|", *rows]) + "\n"
