"""Judges of speech: words understood, sound quality, likeness to a speaker. The extra `quality`.

Each imports its packages when it is made, so that nobody needs those of the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import re
import sys
import types
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gsv_client.audio import Audio
from gsv_client.errors import GsvClientError

RATE = 16_000  # Hz, of all three
_PEAK = 0.5 * 32_767
Samples = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Score:
    """A judge's opinion of one answer; means over answers are weighted."""

    value: float
    weight: float = 1.0


class Judge(Protocol):
    """Judges one answer after the other."""

    def score(self, text: str, audio: Audio) -> Score:
        """What it thinks of `audio`, which should say `text`."""
        ...


def mean(scores: Sequence[Score]) -> float | None:
    """The weighted mean; None for nothing.

    >>> mean([Score(1.0, 3), Score(0.0, 1)])
    0.75
    """
    weight = sum(score.weight for score in scores)
    return sum(score.value * score.weight for score in scores) / weight if weight else None


class WordJudge:
    """Share of the words that pocketsphinx understands, 1 - word error rate; English."""

    def __init__(self) -> None:
        self._recogniser = Recogniser()

    def score(self, text: str, audio: Audio) -> Score:
        """1 if every word is understood; below 0 if there are more wrong ones than words."""
        wanted = words(text)
        given = words(self._recogniser.hear(audio.samples, audio.rate))
        return Score(1 - edits(wanted, given) / max(len(wanted), 1), len(wanted))


class SoundJudge:
    """DNSMOS (Reddy and others, 2022), the overall opinion from 1 to 5, by `speechmos`."""

    def __init__(self) -> None:
        self._run = needed("speechmos.dnsmos", "dnsmos").run
        needed("soxr", "dnsmos")

    def score(self, text: str, audio: Audio) -> Score:
        """The mean over windows of 9 s; shorter audio is repeated."""
        samples = np.clip(at_16_khz(audio.samples, audio.rate), -1.0, 1.0)
        return Score(float(self._run(samples, RATE)["ovrl_mos"]))


class SpeakerJudge:
    """Likeness to a recording of the speaker, up to 1, by `resemblyzer`.

    Args:
        recording: of the speaker, such as the voice's reference.
    """

    def __init__(self, recording: Audio) -> None:
        with _pkg_resources():
            found = needed("resemblyzer", "speaker")
        needed("soxr", "speaker")
        self._prepare = found.preprocess_wav
        self._encoder = found.VoiceEncoder("cpu", verbose=False)
        self._speaker = self._embedding(recording)

    def score(self, text: str, audio: Audio) -> Score:
        """The cosine between both embeddings."""
        return Score(float(self._embedding(audio) @ self._speaker))

    def _embedding(self, audio: Audio) -> NDArray[np.float32]:
        samples = self._prepare(at_16_khz(audio.samples, audio.rate), source_sr=RATE)
        embedded: NDArray[np.float32] = self._encoder.embed_utterance(samples)
        return embedded


class Recogniser:
    """Pocketsphinx with the language model that it brings; each wave is recognised by itself.

    The decoder gets no sound to learn from before, and each answer depends on its own wave alone.
    """

    def __init__(self) -> None:
        pocketsphinx = needed("pocketsphinx", "words")
        needed("soxr", "words")
        self._decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL")

    def hear(self, wave: Samples, rate: int) -> str:
        """The words of a mono wave in [-1, 1]."""
        samples = at_16_khz(wave, rate)
        samples = samples * (_PEAK / max(float(np.abs(samples).max(initial=0.0)), 1e-6))
        # The decoder adapts to what it heard before.
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(samples.astype("<i2").tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return str(found.hypstr) if found else ""


@contextlib.contextmanager
def _pkg_resources() -> Iterator[None]:
    """Within: webrtcvad, which resemblyzer imports, finds the `pkg_resources` of old setuptools.

    It asks it for its own version and nothing else; setuptools has no such module from 81 on.
    """
    name = "pkg_resources"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        yield
        return
    placeholder = types.ModuleType(name)
    placeholder.get_distribution = importlib.metadata.distribution  # type: ignore[attr-defined]
    sys.modules[name] = placeholder
    try:
        yield
    finally:
        del sys.modules[name]


def words(text: str) -> list[str]:
    """Lower-case words without marks."""
    return re.findall(r"[a-z']+", text.lower())


def edits(wanted: Sequence[str], given: Sequence[str]) -> int:
    """Words to replace, put in or take out (Levenshtein).

    >>> edits(["a", "b", "c"], ["a", "c", "d"])
    2
    """
    row = list(range(len(given) + 1))
    for i, word in enumerate(wanted, start=1):
        before, row = row, [i]
        for j, other in enumerate(given, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def at_16_khz(wave: Samples, rate: int) -> Samples:
    """The same at the judges' rate."""
    resampled: Samples = needed("soxr", "words").resample(wave, rate, RATE)
    return resampled.astype(np.float32, copy=False)


def needed(module: str, judge: str) -> Any:
    """A package that a judge needs.

    Raises:
        GsvClientError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            # What these packages import says of its own future.
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        raise GsvClientError(
            f"the judge {judge!r} needs {error.name or module}: "
            'pip install "gsv-client[quality]", or leave this judge out'
        ) from error
