"""The bytes before the samples of a WAV file."""

from __future__ import annotations

import struct

PCM, IEEE_FLOAT = 1, 3  # WAVE format tags
# Size field of a WAV whose end nobody knows yet. Players read such a file to its end.
UNKNOWN_SIZE = 0xFFFFFFFF


def wav_header(rate: int, *, floating: bool, data_bytes: int | None) -> bytes:
    """The bytes before the samples of a mono WAV; `data_bytes` None for a length still unknown."""
    width = 4 if floating else 2
    form = struct.pack(
        "<HHIIHH", IEEE_FLOAT if floating else PCM, 1, rate, rate * width, width, 8 * width
    )
    # A format other than PCM carries an extension size and the `fact` chunk (number of frames).
    unknown = data_bytes is None or data_bytes > UNKNOWN_SIZE - 100
    frames = UNKNOWN_SIZE if unknown else (data_bytes or 0) // width
    chunks = struct.pack("<4sI", b"fmt ", 18 if floating else 16) + form
    if floating:
        chunks += struct.pack("<H4sII", 0, b"fact", 4, frames)
    data_size = UNKNOWN_SIZE if unknown else data_bytes or 0
    riff_size = UNKNOWN_SIZE if unknown else 4 + len(chunks) + 8 + data_size
    return (
        b"RIFF"
        + struct.pack("<I4s", riff_size, b"WAVE")
        + chunks
        + b"data"
        + struct.pack("<I", data_size)
    )
