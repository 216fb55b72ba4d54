"""WAV files that grow while a stream comes in."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from gsv_client.audio import Audio
from gsv_client.errors import AudioError, InvalidRequest, audio_errors
from gsv_client.wav_header import wav_header

GROWING = ("wav", "wav-float", "raw")


def check_growing(format: str) -> str:
    """AudioError if a file of this format can't be written while its audio comes in."""
    if format not in GROWING:
        raise AudioError(
            f"format: got {format!r}; allowed for a growing file: {', '.join(GROWING)}"
        )
    return format


class WavWriter:
    """Writes chunks of audio as one mono WAV that is playable at every moment.

    In a seekable file the sizes in the header follow each chunk; in a pipe they say "until the
    end". The first chunk fixes the rate.

    >>> import io, numpy as np
    >>> file = io.BytesIO()
    >>> with WavWriter(file) as writer:
    ...     writer.write(Audio(np.zeros(480), 48_000))
    ...     writer.write(Audio(np.zeros(480), 48_000))
    >>> _ = file.seek(0)
    >>> Audio.read(file).duration
    0.02

    Args:
        file: a path, or an open binary file that stays open.
        format: `wav` (16-bit PCM), `wav-float`, or `raw` (16-bit PCM without a header).
        in_place: False leaves the header alone even where the file could be rewound.
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | BinaryIO,
        format: str = "wav",
        *,
        in_place: bool = True,
    ) -> None:
        self._format = check_growing(format)
        self._name = str(getattr(file, "name", file))
        self._owns = isinstance(file, (str, os.PathLike))
        with audio_errors(self._name):
            if isinstance(file, (str, os.PathLike)):
                self._file: BinaryIO = Path(file).open("wb")  # noqa: SIM115 (closed by close)
            else:
                self._file = file
            seekable = in_place and format != "raw" and self._file.seekable()
            self._start = self._file.tell() if seekable else None
        self._rate: int | None = None
        self._data_bytes = 0

    @property
    def duration(self) -> float:
        """Seconds written so far."""
        width = 4 if self._format == "wav-float" else 2
        return self._data_bytes / width / self._rate if self._rate else 0.0

    def write(self, audio: Audio) -> None:
        """Append a chunk and flush it.

        Raises:
            InvalidRequest: the chunk's rate is not that of the first.
            AudioError: the file can't be written.
        """
        if self._rate is None:
            self._rate = audio.rate
            self._put(self._header())
        if audio.rate != self._rate:
            raise InvalidRequest.value("rate of the chunk", audio.rate, f"{self._rate} as before")
        floating = self._format == "wav-float"
        body = audio.samples.astype("<f4").tobytes() if floating else audio.pcm16().tobytes()
        self._put(body)
        self._data_bytes += len(body)
        self._update_header()
        with audio_errors(self._name):
            self._file.flush()

    def close(self) -> None:
        """Close the file if it was opened here; an open file that was given stays open."""
        if self._owns:
            with audio_errors(self._name):
                self._file.close()

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _header(self) -> bytes:
        if self._format == "raw" or self._rate is None:
            return b""
        known = None if self._start is None else self._data_bytes
        return wav_header(self._rate, floating=self._format == "wav-float", data_bytes=known)

    def _update_header(self) -> None:
        if self._start is None:
            return
        with audio_errors(self._name):
            self._file.seek(self._start)
            self._file.write(self._header())
            self._file.seek(0, os.SEEK_END)

    def _put(self, data: bytes) -> None:
        with audio_errors(self._name):
            self._file.write(data)
