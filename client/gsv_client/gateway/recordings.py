"""Recordings that come with a request: decoded within bounds, cut, judged.

The bytes come from a caller, so decoding must not do more than yield samples. libav would open the
files and addresses that a playlist names. So it is told the container, which must be one that is
known by its first bytes and refers to nothing outside of itself.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import numpy as np
import soundfile

from gsv_client.audio import Audio, Samples
from gsv_client.errors import AudioError, InvalidRequest
from gsv_client.gateway.mp4 import check_index
from gsv_client.limits import RANGES
from gsv_client.quality import REFERENCE_MAX_SECONDS, Report, best_window, inspect

LONGEST_SECONDS = 120.0  # of a recording that a piece is cut out of
LONGEST_WHOLE_SECONDS = REFERENCE_MAX_SECONDS + 0.01  # of one that is sent as it is: as the server
RATES = RANGES["REFERENCE_SAMPLE_RATE"]
MOST_CHANNELS = 8
# A small file may unpack to a hundred megabytes, and judging takes as much again and more. So few
# are at it at once, in threads of their own: those who wait there hold up no encoder.
AT_ONCE = 2
_BLOCK = 65_536  # samples of each channel that are unpacked in one step; FLAC's longest frame
# Of all channels, in a frame of libav: eight times FLAC's longest. ALAC's header may ask for more
# than a hundred million.
_LONGEST_FRAME = 1 << 22
_Opened = tuple[int, int, Iterator[Samples]]  # Hz, channels, mono blocks
_WORKERS = ThreadPoolExecutor(AT_ONCE, "gsv-recordings")
_KINDS = "WAV, FLAC, Ogg, MP3, WebM, MP4 or AAC"


async def decoded(
    data: bytes, name: str = "the recording", longest: float = LONGEST_SECONDS
) -> Audio:
    """`decode`, beside the loop and a few at once."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_WORKERS, decode, data, name, longest)


async def judged(audio: Audio) -> dict[str, Any]:
    """`judge`, beside the loop and a few at once."""
    return await asyncio.get_running_loop().run_in_executor(_WORKERS, judge, audio)


async def inspected(audio: Audio) -> Report:
    """`quality.inspect`, beside the loop and a few at once."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_WORKERS, inspect, audio.samples, audio.rate)


def decode(data: bytes, name: str = "the recording", longest: float = LONGEST_SECONDS) -> Audio:
    """A recording as mono samples.

    Args:
        data: a file that libsndfile reads, or WebM, MP4 or AAC, as browsers and phones record.
        name: for messages.
        longest: seconds; no more is unpacked.

    Raises:
        AudioError: no sound, or beyond the limits.
    """
    container = _container_of(data)
    opened = _by_libav(data, container) if container else _by_libsndfile(data)
    try:
        with opened as (rate, channels, blocks):
            # Before anything is unpacked: eight channels at 655 kHz fill memory in a second.
            if rate not in RATES:
                raise AudioError(f"{name}: recorded at {rate} Hz; allowed: {RATES} Hz")
            if channels > MOST_CHANNELS:
                raise AudioError(f"{name}: {channels} channels; allowed: 1 to {MOST_CHANNELS}")
            parts, count = [], 0
            for block in blocks:
                parts.append(block)
                count += len(block)
                if count > longest * rate:
                    raise AudioError(
                        f"{name}: longer than {longest:.0f} s; allowed: 3 to 10 s, or a piece of "
                        "that length out of a recording of two minutes"
                    )
    except (av.FFmpegError, soundfile.SoundFileError, ValueError, EOFError) as error:
        raise AudioError(f"{name}: not a readable recording; allowed: {_KINDS}") from error
    if not count:
        raise AudioError(f"{name}: holds no audio; allowed: 3 to 10 s of speech")
    return Audio(np.concatenate(parts), rate)


def from_base64(text: str, name: str) -> bytes:
    """The bytes of base64, also as a `data:` URL; InvalidRequest for what is neither."""
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise InvalidRequest.value(name, f"{head[:40]},…", "data:audio/…;base64,…")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest.value(name, f"{text[:20]}…", "a sound file in base64") from error


def cut(audio: Audio, start: float, end: float) -> Audio:
    """The piece between two times in seconds; InvalidRequest when there is none."""
    if not 0 <= start < end <= audio.duration + 0.01:
        allowed = f"0 <= start < end <= {audio.duration:.2f}"
        raise InvalidRequest.value("reference_window", [start, end], allowed)
    begin, stop = round(start * audio.rate), round(end * audio.rate)
    # A copy: what was cut off need not stay in memory as long as the request takes.
    return Audio(audio.samples[begin:stop].copy(), audio.rate)


def judge(audio: Audio) -> dict[str, Any]:
    """Judge a recording as `gsv voices add` does.

    Returns:
        The report's fields, `usable`, and `window`: start and end in seconds of the best piece of
        a longer recording, or None.
    """
    report: Report = inspect(audio.samples, audio.rate)
    window = best_window(audio.samples, audio.rate) if not report.usable else None
    if window is not None and not inspect(cut(audio, *window).samples, audio.rate).usable:
        window = None
    return {**dataclasses.asdict(report), "usable": report.usable, "window": window}


def _container_of(data: bytes) -> str | None:
    """libav's name of the container, for those that libsndfile does not read."""
    if data[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    if data[4:8] == b"ftyp":
        return "mov"
    if len(data) > 1 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return "aac"
    # Opus in Ogg: libsndfile reads it too, but not at every version.
    return "ogg" if data[:4] == b"OggS" and b"OpusHead" in data[:128] else None


@contextlib.contextmanager
def _by_libsndfile(data: bytes) -> Iterator[_Opened]:
    """Rate, channels, and the samples as blocks of mono that are unpacked one by one."""
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        yield sound.samplerate, sound.channels, _averaged(sound)


def _averaged(sound: soundfile.SoundFile) -> Iterator[Samples]:
    # Until nothing more comes: a header may promise more frames than there are.
    while len(block := sound.read(_BLOCK, dtype="float32", always_2d=True)):
        yield block.mean(axis=1, dtype=np.float32)


@contextlib.contextmanager
def _by_libav(data: bytes, container: str) -> Iterator[_Opened]:
    """As `_by_libsndfile`; ValueError when there is no audio, or it is not what its header says."""
    if container == "mov":
        check_index(data)
    with av.open(io.BytesIO(data), "r", format=container) as file:
        if not file.streams.audio:
            raise ValueError("no audio")
        stream = file.streams.audio[0]
        if not stream.rate or not stream.channels:
            raise ValueError(f"{stream.rate} Hz, {stream.channels} channels")
        stream.codec_context.options = {"max_samples": str(_LONGEST_FRAME)}
        yield int(stream.rate), stream.channels, _mono(file.decode(stream), stream.rate)


def _mono(frames: Iterable[av.AudioFrame], rate: int) -> Iterator[Samples]:
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
    for frame in frames:
        # The container's header need not tell the truth; from 1 Hz, a frame would become hours.
        if frame.sample_rate not in RATES or frame.layout.nb_channels > MOST_CHANNELS:
            raise ValueError(f"{frame.sample_rate} Hz, {frame.layout.nb_channels} channels")
        for piece in resampler.resample(frame):
            yield np.clip(piece.to_ndarray()[0], -1.0, 1.0)
