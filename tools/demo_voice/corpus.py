"""Makes the corpus: teachers speak the training texts; waves, mels and phone times are stored.

    .venv/bin/python tools/demo_voice/corpus.py [--count 4500] [--teachers slt,rms]

Needs Debian's ``festival``, ``festvox-us-slt-hts`` and ``flite``. The corpus is made in parts of a
hundred texts; a part that is there is not made again, so the step goes on where it was stopped.
The same texts always give the same waves: ``--again`` makes them where only the rows of the parts
are (``bundle.py``), without the product's frontend.
"""

from __future__ import annotations

import dataclasses
import zlib
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
    """The product's frontend."""

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
    wave, first, last = trimmed(spoken)
    times = np.minimum(np.array(ends), last) - first
    return Utterance(text, wave, reading.ids, np.round(times * _TIME_UNIT).astype(np.int32))


def trimmed(spoken: Spoken) -> tuple[NDArray[np.int16], float, float]:
    """The wave without the silence around it, scaled, and which seconds of the teacher's it is."""
    first = max(0.0, spoken.ends[0] - LEAD_SECONDS)
    last = min(len(spoken.wave) / REFERENCE_RATE, spoken.ends[-2] + TAIL_SECONDS)
    wave = spoken.wave[round(first * REFERENCE_RATE) : round(last * REFERENCE_RATE)]
    wave = wave * (LEVEL / np.sqrt(np.mean(wave**2)))
    return audio.to_pcm16(wave.astype(np.float32)), first, last


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


def speak_again(stem: Path, teacher: str) -> int:
    """Make the waves and mels of a part whose rows are there; how many waves came out otherwise.

    Another machine's mathematics may round otherwise; a wave of another length is cut or padded.
    """
    if _beside(stem, "mels.npy").is_file():
        return 0
    with np.load(rows_file(stem)) as rows:
        texts = [str(text) for text in rows["texts"]]
        sizes, sums = np.diff(rows["wave_borders"]), rows["sums"]
    waves, other = [], 0
    spoken = TEACHERS[teacher].speak(texts)
    for one, size, total in zip(spoken, sizes.tolist(), sums.tolist(), strict=True):
        wave = trimmed(one)[0]
        other += zlib.crc32(wave.tobytes()) != total
        waves.append(np.pad(wave[:size], (0, max(0, size - len(wave)))))
    _save_sounds(stem, waves, [normalised_mel(wave) for wave in waves])
    return other


def rows_file(stem: Path) -> Path:
    """The file that is written last, so that its part is whole if it is there."""
    return _beside(stem, "rows.npz")


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(f"{stem.name}.{ending}")


def _save_sounds(
    stem: Path, waves: Sequence[NDArray[np.int16]], mels: Sequence[NDArray[np.float16]]
) -> None:
    np.save(_beside(stem, "waves.npy"), np.concatenate(waves))
    new = _beside(stem, "new.npy")
    np.save(new, np.concatenate(mels))
    new.replace(_beside(stem, "mels.npy"))


def store(stem: Path, utterances: Sequence[Utterance]) -> None:
    """``<stem>.waves.npy``, ``<stem>.mels.npy`` and ``<stem>.rows.npz``: flat arrays, borders."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    waves = [one.wave for one in utterances]
    mels = [normalised_mel(wave) for wave in waves]
    _save_sounds(stem, waves, mels)
    new = _beside(stem, "new.npz")
    np.savez_compressed(
        new,
        sums=np.array([zlib.crc32(wave.tobytes()) for wave in waves]),
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


def _job_again(arguments: tuple[Path, str]) -> int:
    torch.set_num_threads(1)
    return speak_again(*arguments)


def parts(most: int | None = None) -> list[tuple[Path, str]]:
    """The parts of which at least the rows are there, the judged sentences first.

    ``most`` is how many of each teacher's corpus are wanted.
    """
    found = []
    for path in sorted((places.RUN / "judged").glob("*.rows.npz")):
        stem = path.with_name(path.name.removesuffix(".rows.npz"))
        found.append((stem, stem.name))
    for folder in sorted((places.RUN / "corpus").glob("*")):
        for path in sorted(folder.glob("*.rows.npz"))[:most]:
            found.append((path.with_name(path.name.removesuffix(".rows.npz")), folder.name))
    return found


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
@click.option("--again", is_flag=True, help="Make waves and mels for the rows that are there.")
@click.option("--most", type=int, help="With --again: parts of each teacher; by default all.")
def main(count: int, names: str, processes: int, again: bool, most: int | None) -> None:
    """Speak the training texts and, for the judge, the judged ones."""
    log = places.logger("corpus")
    if again:
        with ProcessPoolExecutor(processes) as pool:
            made = list(pool.map(_job_again, parts(most)))
        log.info("%d parts; %d waves are not the very same as before", len(made), sum(made))
        return
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
