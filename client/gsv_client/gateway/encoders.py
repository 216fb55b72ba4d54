"""Audio as bytes of a format: one encoder and one container for each answer, fed chunk by chunk.

A codec that is begun anew for every chunk pads each of them; here nothing lies between chunks but
what the server sent.
"""

from __future__ import annotations

import dataclasses
import io
import struct
from collections.abc import Callable
from typing import Any, Protocol, cast

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from gsv_client.audio import PCM16_SCALE, Audio, Samples
from gsv_client.errors import ServerError
from gsv_client.gateway.problems import refused
from gsv_client.limits import SAMPLE_RATES
from gsv_client.wav_header import UNKNOWN_SIZE, wav_header

OPUS_RATES = (8_000, 16_000, 24_000, 48_000)
_MULAW, _MULAW_BIAS, _MULAW_CLIP = 7, 132, 32_635  # WAVE format tag; ITU-T G.711
# Written out in pieces no longer than this: libsndfile's Vorbis overflows its stack on long ones.
_VORBIS_PIECE = 24_000  # samples
# Samples that encoder and decoder put before the first one: LAME's 576 and 529; one window of AAC.
_MP3_DELAY, _AAC_DELAY = 1_105, 1_024
_SILENT = 1e-4  # of full scale (-80 dB): nobody hears what stays below


class Encoder(Protocol):
    """Samples in, bytes out."""

    def encode(self, samples: Samples) -> bytes:
        """Bytes that are ready after these samples, float32 [n]."""

    def finish(self) -> bytes:
        """The rest; nothing may come after it."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of answers.

    Attributes:
        name: as `response_format` has it.
        media_type: of the answer, exact: players choose their decoder by it.
        rates: in Hz, that it can carry.
        rate: in Hz, where the request names none.
    """

    name: str
    media_type: str
    rates: tuple[int, ...] = SAMPLE_RATES
    rate: int = 48_000


FORMATS = {
    form.name: form
    for form in (
        Format("mp3", "audio/mpeg"),
        Format("opus", "audio/ogg; codecs=opus", rates=OPUS_RATES),
        Format("aac", "audio/aac"),
        Format("flac", "audio/flac"),
        Format("wav", "audio/wav"),
        Format("pcm", "audio/pcm", rate=24_000),  # as OpenAI's: 24 kHz, 16 bit, mono
        Format("mulaw", "audio/wav", rate=8_000),
        Format("vorbis", "audio/ogg; codecs=vorbis"),
    )
}


def format_named(name: str) -> Format:
    """The format of that name; InvalidRequest for another."""
    if name not in FORMATS:
        raise refused("response_format", name, ", ".join(FORMATS))
    return FORMATS[name]


def rate_for(form: Format, given: int | None) -> int:
    """The rate of an answer; InvalidRequest for one that the format can't carry."""
    if given is None:
        return form.rate
    if given not in form.rates:
        allowed = ", ".join(map(str, form.rates))
        raise refused("sample_rate", given, f"{allowed} with {form.name}")
    return given


def open_encoder(form: Format, rate: int, *, whole: bool = False, silence: float = 0.0) -> Encoder:
    """An encoder for one answer.

    Args:
        form: what comes out.
        rate: Hz of the samples, one of the format's.
        whole: the answer leaves in one piece, so its headers tell its length.
        silence: seconds of silence that the answer will end with, at least; see `_Codec`.
    """
    return _MAKERS[form.name](_Answer(rate, whole, silence))


def encoded(audio: Audio, form: Format) -> bytes:
    """A whole answer as a file."""
    silence = (len(audio.samples) - _end_of_sound(audio.samples)) / audio.rate
    encoder = open_encoder(form, audio.rate, whole=True, silence=silence)
    return encoder.encode(audio.samples) + encoder.finish()


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What is known of an answer before it is encoded; as `open_encoder` has it."""

    rate: int
    whole: bool
    silence: float


class _PCM:
    def encode(self, samples: Samples) -> bytes:
        return _pcm16(samples).tobytes()

    def finish(self) -> bytes:
        return b""


class _WAV:
    """16-bit PCM or µ-law. The header of a stream leaves with its first chunk."""

    def __init__(
        self,
        whole: bool,
        header: Callable[[int | None], bytes],
        convert: Callable[[Samples], bytes],
    ) -> None:
        self._header, self._convert = header, convert
        self._kept: list[bytes] | None = [] if whole else None
        self._begun = False

    def encode(self, samples: Samples) -> bytes:
        data = self._convert(samples)
        if self._kept is not None:
            self._kept.append(data)
            return b""
        head = b"" if self._begun else self._header(None)
        self._begun = True
        return head + data

    def finish(self) -> bytes:
        if self._kept is not None:
            data = b"".join(self._kept)
            return self._header(len(data)) + data
        return b"" if self._begun else self._header(0)


class _Codec:
    """A codec and its container in libav.

    Some codecs put a delay before the first sample, which a container without a header of its own
    has no place to tell: a player would play one or two packets more than there is audio. Where
    the answer ends with silence, packets of that are left out instead: the sound comes later by
    the delay, and nothing of it is lost. Where it does not, the packets of the delay are left
    out, and the first window of the sound fades in.

    Args:
        container: libav's name, with its options.
        codec: libav's name.
        answer: what is known of the audio.
        rewinds: the container goes back at the end and fills in its header.
        bit_rate: bits a second; None for a codec that has no such thing.
        options: of the container.
        codec_options: of the codec.
        delay: samples before the first one that the container can't tell of.
    """

    def __init__(
        self,
        container: str,
        codec: str,
        answer: _Answer,
        *,
        rewinds: bool = False,
        bit_rate: int | None = None,
        options: dict[str, str] | None = None,
        codec_options: dict[str, str] | None = None,
        delay: int = 0,
    ) -> None:
        self._rate = answer.rate
        self._position, self._sound = 0, 0  # samples; those up to the last that is no silence
        self._whole = io.BytesIO() if rewinds else None
        self._sink = _Sink()
        flags = {"fflags": "+flush_packets", **(options or {})}
        # Any: to the type checker a stream of unknown codec might be one of pictures.
        self._container = cast(
            Any, av.open(self._whole or self._sink, "w", format=container, container_options=flags)
        )
        self._stream = self._container.add_stream(
            codec, rate=answer.rate, layout="mono", options=codec_options or {}
        )
        if bit_rate is not None:
            self._stream.bit_rate = bit_rate
        self._stream.codec_context.open()
        self._delay, self._packets, self._left_out = delay, 0, 0
        if delay and answer.silence * answer.rate < delay:
            self._left_out = round(delay / self._frame)

    def encode(self, samples: Samples) -> bytes:
        if len(samples):
            limited = np.ascontiguousarray(np.clip(_finite(samples), -1.0, 1.0), np.float32)
            frame = av.AudioFrame.from_ndarray(limited[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = self._rate, self._position
            if end := _end_of_sound(limited):
                self._sound = self._position + end
            self._position += len(samples)
            self._mux(self._stream.encode(frame))
        return self._sink.take()

    def finish(self) -> bytes:
        begun = b""
        if self._position == 0:
            # A container without a single packet is no file; an eighth of a second of silence is.
            begun = self.encode(np.zeros(self._rate // 8, np.float32))
        self._mux(self._stream.encode(None), self._last_packet() if self._delay else None)
        # Before the last read: the end of an Ogg stream leaves when it is closed.
        self._container.close()
        return self._whole.getvalue() if self._whole else begun + self._sink.take()

    @property
    def _frame(self) -> int:
        """Samples of a packet."""
        return int(self._stream.codec_context.frame_size)

    def _last_packet(self) -> int:
        """How many packets hold all of the sound and last as long as the audio, rounded up."""
        length = self._position // self._frame + 1 + self._left_out
        return max(length, -(-(self._delay + self._sound) // self._frame))

    def _mux(self, packets: list[Any], last: int | None = None) -> None:
        for packet in packets:
            self._packets += 1
            if self._packets > self._left_out and (last is None or self._packets <= last):
                self._container.mux(packet)


class _Sink:
    """Where libav writes what leaves at once; it can't be rewound."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class _Vorbis:
    """Ogg Vorbis through libsndfile; libav has no good encoder for it."""

    def __init__(self, rate: int) -> None:
        self._sink = _SoundSink()
        self._file = soundfile.SoundFile(
            self._sink, "w", samplerate=rate, channels=1, format="OGG", subtype="VORBIS"
        )

    def encode(self, samples: Samples) -> bytes:
        limited = np.clip(_finite(samples), -1.0, 1.0)
        for begin in range(0, len(limited), _VORBIS_PIECE):
            self._file.write(limited[begin : begin + _VORBIS_PIECE])
        self._file.flush()
        return self._sink.take()

    def finish(self) -> bytes:
        self._file.close()
        return self._sink.take()


class _SoundSink(_Sink):
    """What libsndfile asks of a file; for Ogg it goes to the ends only, before it writes."""

    _written = 0

    def write(self, data: bytes) -> int:
        self._written += len(data)
        return super().write(bytes(data))

    def tell(self) -> int:
        return self._written

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._written

    def read(self, size: int = -1) -> bytes:
        return b""


def _wav(answer: _Answer) -> Encoder:
    def header(size: int | None) -> bytes:
        return wav_header(answer.rate, floating=False, data_bytes=size)

    return _WAV(answer.whole, header, lambda samples: _pcm16(samples).tobytes())


def _mulaw(answer: _Answer) -> Encoder:
    def header(size: int | None) -> bytes:
        return mulaw_header(answer.rate, size)

    return _WAV(answer.whole, header, lambda samples: mulaw(samples).tobytes())


def _mp3(answer: _Answer) -> Encoder:
    bit_rate = 128_000 if answer.rate >= 32_000 else 64_000
    if answer.whole:
        return _Codec("mp3", "libmp3lame", answer, rewinds=True, bit_rate=bit_rate)
    return _Codec(
        "mp3",
        "libmp3lame",
        answer,
        bit_rate=bit_rate,
        # The Xing header holds the length, which a stream doesn't know: browsers skip by it.
        options={"write_xing": "0", "id3v2_version": "0"},
        codec_options={"reservoir": "0"},  # each packet can be decoded without those before it
        delay=_MP3_DELAY,
    )


def _aac(answer: _Answer) -> Encoder:
    return _Codec("adts", "aac", answer, bit_rate=128_000, delay=_AAC_DELAY)


def _opus(answer: _Answer) -> Encoder:
    # Pages of 0.1 s: by default libav waits for a second of audio.
    options = {"page_duration": "100000"}
    return _Codec("ogg", "libopus", answer, bit_rate=64_000, options=options)


_MAKERS: dict[str, Callable[[_Answer], Encoder]] = {
    "mp3": _mp3,
    "opus": _opus,
    "aac": _aac,
    "flac": lambda answer: _Codec("flac", "flac", answer, rewinds=answer.whole),
    "wav": _wav,
    "pcm": lambda answer: _PCM(),
    "mulaw": _mulaw,
    "vorbis": lambda answer: _Vorbis(answer.rate),
}


def mulaw_header(rate: int, data_bytes: int | None) -> bytes:
    """The bytes before the samples of a mono µ-law WAV; None for a length still unknown."""
    size = UNKNOWN_SIZE if data_bytes is None else data_bytes
    form = struct.pack("<HHIIHHH", _MULAW, 1, rate, rate, 1, 8, 0)
    chunks = struct.pack("<4sI", b"fmt ", len(form)) + form + struct.pack("<4sII", b"fact", 4, size)
    riff = UNKNOWN_SIZE if data_bytes is None else 4 + len(chunks) + 8 + size
    return (
        struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + chunks + struct.pack("<4sI", b"data", size)
    )


def mulaw(samples: Samples) -> NDArray[np.uint8]:
    """ITU-T G.711 µ-law [n] of samples [n]: sign, three bits of exponent, four of mantissa."""
    pcm = _pcm16(samples).astype(np.int32)
    magnitude = np.minimum(np.abs(pcm), _MULAW_CLIP) + _MULAW_BIAS
    exponent = np.floor(np.log2(magnitude)).astype(np.int32) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    code: NDArray[np.uint8] = (
        ~(np.where(pcm < 0, 0x80, 0) | (exponent << 4) | mantissa) & 0xFF
    ).astype(np.uint8)
    return code


def _pcm16(samples: Samples) -> NDArray[np.int16]:
    scaled = np.rint(_finite(samples).astype(np.float64) * PCM16_SCALE)
    pcm: NDArray[np.int16] = np.clip(scaled, -PCM16_SCALE, PCM16_SCALE - 1).astype("<i2")
    return pcm


def _finite(samples: Samples) -> Samples:
    if not np.isfinite(samples).all():
        raise ServerError("the audio holds samples that are not numbers (NaN or infinite)")
    return samples


def _end_of_sound(samples: Samples) -> int:
    """How many samples there are up to the last one that is no silence."""
    loud = np.flatnonzero(np.abs(samples) > _SILENT)
    return int(loud[-1]) + 1 if len(loud) else 0
