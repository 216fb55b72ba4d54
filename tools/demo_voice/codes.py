"""Makes the codebook and every utterance's tokens, from phone times and mels.

    .venv/bin/python tools/demo_voice/codes.py

A code stands for one of a few sounds of one phoneme, so that a token tells its phoneme: the fewer
choices the GPT has, the sooner it learns. The GPT and SoVITS learn from these tokens; the HuBERT
(``hubert.py``) learns to find the same ones by ear, for references.
"""

from __future__ import annotations

import dataclasses
import math

import click
import numpy as np
import places
from corpus import LEAD_SECONDS
from data import Array, Corpus
from scipy.cluster.vq import kmeans2

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
_HALVES = 2  # a token's mel is described by the means of its two halves
_CODES_PER_PHONE, _CODES_OF_SILENCE = 6, 8
_MIDDLE = 0.55  # of a token, where its phoneme is looked up (HuBERT's frames lie a little late)
_UNIT = 10_000  # of the corpus's phone times
_PHONES = [
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH",
    "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH",
    "UH", "UW", "V", "W", "Y", "Z", "ZH",
]  # fmt: skip
CLASSES = len(_PHONES) + 1
WIDTH = CLASSES + COMPONENTS  # of a code
# The mel of the zeros that follow a reference.
_SILENCE = (math.log(1e-5) - MEL_FLOOR) / (MEL_CEILING - MEL_FLOOR) * 2 - 1


def classes() -> Array:
    """Class of each phoneme id: stress is ignored, everything but phones is silence (0)."""
    table = np.zeros(PHONEMES, np.int64)
    for number, phone in enumerate(_PHONES, start=1):
        vowel = phone[0] in "AEIOU"
        table[list(symbol_ids([phone + s for s in "012"] if vowel else [phone]))] = number
    return table


def token_phones(phonemes: Array, ends: Array, tokens: int) -> Array:
    """Index of the phoneme that each token belongs to; the first one's also before it begins."""
    middles = (np.arange(tokens) + _MIDDLE) * _UNIT / TOKEN_RATE
    found: Array = np.searchsorted(ends, middles).clip(max=len(phonemes) - 1)
    return found


@dataclasses.dataclass(frozen=True)
class Codebook:
    """Codes [1024, WIDTH]: which phoneme, and where its components lie."""

    codes: Array
    mean: Array
    basis: Array

    @classmethod
    def load(cls) -> Codebook:
        """What :func:`main` stored."""
        stored = np.load(places.RUN / "codebook.npz")
        return cls(stored["codes"], stored["mean"], stored["basis"])

    def components(self, mel: Array) -> Array:
        """[tokens, COMPONENTS], weighted."""
        made: Array = (pieces(mel) - self.mean) @ self.basis
        return made

    def targets(self, corpus: Corpus, index: int) -> Array:
        """Exact features of the tokens: float32 [tokens, WIDTH], with the reference's tail."""
        mel = corpus.mels[index].astype(np.float32)
        tail = expected_tokens(len(corpus.waves[index])) - len(mel) // FRAMES_PER_TOKEN
        mel = np.concatenate(
            [
                mel[: len(mel) // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN],
                np.full((tail * FRAMES_PER_TOKEN, mel.shape[1]), _SILENCE, np.float32),
            ]
        )
        labels = class_labels(corpus, index)
        made = np.zeros((len(mel) // FRAMES_PER_TOKEN, WIDTH), np.float32)
        made[np.arange(len(labels)), labels] = 1.0
        made[len(labels) :, 0] = 1.0
        made[:, CLASSES:] = self.components(mel)
        return made

    def tokens(self, targets: Array) -> Array:
        """Nearest codes, int16 [tokens]."""
        far = (self.codes**2).sum(1) - 2 * targets @ self.codes.T
        nearest: Array = far.argmin(1).astype(np.int16)
        return nearest


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


def make(corpus: Corpus) -> Codebook:
    """Principal components, then a few means of them for each phoneme."""
    some = range(0, corpus.learned, 4)
    sample = np.concatenate([pieces(corpus.mels[i].astype(np.float32)) for i in some])
    labels = np.concatenate([class_labels(corpus, i) for i in some])
    mean = sample.mean(0)
    values, vectors = np.linalg.eigh(np.cov((sample - mean).T))
    basis = vectors[:, -COMPONENTS:] / np.sqrt(values[-COMPONENTS:]) * _COMPONENT_WEIGHT
    components = (sample - mean) @ basis
    rows = []
    for label in range(CLASSES):
        own = components[labels == label]
        count = min(_CODES_PER_PHONE if label else _CODES_OF_SILENCE, max(1, len(own) // 50))
        means = (
            kmeans2(own, count, minit="++", seed=0)[0] if len(own) else np.zeros((1, COMPONENTS))
        )
        code = np.zeros((len(means), WIDTH), np.float32)
        code[:, label] = 1.0
        code[:, CLASSES:] = means
        rows.append(code)
    used = np.concatenate(rows)
    # Codes that stand for nothing lie where no sound does.
    unused = np.full((CODES - len(used), WIDTH), 30.0, np.float32)
    return Codebook(np.concatenate([used, unused]), mean, basis)


@click.command()
def main() -> None:
    """Make the codebook and the tokens."""
    corpus = Corpus(places.RUN / "corpus.npz")
    path = places.RUN / "codebook.npz"
    if not path.is_file():  # what was trained with an earlier one would not understand another
        made = make(corpus)
        np.savez(path, codes=made.codes, mean=made.mean, basis=made.basis)
    book = Codebook.load()
    for name, part in (("corpus", corpus), ("judged", Corpus(places.RUN / "judged.npz"))):
        rows = [book.tokens(book.targets(part, i)) for i in range(len(part))]
        borders = np.cumsum([0, *map(len, rows)])
        np.savez(places.RUN / f"{name}_tokens.npz", tokens=np.concatenate(rows), borders=borders)
        log = places.logger("codes")
        counts = np.bincount(np.concatenate(rows), minlength=CODES) / borders[-1]
        entropy = -(counts[counts > 0] * np.log(counts[counts > 0])).sum()
        right = np.mean([
            (book.codes[row[: len(label)], :CLASSES].argmax(1) == label).mean()
            for row, label in ((rows[i], class_labels(part, i)) for i in range(len(part)))
        ])  # fmt: skip
        log.info("%s: %d tokens of %d codes, entropy %.2f; %.1f %% tell their phoneme",
                 name, borders[-1], (counts > 0).sum(), entropy, 100 * right)  # fmt: skip


if __name__ == "__main__":
    main()
