"""Recordings of voices, read within bounds: a small file can unpack into hours of silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from gsv.options import RANGES
from gsv.voices.files import open_regular

_CHANNELS_LIMIT = 8
_RATES = RANGES["REFERENCE_SAMPLE_RATE"]


def read_recording(path: Path, longest: float) -> tuple[NDArray[np.float32], int]:
    """Decode a sound file to mono.

    Args:
        path: of any format that libsndfile reads.
        longest: seconds; nothing beyond is decoded.

    Returns:
        float32 [samples] in [-1, 1], the mean over all channels, and the rate in Hz.

    Raises:
        OSError: the file can't be opened.
        ValueError: it is not a sound file, is longer, or has a strange rate or number of channels.
    """
    with open_regular(path) as file:
        try:
            with soundfile.SoundFile(file) as sound:
                rate, channels = sound.samplerate, sound.channels
                if rate not in _RATES or not 1 <= channels <= _CHANNELS_LIMIT:
                    raise ValueError(
                        f"{path.name}: {rate} Hz and {channels} channels; allowed: {_RATES} Hz "
                        f"and up to {_CHANNELS_LIMIT} channels"
                    )
                most = int(longest * rate)
                samples = sound.read(most + 1, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            why = error.error_string
            raise ValueError(
                f"{path.name}: not a readable sound file: {why.rstrip('.')}; allowed: WAV, FLAC, "
                f"OGG, MP3, AIFF; convert others, such as with: ffmpeg -i {path.name} recording.wav"
            ) from error
    if len(samples) > most:
        raise ValueError(f"{path.name}: longer than the {longest:g} s that are allowed")
    return samples.mean(axis=1, dtype=np.float32), int(rate)
