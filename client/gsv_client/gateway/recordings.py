"""Recordings that come with a request: decoded within bounds, cut, judged.

The bytes come from a caller, so decoding must not do more than yield samples. libav would open the
files and addresses that a playlist names. So it is told the container, which must be one that is
known by its first bytes and refers to nothing outside of itself.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import io
from typing import Any

import av
import numpy as np
import soundfile

from gsv_client.audio import Audio
from gsv_client.errors import AudioError, InvalidRequest
from gsv_client.limits import RANGES
from gsv_client.quality import Report, best_window, inspect

LONGEST_SECONDS = 120.0  # of a recording that a piece is cut out of
RATES = RANGES["REFERENCE_SAMPLE_RATE"]
MOST_CHANNELS = 8
_KINDS = "WAV, FLAC, Ogg, MP3, WebM, MP4 or AAC"


def decode(data: bytes, name: str = "the recording") -> Audio:
    """A recording as mono samples.

    Args:
        data: a file that libsndfile reads, or WebM, MP4 or AAC, as browsers and phones record.
        name: for messages.

    Raises:
        AudioError: no sound, or beyond the limits.
    """
    container = _container_of(data)
    try:
        audio = _by_libav(data, container) if container else _by_libsndfile(data)
    except (av.FFmpegError, soundfile.SoundFileError, ValueError, EOFError) as error:
        raise AudioError(f"{name}: not a readable recording; allowed: {_KINDS}") from error
    if not len(audio.samples):
        raise AudioError(f"{name}: holds no audio; allowed: 3 to 10 s of speech")
    if audio.rate not in RATES:
        raise AudioError(f"{name}: recorded at {audio.rate} Hz; allowed: {RATES} Hz")
    if audio.duration > LONGEST_SECONDS:
        raise AudioError(
            f"{name}: longer than {LONGEST_SECONDS:g} s; allowed: 3 to 10 s, or a piece of that "
            "length out of a recording of two minutes"
        )
    return audio


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
    return Audio(audio.samples[begin:stop], audio.rate)


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


def _by_libsndfile(data: bytes) -> Audio:
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        if not 1 <= sound.channels <= MOST_CHANNELS:
            raise ValueError(f"{sound.channels} channels")
        most = int(LONGEST_SECONDS * sound.samplerate) + 1
        samples = sound.read(most, dtype="float32", always_2d=True)
        return Audio(samples.mean(axis=1, dtype=np.float32), sound.samplerate)


def _by_libav(data: bytes, container: str) -> Audio:
    parts, count = [], 0
    with av.open(io.BytesIO(data), "r", format=container) as file:
        if not file.streams.audio:
            raise ValueError("no audio")
        stream = file.streams.audio[0]
        rate = stream.rate
        if not rate or not 1 <= stream.channels <= MOST_CHANNELS:
            raise ValueError(f"{rate} Hz, {stream.channels} channels")
        resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
        for frame in file.decode(stream):
            for piece in resampler.resample(frame):
                samples = piece.to_ndarray()[0]
                parts.append(samples)
                count += len(samples)
            if count > LONGEST_SECONDS * rate:
                break
    joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return Audio(np.clip(joined, -1.0, 1.0), int(rate))
