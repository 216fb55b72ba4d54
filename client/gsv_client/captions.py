"""Times of words as SubRip and WebVTT: a caption for each piece of a sentence that fits a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gsv_client.spoken import WordTime

MOST_CHARACTERS = 42  # of a caption's line, as broadcasters have it
FORMATS = {"srt": "application/x-subrip; charset=utf-8", "vtt": "text/vtt; charset=utf-8"}


def captions(times: Sequence[WordTime], form: str) -> str:
    """A caption file.

    >>> print(captions([WordTime("Hi", 0.0, 0.2), WordTime("you", 0.3, 0.6)], "srt"))
    1
    00:00:00,000 --> 00:00:00,600
    Hi you
    <BLANKLINE>
    """
    mark = "," if form == "srt" else "."
    blocks = ["WEBVTT\n"] if form == "vtt" else []
    for number, line in enumerate(_lines(times), start=1):
        start, end = _clock(line[0].start, mark), _clock(line[-1].end, mark)
        # What WebVTT would take for a tag, and an end of the caption.
        text = _joined(line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        text = text if form == "vtt" else _joined(line)
        blocks.append(f"{number}\n{start} --> {end}\n{' '.join(text.split())}\n")
    return "\n".join(blocks)


def _lines(times: Sequence[WordTime]) -> Iterator[list[WordTime]]:
    line: list[WordTime] = []
    for word in times:
        full = line and len(_joined([*line, word])) > MOST_CHARACTERS
        if line and (full or word.sentence != line[-1].sentence):
            yield line
            line = []
        line.append(word)
    if line:
        yield line


def _joined(words: Sequence[WordTime]) -> str:
    """Words with blanks between them, except in scripts that are written without blanks."""
    text = ""
    for word in words:
        blank = text and not (_is_wide(text[-1]) and _is_wide(word.word[:1]))
        text += f" {word.word}" if blank else word.word
    return text


def _is_wide(character: str) -> bool:
    return "\u2e80" <= character <= "\uabff" and not "\uac00" <= character <= "\ud7a3"


def _clock(seconds: float, mark: str) -> str:
    whole = round(seconds * 1000)
    return (
        f"{whole // 3_600_000:02}:{whole // 60_000 % 60:02}:{whole // 1000 % 60:02}"
        f"{mark}{whole % 1000:03}"
    )
