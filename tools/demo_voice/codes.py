"""Makes the codebook and every utterance's tokens, from phone times, mels and pitch.

    .venv/bin/python tools/demo_voice/codes.py

A code stands for one of a few sounds of one phoneme at one of a few pitches, so that a token tells
its phoneme and its place in the melody: the fewer choices the GPT has, the sooner it learns. Sound
and pitch are counted from each teacher's own mean, so that both teachers share the codes; whose
voice it is, SoVITS takes from the reference. The GPT and SoVITS learn from these tokens; the HuBERT
(``hubert.py``) learns to find the same ones by ear.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

import click
import numpy as np
import pitch
import places
import torch
from corpus import LEAD_SECONDS
from data import Array, Corpus
from scipy.cluster.vq import kmeans2
from teachers import TEACHERS

from gsv.constants import (
    FRAMES_PER_TOKEN,
    MEL_CEILING,
    MEL_FLOOR,
    PHONEMES,
    REFERENCE_RATE,
    SSL_RATE,
    SSL_TAIL_SAMPLES,
    TOKEN_RATE,
)
from gsv.text.symbols import symbol_ids

CODES = 1024
COMPONENTS = 12  # principal components of a token's mel
_COMPONENT_WEIGHT = 0.25  # of a component with variance 1, against a phoneme's 1
_PITCH_WEIGHT = 0.5
_HALVES = 2  # a token's mel is described by the means of its two halves
_MIDDLE = 0.55  # of a token, where its phoneme is looked up (HuBERT's frames lie a little late)
_UNIT = 10_000  # of the corpus's phone times
_SAMPLE = 600  # utterances of each teacher that the codebook is made from
_FEWEST = 50  # tokens that a code stands for at least
_CHUNK = 20  # utterances that a process is handed at once
PHONES = [
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
]  # fmt: skip
# Phones that carry the melody, and others that have a pitch.
_SONOROUS = frozenset([
    "AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "L", "M", "N", "NG", "OW",
    "OY", "R", "UH", "UW", "W", "Y",
])  # fmt: skip
_VOICED = frozenset(["B", "D", "DH", "G", "JH", "V", "Z", "ZH"])
_SOUNDS_AND_PITCHES = {"sonorous": (5, 6), "voiced": (4, 2), "voiceless": (6, 1), "silent": (8, 1)}
CLASSES = len(PHONES) + 1
PITCH = CLASSES + COMPONENTS  # place of the pitch in a code
WIDTH = PITCH + 1  # of a code
# The mel of the zeros that follow a reference.
_SILENCE = (math.log(1e-5) - MEL_FLOOR) / (MEL_CEILING - MEL_FLOOR) * 2 - 1


@functools.cache
def classes() -> Array:
    """Class of each phoneme id: stress is ignored, everything but phones is silence (0)."""
    table = np.zeros(PHONEMES, np.int64)
    for number, phone in enumerate(PHONES, start=1):
        vowel = phone[0] in "AEIOU"
        table[list(symbol_ids([phone + s for s in "012"] if vowel else [phone]))] = number
    return table


def token_phones(phonemes: Array, ends: Array, tokens: int) -> Array:
    """Place of the phoneme that each token belongs to; the first one's also before it begins."""
    middles = (np.arange(tokens) + _MIDDLE) * _UNIT / TOKEN_RATE
    found: Array = np.searchsorted(ends, middles).clip(max=len(phonemes) - 1)
    return found


def expected_tokens(samples: int) -> int:
    """How many tokens a reference of so many 32 kHz samples has, its tail of zeros included."""
    heard = -(-samples * SSL_RATE // REFERENCE_RATE) + SSL_TAIL_SAMPLES
    return ((heard - 400) // 320 + 1) // 2


def pieces(mel: Array) -> Array:
    """[tokens, 200]: the mean mel of each token's two halves."""
    tokens = len(mel) // FRAMES_PER_TOKEN
    halves = mel[: tokens * FRAMES_PER_TOKEN].reshape(tokens, _HALVES, -1, mel.shape[1])
    made: Array = halves.mean(2).reshape(tokens, -1)
    return made


def class_labels(corpus: Corpus, index: int) -> Array:
    """Class of each of a sentence's tokens."""
    phonemes, ends = corpus.phonemes[index], corpus.ends[index]
    count = len(corpus.mels[index]) // FRAMES_PER_TOKEN
    labels = classes()[phonemes[token_phones(phonemes, ends, count)]]
    early = (np.arange(count) + _MIDDLE) / TOKEN_RATE < LEAD_SECONDS
    made: Array = np.where(early, 0, labels)
    return made


def octaves(corpus: Corpus, index: int) -> Array:
    """Pitch of each token in octaves above 1 Hz; NaN where it has none."""
    wave = np.asarray(corpus.waves[index]).astype(np.float32) / 32768
    track = pitch.track(wave, REFERENCE_RATE)
    count = len(corpus.mels[index]) // FRAMES_PER_TOKEN
    frames = np.zeros(count * FRAMES_PER_TOKEN, np.float32)
    frames[: len(track)] = track[: len(frames)]
    tokens = frames.reshape(count, FRAMES_PER_TOKEN)
    voiced = (tokens > 0).sum(1)
    logs = np.where(tokens > 0, np.log2(np.maximum(tokens, 1.0)), 0.0).sum(1)
    made: Array = np.where(voiced > 1, logs / np.maximum(voiced, 1), np.nan)
    return made


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Codes [1024, WIDTH], and how features are counted.

    ``means`` [teachers, 200] and ``pitches`` [teachers, 2] (mean and deviation in octaves) are each
    teacher's own; ``basis`` [200, COMPONENTS] is shared.
    """

    codes: Array
    means: Array
    basis: Array
    pitches: Array

    @classmethod
    def load(cls) -> Codebook:
        """What :func:`main` stored."""
        with np.load(places.RUN / "codebook.npz") as stored:
            return cls(**{field.name: stored[field.name] for field in dataclasses.fields(cls)})

    def store(self) -> None:
        """For :meth:`load`."""
        np.savez(places.RUN / "codebook.npz", **dataclasses.asdict(self))

    def components(self, mel: Array, teacher: int) -> Array:
        """[tokens, COMPONENTS], weighted."""
        made: Array = (pieces(mel) - self.means[teacher]) @ self.basis
        return made

    def heights(self, tokens: Array, teacher: int) -> Array:
        """Pitches in octaves, counted from the teacher's mean and weighted; 0 for none."""
        mean, deviation = self.pitches[teacher]
        made: Array = np.nan_to_num((tokens - mean) / deviation).clip(-3, 3) * _PITCH_WEIGHT
        return made

    def targets(self, corpus: Corpus, index: int) -> Array:
        """Exact features of the tokens: float32 [tokens, WIDTH], with the reference's tail."""
        teacher = int(corpus.teachers[index])
        mel = np.asarray(corpus.mels[index]).astype(np.float32)
        count = len(mel) // FRAMES_PER_TOKEN
        tail = expected_tokens(len(corpus.waves[index])) - count
        silence = np.full((tail * FRAMES_PER_TOKEN, mel.shape[1]), _SILENCE, np.float32)
        whole = np.concatenate([mel[: count * FRAMES_PER_TOKEN], silence])
        labels = class_labels(corpus, index)
        made = np.zeros((count + tail, WIDTH), np.float32)
        made[np.arange(count), labels] = 1.0
        made[count:, 0] = 1.0
        made[:, CLASSES:PITCH] = self.components(whole, teacher)
        carries = np.isin(labels, _carriers())
        found = self.heights(octaves(corpus, index), teacher)
        made[:count, PITCH] = np.where(carries, found, 0.0)
        return made

    def tokens(self, targets: Array) -> Array:
        """Nearest codes, int16 [tokens]."""
        far = (self.codes**2).sum(1) - 2 * targets @ self.codes.T
        nearest: Array = far.argmin(1).astype(np.int16)
        return nearest


def _kind(label: int) -> str:
    if label == 0:
        return "silent"
    phone = PHONES[label - 1]
    return "sonorous" if phone in _SONOROUS else "voiced" if phone in _VOICED else "voiceless"


@functools.cache
def _carriers() -> Array:
    return np.array([n for n in range(CLASSES) if _kind(n) in ("sonorous", "voiced")])


def make(corpus: Corpus) -> Codebook:
    """Principal components, then a few means of them for each phoneme and pitch."""
    teachers = sorted(set(corpus.teachers.tolist()))
    learned = corpus.learned()
    chosen = [learned[corpus.teachers[learned] == t] for t in teachers]
    some = [int(i) for rows in chosen for i in rows[:: max(1, len(rows) // _SAMPLE)]]
    owner = np.concatenate([
        np.full(len(corpus.mels[i]) // FRAMES_PER_TOKEN, corpus.teachers[i]) for i in some
    ])  # fmt: skip
    sample = np.concatenate([pieces(np.asarray(corpus.mels[i]).astype(np.float32)) for i in some])
    labels = np.concatenate([class_labels(corpus, i) for i in some])
    heights = np.concatenate([octaves(corpus, i) for i in some])
    carries = np.isin(labels, _carriers())
    means = np.stack([sample[owner == t].mean(0) for t in teachers])
    pitches = np.array([_mean_and_deviation(heights[(owner == t) & carries]) for t in teachers])
    centred = sample - means[owner]
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    basis = vectors[:, -COMPONENTS:] / np.sqrt(values[-COMPONENTS:]) * _COMPONENT_WEIGHT
    plain = Codebook(np.zeros((0, WIDTH)), means, basis, pitches)
    features = np.zeros((len(sample), WIDTH), np.float32)
    features[np.arange(len(sample)), labels] = 1.0
    features[:, CLASSES:PITCH] = centred @ basis
    for t in teachers:
        own = (owner == t) & carries
        features[own, PITCH] = plain.heights(heights[own], t)
    used = np.concatenate(list(_means(features, labels)))
    # Codes that stand for nothing lie where no sound does.
    unused = np.full((CODES - len(used), WIDTH), 30.0, np.float32)
    return dataclasses.replace(plain, codes=np.concatenate([used, unused]).astype(np.float32))


def _mean_and_deviation(values: Array) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return 0.0, 1.0
    # At least a quarter of a semitone: a teacher on one note has no melody to blow up.
    return float(known.mean()), max(float(known.std()), 1 / 48)


def _means(features: Array, labels: Array) -> Iterable[Array]:
    """Codes of one class at one pitch after another."""
    for label in range(CLASSES):
        sounds, levels = _SOUNDS_AND_PITCHES[_kind(label)]
        own = features[labels == label]
        if not len(own):
            empty = np.zeros((1, WIDTH), np.float32)
            empty[0, label] = 1.0
            yield empty
            continue
        order = np.argsort(own[:, PITCH], kind="stable")
        for part in np.array_split(order, max(1, min(levels, len(own) // _FEWEST))):
            count = min(sounds, max(1, len(part) // _FEWEST))
            found = kmeans2(own[part][:, CLASSES:], count, minit="++", seed=0)[0]
            codes = np.zeros((count, WIDTH), np.float32)
            codes[:, label] = 1.0
            codes[:, CLASSES:] = found
            yield codes


@dataclasses.dataclass(frozen=True)
class Tokenized:
    """What the GPT needs of utterances: phonemes, their ends, tokens with tail; by row."""

    phonemes: list[Array]
    ends: list[Array]
    tokens: list[Array]
    frames: Array  # of each mel, which has a token for every four
    teachers: Array

    @classmethod
    def load(cls, name: str) -> Tokenized:
        """What :func:`main` stored: ``corpus`` or ``judged``."""
        with np.load(places.RUN / f"{name}_tokens.npz") as stored:
            borders = stored["phoneme_borders"][1:-1]
            return cls(
                np.split(stored["phonemes"].astype(np.int64), borders),
                np.split(stored["ends"].astype(np.int64), borders),
                np.split(stored["tokens"].astype(np.int64), stored["borders"][1:-1]),
                stored["frames"],
                stored["teachers"],
            )

    def __len__(self) -> int:
        return len(self.tokens)


def teacher_names() -> list[str]:
    """Of the run, in the order of their numbers."""
    found = {path.name.removesuffix(".rows.npz") for path in (places.RUN / "judged").glob("*.npz")}
    return [name for name in TEACHERS if name in found]


def read(name: str) -> Corpus:
    """``corpus`` or ``judged`` of the run, all teachers."""
    return Corpus.parts(places.RUN / name, teacher_names())


_part: Corpus  # of one of the processes of :func:`tokens`
_book: Codebook


def _begin(name: str) -> None:
    global _part, _book
    torch.set_num_threads(1)
    _part, _book = read(name), Codebook.load()


def _row(index: int) -> Array:
    return _book.tokens(_book.targets(_part, index))


def tokens(name: str, count: int, processes: int) -> list[Array]:
    """Those of every utterance of ``corpus`` or ``judged``, which has ``count``."""
    with ProcessPoolExecutor(processes, initializer=_begin, initargs=(name,)) as pool:
        return list(pool.map(_row, range(count), chunksize=_CHUNK))


@click.command()
@click.option("--processes", default=1, show_default=True)
def main(processes: int) -> None:
    """Make the codebook and the tokens."""
    log = places.logger("codes")
    corpus = read("corpus")
    if not (places.RUN / "codebook.npz").is_file():
        make(corpus).store()  # what was trained with one would not understand another
    book = Codebook.load()
    for name, part in (("corpus", corpus), ("judged", read("judged"))):
        rows = tokens(name, len(part), processes)
        everything = np.concatenate(rows)
        phonemes = [part.phonemes[i] for i in range(len(part))]
        np.savez_compressed(
            places.RUN / f"{name}_tokens.npz",
            tokens=everything,
            borders=np.cumsum([0, *map(len, rows)]),
            phonemes=np.concatenate(phonemes),
            ends=np.concatenate([part.ends[i] for i in range(len(part))]),
            phoneme_borders=np.cumsum([0, *map(len, phonemes)]),
            frames=part.mels.lengths(),
            teachers=part.teachers,
        )
        counts = np.bincount(everything, minlength=CODES) / len(everything)
        entropy = -(counts[counts > 0] * np.log(counts[counts > 0])).sum()
        right = np.mean([
            (book.codes[row[: len(label)], :CLASSES].argmax(1) == label).mean()
            for row, label in ((rows[i], class_labels(part, i)) for i in range(len(part)))
        ])  # fmt: skip
        log.info("%s: %d tokens of %d codes, entropy %.2f; %.1f %% tell their phoneme; %.2f hours",
                 name, len(everything), (counts > 0).sum(), entropy, 100 * right,
                 part.mels.lengths().sum() / 360_000)  # fmt: skip


if __name__ == "__main__":
    main()
