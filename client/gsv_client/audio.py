"""A mono wave with its rate: read from any common container, joined, converted, saved."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from gsv_client.errors import AudioError, InvalidRequest, audio_errors
from gsv_client.spoken import SentenceReport, WordTime
from gsv_client.wav_header import wav_header

Samples = NDArray[np.float32]

# The server checks that a reference has 3 to 10 s. This limit only keeps a file that was named by
# mistake, such as a film's sound track, from being read and sent.
LONGEST_FILE_SECONDS = 120.0

PCM16_SCALE = 32_768  # full scale of 16-bit PCM, by which readers divide
FORMATS = ("wav", "wav-float", "flac", "raw")
_BY_SUFFIX = {".wav": "wav", ".wave": "wav", ".flac": "flac", ".raw": "raw", ".pcm": "raw"}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Audio:
    """A mono wave.

    Attributes:
        samples: float32 [n], in [-1, 1].
        rate: samples per second.
        times: when words are spoken, if that was asked for.
        report: how each sentence came about, if that was asked for.

    >>> import numpy as np
    >>> tone = Audio(0.1 * np.sin(np.arange(24_000) * 0.05), 48_000)
    >>> tone, tone.duration, tone.pcm16().dtype
    (Audio(0.50 s, 48000 Hz), 0.5, dtype('int16'))
    """

    samples: Samples
    rate: int
    times: tuple[WordTime, ...] = ()
    report: tuple[SentenceReport, ...] = ()

    def __post_init__(self) -> None:
        samples = np.asarray(self.samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise InvalidRequest.value(
                "samples", f"{samples.dtype} {list(samples.shape)}", "one channel of floats, [n]"
            )
        if isinstance(self.rate, bool) or int(self.rate) != self.rate or self.rate <= 0:
            raise InvalidRequest.value("rate", self.rate, "a whole number of samples per second")
        object.__setattr__(self, "samples", samples.astype(np.float32, copy=False))
        object.__setattr__(self, "rate", int(self.rate))

    @classmethod
    def read(cls, file: str | os.PathLike[str] | BinaryIO) -> Audio:
        """Read a file of any container that libsndfile knows; channels are averaged.

        Raises:
            AudioError: not there, no audio, or longer than a reference could be.
        """
        import soundfile

        name = str(getattr(file, "name", file))
        with audio_errors(name), soundfile.SoundFile(file) as source:
            seconds = source.frames / source.samplerate
            if seconds > LONGEST_FILE_SECONDS:
                raise AudioError(
                    f"{name}: {seconds:.0f} s long; allowed for a reference: 3 to 10 s; "
                    "cut a clean piece out of it"
                )
            channels = source.read(dtype="float32", always_2d=True)  # [n, channels]
            return cls(channels.mean(axis=1), source.samplerate)

    @classmethod
    def of(cls, source: Audio | str | os.PathLike[str] | tuple[NDArray[Any], int]) -> Audio:
        """Audio from whatever a caller has: an Audio, a path, or (samples, rate).

        Integer samples are taken as PCM and scaled to [-1, 1]; in unsigned ones the middle of the
        range is silence. The channels of [n, channels] or [channels, n] are averaged.
        """
        if isinstance(source, Audio):
            return source
        if isinstance(source, (str, os.PathLike)):
            return cls.read(source)
        if isinstance(source, (bytes, bytearray, memoryview)) or hasattr(source, "read"):
            raise InvalidRequest.value(
                "reference",
                type(source).__name__,
                "an Audio, a path, or a tuple (samples, rate); read a file's content with "
                "Audio.read(io.BytesIO(content)), an open file with Audio.read(file)",
            )
        if not (isinstance(source, tuple) and len(source) == 2):
            raise InvalidRequest.value(
                "reference", type(source).__name__, "an Audio, a path, or a tuple (samples, rate)"
            )
        samples, rate = np.asarray(source[0]), source[1]
        if samples.dtype.kind == "i":
            samples = samples / np.float32(np.iinfo(samples.dtype).max + 1.0)
        elif samples.dtype.kind == "u":
            middle = np.float32((np.iinfo(samples.dtype).max + 1.0) / 2)
            samples = (samples.astype(np.float64) - middle) / middle
        if samples.ndim == 2:
            samples = samples.mean(axis=int(np.argmin(samples.shape)))
        return cls(samples, rate)

    @classmethod
    def join(cls, pieces: Iterable[Audio]) -> Audio:
        """One Audio of several of the same rate, such as the chunks of a stream."""
        parts = list(pieces)
        rates = sorted({part.rate for part in parts})
        if len(rates) != 1:
            raise InvalidRequest.value("rates to join", rates, "one and the same for all pieces")
        return cls(
            np.concatenate([part.samples for part in parts]),
            rates[0],
            times=tuple(time for part in parts for time in part.times),
            report=tuple(sentence for part in parts for sentence in part.report),
        )

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.rate

    def pcm16(self) -> NDArray[np.int16]:
        """The samples as little-endian 16-bit PCM [n], rounded; what is beyond [-1, 1] is clipped.

        Raises:
            AudioError: a sample is not a number; it would become a loud click.
        """
        if not np.isfinite(self.samples).all():
            raise AudioError("the audio holds samples that are not numbers (NaN or infinite)")
        scaled = np.rint(self.samples.astype(np.float64) * PCM16_SCALE)
        pcm: NDArray[np.int16] = np.clip(scaled, -PCM16_SCALE, PCM16_SCALE - 1).astype("<i2")
        return pcm

    def save(self, file: str | os.PathLike[str] | BinaryIO, format: str | None = None) -> None:
        """Write to a path or an open binary file.

        Args:
            file: where to; a file object need not be seekable (a pipe will do).
            format: `wav` (16-bit PCM), `wav-float`, `flac` or `raw` (16-bit PCM without a
                header); by default told by the path's suffix, else `wav`.

        Raises:
            AudioError: unknown format, or the file can't be written.
        """
        chosen = check_format(format) if format else format_of(file)
        data = self._encoded(chosen)
        if isinstance(file, (str, os.PathLike)):
            with audio_errors(str(file)):
                Path(file).write_bytes(data)
            return
        with audio_errors(str(getattr(file, "name", "output"))):
            file.write(data)

    def _encoded(self, format: str) -> bytes:
        if format == "raw":
            return self.pcm16().tobytes()
        if format == "flac":
            return self._flac()
        floating = format == "wav-float"
        body = self.samples.astype("<f4").tobytes() if floating else self.pcm16().tobytes()
        return wav_header(self.rate, floating=floating, data_bytes=len(body)) + body

    def _flac(self) -> bytes:
        import io

        import soundfile

        buffer = io.BytesIO()
        with audio_errors("flac"):
            soundfile.write(buffer, self.pcm16(), self.rate, format="FLAC", subtype="PCM_16")
        return buffer.getvalue()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.duration:.2f} s, {self.rate} Hz)"


def check_format(format: str) -> str:
    """The format's own name; AudioError for one that is not known."""
    if format not in FORMATS:
        raise AudioError(f"format: got {format!r}; allowed: {', '.join(FORMATS)}")
    return format


def format_of(file: object) -> str:
    """The format that a path's suffix stands for; `wav` for what has no name."""
    if not isinstance(file, (str, os.PathLike)):
        return "wav"
    suffix = Path(file).suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise AudioError(
            f"{file}: the suffix {suffix!r} is not one of a known format; allowed: "
            f"{', '.join(_BY_SUFFIX)}, or name one of {', '.join(FORMATS)} with format (--format)"
        )
    return _BY_SUFFIX[suffix]
