"""Makes the corpus: teachers speak the training texts; waves, mels and phone times are stored.

    .venv/bin/python tools/demo_voice/corpus.py [--count 4500] [--teachers slt,rms]

Needs Debian's ``festival``, ``festvox-us-slt-hts`` and ``flite``. The corpus is made in parts of a
hundred texts; a part that is there is not made again, so the step goes on where it was stopped.
The same texts always give the same waves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import alignment
import click
import everyday
import numpy as np
import places
import sentences
import teachers
import torch
import wide
from numpy.typing import NDArray
from teachers import TEACHERS, Spoken

from gsv import audio
from gsv.constants import MEL_HOP, REFERENCE_RATE

LEAD_SECONDS, TAIL_SECONDS = 0.10, 0.18  # silence that is left around a sentence
LEVEL = 0.08  # root mean square that sentences are scaled to
PART = 100  # texts
JUDGED = (*sentences.JUDGED, *sentences.SPOKEN_BY_DEMO, *everyday.EVERYDAY, sentences.REFERENCE)
_TIME_UNIT = 10_000  # phone times are stored as whole numbers of 0.1 ms
_FIRST_SEED = 11


@dataclasses.dataclass(frozen=True)
class Reading:
    """A text as the product's frontend reads it."""

    symbols: tuple[str, ...]
    ids: NDArray[np.int16]


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One text as it was spoken."""

    text: str
    wave: NDArray[np.int16]  # 32 kHz
    phonemes: NDArray[np.int16]  # the frontend's
    ends: NDArray[np.int32]  # of each phoneme, in 0.1 ms


class Reader:
    """The product's frontend, or the readings that ``bundle.py`` stored where it is not at hand."""

    def __init__(self) -> None:
        from gsv.text.frontend import TextFrontend

        self._frontend = TextFrontend()

    def read(self, text: str) -> Reading | None:
        """None for a text that is not one sentence."""
        found = self._frontend.analyze(text, "en", "cut0")
        if len(found) != 1:
            return None
        return Reading(tuple(found[0].symbols), np.array(found[0].ids, np.int16))


def utterance(text: str, reading: Reading, spoken: Spoken) -> Utterance | None:
    """Trimmed, scaled and aligned; None where the teacher reads other words than the frontend."""
    ends = alignment.align(spoken.phones, spoken.ends, reading.symbols)
    if ends is None:
        return None
    first = max(0.0, spoken.ends[0] - LEAD_SECONDS)
    last = min(len(spoken.wave) / REFERENCE_RATE, spoken.ends[-2] + TAIL_SECONDS)
    wave = spoken.wave[round(first * REFERENCE_RATE) : round(last * REFERENCE_RATE)]
    wave = wave * (LEVEL / np.sqrt(np.mean(wave**2)))
    times = np.minimum(np.array(ends), last) - first
    return Utterance(
        text,
        audio.to_pcm16(wave.astype(np.float32)),
        reading.ids,
        np.round(times * _TIME_UNIT).astype(np.int32),
    )


def training_texts(teacher: str, count: int) -> list[str]:
    """Every teacher speaks texts of its own."""
    return wide.WideGrammar(_FIRST_SEED + list(TEACHERS).index(teacher)).training(count)


def speak(stem: Path, teacher: str, texts: Sequence[str], reader: Reader) -> None:
    """Make one part, unless it is there."""
    if rows_file(stem).is_file():
        return
    made = []
    for text, spoken in zip(texts, TEACHERS[teacher].speak(texts), strict=True):
        reading = reader.read(text)
        if reading is not None and (one := utterance(text, reading, spoken)) is not None:
            made.append(one)
    store(stem, made)


def rows_file(stem: Path) -> Path:
    """The file that is written last, so that its part is whole if it is there."""
    return stem.with_name(f"{stem.name}.rows.npz")


def store(stem: Path, utterances: Sequence[Utterance]) -> None:
    """``<stem>.waves.npy``, ``<stem>.mels.npy`` and ``<stem>.rows.npz``: flat arrays, borders."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    waves = [one.wave for one in utterances]
    mels = [normalised_mel(wave) for wave in waves]
    np.save(stem.with_name(f"{stem.name}.waves.npy"), np.concatenate(waves))
    np.save(stem.with_name(f"{stem.name}.mels.npy"), np.concatenate(mels))
    new = stem.with_name(f"{stem.name}.new.npz")
    np.savez(
        new,
        texts=np.array([one.text for one in utterances]),
        wave_borders=_borders(waves),
        mel_borders=_borders(mels),
        phonemes=np.concatenate([one.phonemes for one in utterances]),
        ends=np.concatenate([one.ends for one in utterances]),
        phoneme_borders=_borders([one.phonemes for one in utterances]),
    )
    new.replace(rows_file(stem))


def normalised_mel(wave: NDArray[np.int16]) -> NDArray[np.float16]:
    """[frames, 100]"""
    floats = torch.from_numpy(wave.astype(np.float32) / 32768)
    mel = audio.normalize_mel(audio.log_mel(floats[: len(floats) // MEL_HOP * MEL_HOP]))
    made: NDArray[np.float16] = mel.T.half().numpy()
    return made


def _borders(rows: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, rows)])


_reader: Reader | None = None


def _job(arguments: tuple[Path, str, list[str]]) -> None:
    global _reader
    torch.set_num_threads(1)
    _reader = _reader or Reader()
    speak(*arguments, _reader)


def jobs(names: Sequence[str], count: int) -> list[tuple[Path, str, list[str]]]:
    """The parts that are to be made: where, by whom, of which texts."""
    found = []
    for name in names:
        found.append((places.RUN / "judged" / name, name, list(JUDGED)))
        texts = training_texts(name, count)
        for first in range(0, count, PART):
            stem = places.RUN / "corpus" / name / f"{first // PART:04}"
            found.append((stem, name, texts[first : first + PART]))
    return found


@click.command()
@click.option("--count", default=4_500, show_default=True, help="Training texts of each teacher.")
@click.option("--teachers", "names", default="slt,rms", show_default=True)
@click.option("--processes", default=1, show_default=True)
def main(count: int, names: str, processes: int) -> None:
    """Speak the training texts and, for the judge, the judged ones."""
    log = places.logger("corpus")
    chosen = names.split(",")
    if unknown := set(chosen) - set(teachers.TEACHERS):
        raise click.BadParameter(f"{', '.join(sorted(unknown))}; allowed: {', '.join(TEACHERS)}")
    todo = [job for job in jobs(chosen, count) if not rows_file(job[0]).is_file()]
    with ProcessPoolExecutor(processes) as pool:
        for done, _ in enumerate(pool.map(_job, todo), start=1):
            if done % 10 == 0 or done == len(todo):
                log.info("%d of %d parts", done, len(todo))


if __name__ == "__main__":
    main()
