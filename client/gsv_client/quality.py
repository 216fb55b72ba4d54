"""Quality of a recording as a reference: length, level, clipping, silence, bandwidth."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Wave = NDArray[np.float32]

REFERENCE_MIN_SECONDS, REFERENCE_MAX_SECONDS = 3.0, 10.0  # as the server allows

_FRAME_SECONDS = 0.02
_FLOOR_DB = -100.0
# A frame counts as speech when it is not further below the loud ones than this, and audible at all.
_SPEECH_RANGE_DB = 32.0
_QUIETEST_SPEECH_DB = -60.0
_LOUD_PERCENTILE = 95
_FULL_SCALE = 0.999
_BAND_RANGE_DB = 70.0  # below the strongest band there is nothing to hear
_SPECTRUM_SIZE = 2048

CLIPPED_WARNING, CLIPPED_ERROR = 1e-4, 1e-2  # shares of all samples
LEVEL_WARNING_DB, LEVEL_ERROR_DB = -35.0, -50.0
SILENCE_WARNING_SECONDS = 0.5
SPEECH_ERROR_SECONDS = 1.5
RATE_WARNING = 24_000
BANDWIDTH_WARNING, BANDWIDTH_ERROR = 7_000.0, 3_000.0
# What a window out of a longer recording should be.
WINDOW_SECONDS = (5.0, 9.0)
_WINDOW_HOP_SECONDS = 0.1
_EDGE_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Remark:
    """One problem."""

    level: Literal["warning", "error"]
    message: str  # what was found and what is allowed
    advice: str  # what to do


@dataclasses.dataclass(frozen=True)
class Report:
    """Measurements of a recording, and its problems."""

    seconds: float
    rate: int
    peak: float
    clipped: float  # share of samples at full scale
    level_db: float  # of the speech in it, RMS against full scale
    leading_silence: float  # seconds
    trailing_silence: float
    speech_seconds: float
    bandwidth: float  # Hz
    remarks: tuple[Remark, ...]

    @property
    def usable(self) -> bool:
        """Whether nothing is an error."""
        return all(remark.level != "error" for remark in self.remarks)


def inspect(wave: Wave, rate: int) -> Report:
    """Measure a mono recording.

    Args:
        wave: float32 [samples].
        rate: Hz.
    """
    finite = bool(np.isfinite(wave).all())
    clean = wave if finite else np.nan_to_num(wave, posinf=0.0, neginf=0.0)
    seconds = len(wave) / rate
    levels = frame_levels(clean, rate)
    speech = speech_frames(levels)
    indices = np.flatnonzero(speech)
    first, last = (int(indices[0]), int(indices[-1])) if len(indices) else (len(levels), -1)
    level = _mean_level(levels[speech]) if len(indices) else _FLOOR_DB
    report = Report(
        seconds=seconds,
        rate=rate,
        peak=float(np.abs(clean).max(initial=0.0)),
        clipped=float(np.mean(np.abs(clean) >= _FULL_SCALE)) if len(clean) else 0.0,
        level_db=level,
        leading_silence=first * _FRAME_SECONDS,
        trailing_silence=(len(levels) - 1 - last) * _FRAME_SECONDS,
        speech_seconds=len(indices) * _FRAME_SECONDS,
        bandwidth=bandwidth(clean, rate, speech),
        remarks=(),
    )
    remarks = [*_remarks(report)]
    if not finite:
        remarks.insert(0, Remark("error", "holds samples that are not finite", "export it again"))
    return dataclasses.replace(report, remarks=tuple(remarks))


def _remarks(report: Report) -> list[Remark]:
    found: list[Remark] = []

    def remark(error: bool, warning: bool, message: str, advice: str) -> None:
        if error or warning:
            found.append(Remark("error" if error else "warning", message, advice))

    low, high = REFERENCE_MIN_SECONDS, REFERENCE_MAX_SECONDS
    remark(
        not low <= report.seconds <= high, False,
        f"{_told(report.seconds)} s long; allowed: {low:g} to {high:g} s",
        "cut it, or take another recording",
    )  # fmt: skip
    if report.speech_seconds == 0:
        remark(True, False, "holds nothing but silence", "take another recording")
        return found
    remark(
        report.level_db < LEVEL_ERROR_DB, report.level_db < LEVEL_WARNING_DB,
        f"speech is at {report.level_db:.0f} dB below full scale; good: about -20 dB",
        "make it louder and save it anew, with 24 bits if it can be",
    )  # fmt: skip
    remark(
        report.clipped > CLIPPED_ERROR, report.clipped > CLIPPED_WARNING,
        f"{report.clipped:.2%} of the samples are clipped",
        "record it with less gain: the distortion is imitated",
    )  # fmt: skip
    remark(
        report.speech_seconds < SPEECH_ERROR_SECONDS, False,
        f"only {report.speech_seconds:.1f} s of it are speech",
        "take a recording with fewer pauses",
    )  # fmt: skip
    for name, silence in (("begins", report.leading_silence), ("ends", report.trailing_silence)):
        remark(
            False, silence > SILENCE_WARNING_SECONDS,
            f"{name} with {silence:.1f} s of silence", "cut it off: silence is imitated, too",
        )  # fmt: skip
    remark(
        False, report.rate < RATE_WARNING,
        f"recorded at {report.rate} Hz; the model uses bandwidth up to 16 kHz",
        "take the original recording, at 32 kHz or more",
    )  # fmt: skip
    remark(
        report.bandwidth < BANDWIDTH_ERROR,
        report.bandwidth < BANDWIDTH_WARNING and report.rate >= RATE_WARNING,
        f"holds nothing above {report.bandwidth / 1000:.1f} kHz",
        "take the original, not a telephone or low-rate copy: the voice will sound as dull",
    )  # fmt: skip
    return found


def _told(seconds: float) -> str:
    """A length with enough digits that one just out of bounds does not look allowed."""
    digits = 5 if REFERENCE_MIN_SECONDS <= round(seconds, 2) <= REFERENCE_MAX_SECONDS else 2
    return f"{seconds:.{digits}f}"


def frame_levels(wave: Wave, rate: int) -> NDArray[np.float64]:
    """RMS of each 20 ms in dB against full scale."""
    size = max(1, round(rate * _FRAME_SECONDS))
    count = len(wave) // size
    frames = wave[: count * size].reshape(count, size).astype(np.float64)
    power = (frames - frames.mean(axis=1, keepdims=True)) ** 2
    levels: NDArray[np.float64] = 10 * np.log10(power.mean(axis=1) + 1e-20)
    return np.maximum(levels, _FLOOR_DB)


def speech_frames(levels: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which frames are not silence."""
    if not len(levels):
        return np.zeros(0, np.bool_)
    loud = float(np.percentile(levels, _LOUD_PERCENTILE))
    return levels > max(loud - _SPEECH_RANGE_DB, _QUIETEST_SPEECH_DB)


def bandwidth(wave: Wave, rate: int, speech: NDArray[np.bool_]) -> float:
    """The highest frequency in Hz with anything in it, over the frames of speech."""
    hop = max(1, round(rate * _FRAME_SECONDS))
    window = np.hanning(_SPECTRUM_SIZE)
    power = np.zeros(_SPECTRUM_SIZE // 2 + 1)
    for index in np.flatnonzero(speech):
        piece = wave[index * hop : index * hop + _SPECTRUM_SIZE]
        if len(piece) == _SPECTRUM_SIZE:
            power += np.abs(np.fft.rfft(piece * window)) ** 2
    if not power.any():
        return 0.0
    smooth = np.convolve(power, np.ones(5) / 5, mode="same")
    heard = np.flatnonzero(smooth > smooth.max() * 10 ** (-_BAND_RANGE_DB / 10))
    return float(heard[-1]) * rate / _SPECTRUM_SIZE


def best_window(wave: Wave, rate: int) -> tuple[float, float] | None:
    """The most useful 5 to 9 s of a longer recording: from pause to pause, full of speech.

    Returns:
        Start and end in seconds; None when the recording is no longer than that.
    """
    shortest, longest = WINDOW_SECONDS
    levels = frame_levels(wave, rate)
    if len(levels) * _FRAME_SECONDS <= longest:
        return None
    speech = speech_frames(levels)
    clipped = _clipped_frames(wave, rate, len(levels))
    # Sums up to each frame, so that a window's share is one subtraction.
    spoken = np.concatenate([[0], np.cumsum(speech & ~clipped)])
    spoilt = np.concatenate([[0], np.cumsum(clipped)])
    edge = round(_EDGE_SECONDS / _FRAME_SECONDS)
    hop = round(_WINDOW_HOP_SECONDS / _FRAME_SECONDS)
    best, found = -np.inf, (0, round(longest / _FRAME_SECONDS))
    for length in range(round(shortest / _FRAME_SECONDS), round(longest / _FRAME_SECONDS) + 1, hop):
        starts = np.arange(0, len(levels) - length + 1, hop // 2 or 1)
        ends = starts + length
        quiet = (spoken[starts + edge] - spoken[starts] == 0).astype(float)
        quiet += spoken[ends] - spoken[ends - edge] == 0
        share = (spoken[ends] - spoken[starts]) / length
        harm = (spoilt[ends] - spoilt[starts]) / length
        # A cut in the middle of a word costs more than any silence; longer is a little better.
        score = quiet + share - 20 * harm + 0.02 * length * _FRAME_SECONDS
        index = int(np.argmax(score))
        if score[index] > best:
            best, found = float(score[index]), (int(starts[index]), int(ends[index]))
    return found[0] * _FRAME_SECONDS, found[1] * _FRAME_SECONDS


def _clipped_frames(wave: Wave, rate: int, count: int) -> NDArray[np.bool_]:
    size = max(1, round(rate * _FRAME_SECONDS))
    full = np.abs(wave[: count * size]).reshape(count, size) >= _FULL_SCALE
    clipped: NDArray[np.bool_] = full.any(axis=1)
    return clipped


def _mean_level(levels: NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.mean(10 ** (levels / 10))))
