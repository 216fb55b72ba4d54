"""What the index of an MP4 file promises, before libav makes memory of it.

libav has some 35 bytes for each sample (one frame of sound) that the tables count, whether the file
holds any. A file of a kilobyte can count a thousand million. ISO/IEC 14496-12 has the boxes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

MOST_SAMPLES = 1_000_000  # two minutes of AAC at 48 kHz have 5,625
_MEDIA = (b"mdat", b"free", b"skip", b"wide")  # boxes in which libav looks for no others
_HEADER = 8  # bytes of a box's size and type


def check_index(data: bytes) -> None:
    """ValueError if the tables count more samples than a recording has, or are compressed."""
    promised = 0
    for begin, end in _indexes(data):
        if data.find(b"cmov", begin, end) >= 0:
            raise ValueError("a compressed index")
        # Wherever they stand: libav reads a table in any box that it looks into.
        for kind in (b"stsz", b"stz2", b"trun", b"stts", b"ctts"):
            promised += sum(_samples(data, place) for place in _places(data, kind, begin, end))
    if promised > MOST_SAMPLES:
        raise ValueError(f"an index of {promised} samples")


def _indexes(data: bytes) -> Iterator[tuple[int, int]]:
    """Begin and end of each outermost box that may hold a part of the index."""
    place = 0
    while place + _HEADER <= len(data):
        size, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        end = place + size if size >= _HEADER else len(data)  # 0: the last one
        if kind not in _MEDIA:
            yield place, min(end, len(data))
        place = end


def _places(data: bytes, kind: bytes, begin: int, end: int) -> Iterator[int]:
    """Where the content of each box of a kind begins."""
    while (found := data.find(kind, begin, end)) >= 0:
        begin = found + len(kind)
        yield begin


def _samples(data: bytes, place: int) -> int:
    """How many samples the table whose content begins there counts."""
    kind = data[place - 4 : place]
    if kind in (b"stts", b"ctts"):  # version and flags, entries, then (samples, time) of each
        entries = _number(data, place + 4)
        table = np.frombuffer(data[place + 8 : place + 8 + 8 * entries], ">u4")
        return int(table[::2].sum(dtype=np.int64)) if len(table) % 2 == 0 else MOST_SAMPLES + 1
    # version and flags, the size of all samples or of a field (not in trun), samples
    return _number(data, place + (4 if kind == b"trun" else 8))


def _number(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 4], "big")
