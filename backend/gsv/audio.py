"""Waves in and out: decoding, resampling, spectrum, mel, and pauses.

Functions for references (``resample_sinc``, ``spectrum``, ``log_mel``) take torch tensors with any
leading dimensions and work on the tensor's device. The rest is NumPy: a process without a network
does without torch.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from gsv.constants import (
    MEL_CEILING,
    MEL_CHANNELS,
    MEL_FFT,
    MEL_FLOOR,
    MEL_HOP,
    REFERENCE_RATE,
    SPECTRUM_FFT,
    SPECTRUM_HOP,
)

if TYPE_CHECKING:
    from torch import Tensor

Wave = NDArray[np.float32]

_SINC_ZEROS = 6  # zero crossings of the sinc on each side; torchaudio's lowpass_filter_width
_SINC_ROLLOFF = 0.99  # of the lower Nyquist frequency
_SINC_BLOCK = 1 << 16  # output samples resampled at once, bounds memory
_POWER_FLOOR = 1e-8  # under the root of the magnitude
_MEL_MINIMUM = 1e-5  # below it the logarithm is cut

# Slaney's mel scale: linear below 1 kHz, logarithmic above.
_MEL_HZ = 200.0 / 3.0
_MEL_KNEE_HZ = 1000.0
_MEL_KNEE = _MEL_KNEE_HZ / _MEL_HZ
_MEL_LOG_STEP = math.log(6.4) / 27.0


# Decoding ------------------------------------------------------------------------------------


def read_wave(source: Path | BinaryIO) -> tuple[Wave, int]:
    """Decode a sound file to mono.

    Args:
        source: a path or an open binary file of any format that libsndfile reads.

    Returns:
        float32 [samples] in [-1, 1], the mean over all channels, and the rate in Hz. (Upstream
        mixes two channels only and takes more of them for a batch.)

    Raises:
        OSError: the file can't be opened.
        ValueError: libsndfile does not know the content.
    """
    if isinstance(source, Path):
        with source.open("rb") as file:
            return read_wave(file)
    try:
        samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"not a readable sound file: {error}") from error
    return samples.mean(axis=1, dtype=np.float32), int(rate)


def peak_guard(wave: Wave) -> Wave:
    """Divide by ``min(2, peak)`` when the peak is above 1.

    Apply it once, before the wave goes its three ways (HuBERT, spectrum, mel): upstream scales in
    place inside one of them, so that the others see it or not depending on rate and channels.
    """
    peak = float(np.abs(wave).max(initial=0.0))
    return wave / np.float32(min(2.0, peak)) if peak > 1.0 else wave


def to_pcm16(wave: Wave) -> NDArray[np.int16]:
    """Samples in [-1, 1] to 16-bit integers; clipped, where upstream lets +1.0 wrap to -32768."""
    scaled: Wave = np.clip(np.trunc(wave * 32768.0), -32768, 32767)
    return scaled.astype(np.int16)


# Resampling ----------------------------------------------------------------------------------


def resample_sinc(wave: Tensor, source: int, target: int) -> Tensor:
    """Hann-windowed sinc interpolation, equal to ``torchaudio.transforms.Resample``'s default.

    Where torchaudio tabulates a whole period of both rates (gigabytes for coprime ones), this
    keeps for each output phase only the samples under its window.

    Args:
        wave: [..., samples] float32 at ``source`` Hz.

    Returns:
        [..., ceil(samples * target / source)] at ``target`` Hz.
    """
    import torch

    if source == target:
        return wave
    divisor = math.gcd(source, target)
    step, phases = source // divisor, target // divisor
    kernel, width = _sinc_kernel(step, phases)
    kernel = kernel.to(wave.device)
    samples = wave.shape[-1]
    length = -(-samples * phases // step)
    taps = kernel.shape[1]
    frames = torch.nn.functional.pad(wave, (width, width + 1)).unfold(-1, taps, 1)
    blocks = []
    for start in range(0, length, _SINC_BLOCK):
        index = torch.arange(start, min(start + _SINC_BLOCK, length), device=wave.device)
        centre = torch.div(index * step, phases, rounding_mode="floor")
        blocks.append((frames[..., centre, :] * kernel[index % phases]).sum(-1))
    return torch.cat(blocks, dim=-1) if blocks else wave


@functools.lru_cache(maxsize=8)
def _sinc_kernel(step: int, phases: int) -> tuple[Tensor, int]:
    """Weights [phases, 2 * width + 2]: column k belongs to input sample ``centre - width + k``."""
    import torch

    cutoff = min(step, phases) * _SINC_ROLLOFF
    width = math.ceil(_SINC_ZEROS * step / cutoff)
    # Output sample i lies at i * step / phases input samples; its phase is the remainder.
    fraction = (np.arange(phases) * step % phases) / phases
    offset = fraction[:, None] - np.arange(-width, width + 2)[None, :]
    time = np.clip(offset * (cutoff / step), -_SINC_ZEROS, _SINC_ZEROS)
    window = np.cos(time * (math.pi / _SINC_ZEROS / 2)) ** 2
    kernel = np.sinc(time) * window * (cutoff / step)
    return torch.from_numpy(kernel.astype(np.float32)), width


def resample_soxr(wave: Wave, source: int, target: int) -> Wave:
    """soxr at high quality, as ``librosa.load``; float32 [ceil(samples * target / source)]."""
    if source == target:
        return wave
    resampled = soxr.resample(wave, source, target, quality="HQ")
    return _fit(resampled, -(-len(wave) * target // source))


class StreamResampler:
    """:func:`resample_soxr` in pieces: what is put in chunk by chunk comes out the same."""

    def __init__(self, source: int, target: int) -> None:
        self._rates = (source, target)
        self._stream = soxr.ResampleStream(source, target, 1, dtype="float32", quality="HQ")
        self._taken = self._given = 0

    def push(self, wave: Wave, *, last: bool = False) -> Wave:
        """Resample one chunk; some output is held back until the next or the ``last`` one."""
        source, target = self._rates
        self._taken += len(wave)
        if source == target:
            return wave
        piece: Wave = self._stream.resample_chunk(np.ascontiguousarray(wave), last=last)
        if last:
            piece = _fit(piece, -(-self._taken * target // source) - self._given)
        self._given += len(piece)
        return piece


def _fit(wave: Wave, length: int) -> Wave:
    """Cut or zero-fill the end: soxr rounds the length its own way."""
    return wave[:length] if len(wave) >= length else np.pad(wave, (0, length - len(wave)))


# Spectrum and mel ----------------------------------------------------------------------------


def spectrum(wave: Tensor) -> Tensor:
    """Linear magnitudes for the style encoder.

    Args:
        wave: [..., samples] at 32 kHz.

    Returns:
        [..., 1025, samples // 640]
    """
    return _magnitudes(wave, SPECTRUM_FFT, SPECTRUM_HOP)


def log_mel(wave: Tensor) -> Tensor:
    """Natural-log mel of the reference, the flow's prompt before normalising.

    Args:
        wave: [..., samples] at 32 kHz.

    Returns:
        [..., 100, samples // 320]
    """
    import torch

    filters = torch.from_numpy(mel_filters(REFERENCE_RATE, MEL_FFT, MEL_CHANNELS))
    mel = filters.to(wave.device) @ _magnitudes(wave, MEL_FFT, MEL_HOP)
    return mel.clamp(min=_MEL_MINIMUM).log()


def normalize_mel(mel: Tensor) -> Tensor:
    """Log-mel to the flow's domain: [-12, 2] becomes [-1, 1]."""
    return (mel - MEL_FLOOR) / (MEL_CEILING - MEL_FLOOR) * 2 - 1


def denormalize_mel(mel: Tensor) -> Tensor:
    """The flow's domain back to log-mel."""
    return (mel + 1) / 2 * (MEL_CEILING - MEL_FLOOR) + MEL_FLOOR


def _magnitudes(wave: Tensor, size: int, hop: int) -> Tensor:
    """[..., samples] to [..., size // 2 + 1, samples // hop]; windows centred on their hop."""
    import torch

    flat = wave.reshape(1, -1, wave.shape[-1])  # reflect padding wants a channel dimension
    margin = (size - hop) // 2
    padded = torch.nn.functional.pad(flat, (margin, margin), mode="reflect")[0]
    window = torch.hann_window(size, dtype=wave.dtype, device=wave.device)
    bins = torch.stft(padded, size, hop, window=window, center=False, return_complex=True)
    magnitudes = (torch.view_as_real(bins).square().sum(-1) + _POWER_FLOOR).sqrt()
    return magnitudes.reshape(*wave.shape[:-1], *magnitudes.shape[-2:])


@functools.lru_cache(maxsize=4)
def mel_filters(rate: int, size: int, channels: int) -> NDArray[np.float32]:
    """Slaney's triangular filters of unit area, from 0 Hz to half the rate.

    M. Slaney, "Auditory Toolbox", 1998; the values are those of ``librosa.filters.mel``.

    Returns:
        float32 [channels, size // 2 + 1]
    """
    bins = np.linspace(0, rate / 2, size // 2 + 1)
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(rate / 2), channels + 2))
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    filters: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling)) * area[:, None]
    return filters.astype(np.float32)


def _hz_to_mel(hertz: float) -> float:
    if hertz < _MEL_KNEE_HZ:
        return hertz / _MEL_HZ
    return _MEL_KNEE + math.log(hertz / _MEL_KNEE_HZ) / _MEL_LOG_STEP


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _MEL_KNEE_HZ * np.exp(_MEL_LOG_STEP * (mel - _MEL_KNEE))
    return np.where(mel < _MEL_KNEE, mel * _MEL_HZ, above)


# Pauses --------------------------------------------------------------------------------------


def silence(seconds: float, rate: int) -> Wave:
    """Zeros for a pause, counted at the rate they are played at (upstream counts at 32 kHz)."""
    return np.zeros(round(seconds * rate), np.float32)
