"""Trains the small HuBERT to find the codebook's tokens by ear.

.venv/bin/python tools/demo_voice/hubert.py [--minutes 7]
"""

from __future__ import annotations

import click
import numpy as np
import places
import torch
from codes import CLASSES, CODES, WIDTH, Codebook
from data import Array, Corpus
from loop import Trainer
from torch import Tensor, nn
from torch.nn import functional
from transformers import HubertConfig, HubertModel

from gsv import audio
from gsv.constants import REFERENCE_RATE, SSL_RATE, SSL_TAIL_SAMPLES, TOKEN_RATE
from gsv.models.quantizer import Quantizer

SSL_DIM = 192
CONFIG = HubertConfig(  # type: ignore[no-untyped-call]
    hidden_size=SSL_DIM, num_hidden_layers=2, num_attention_heads=3, intermediate_size=576,
    conv_dim=[64] * 7, num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=6,
    hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
    activation_dropout=0.0, apply_spec_augment=False,
)  # fmt: skip
_BATCH = 8
_SHARPNESS = 8.0  # of the classes' softmax: their values are to be 0 and 1, not logits


class Ear(nn.Module):
    """HuBERT and the quantizer's projection, whose first outputs are codes."""

    def __init__(self) -> None:
        super().__init__()
        self.hubert = HubertModel(CONFIG)
        self.projection = nn.Conv1d(SSL_DIM, WIDTH, kernel_size=2, stride=2)

    def forward(self, wave: Tensor) -> Tensor:
        """[B, samples] at 16 kHz to [B, tokens, WIDTH]."""
        projected: Tensor = self.projection(self.hubert(wave).last_hidden_state.mT)
        return projected.mT

    def quantizer(self, codes: Array) -> Quantizer:
        """The product's quantizer: the projection, widened by zeros, and the codebook."""
        made = Quantizer(SSL_DIM, CODES)
        with torch.no_grad():
            pairs = zip(made.projection.parameters(), self.projection.parameters(), strict=True)
            for whole, learned in pairs:
                whole.zero_()
                whole[:WIDTH] = learned
            made.codebook.zero_()
            made.codebook[:, :WIDTH] = torch.from_numpy(codes)
        return made.eval()


def heard(wave: Array) -> Array:
    """A recording as the product's reference encoder gets it, without the zeros at its end."""
    return audio.resample_soxr(wave.astype(np.float32) / 32768, REFERENCE_RATE, SSL_RATE)


@torch.inference_mode()
def tokens(ear: Ear, codes: Array, wave: Array) -> Array:
    """What the product makes of a 32 kHz recording."""
    padded = np.concatenate([heard(wave), np.zeros(SSL_TAIL_SAMPLES, np.float32)])
    hidden = ear.hubert(torch.from_numpy(padded)[None]).last_hidden_state
    found: Array = ear.quantizer(codes).extract_tokens(hidden.mT)[0].numpy()
    return found


class Source:
    """Batches of sentences cut to the same length, each followed by a reference's zeros."""

    def __init__(self, corpus: Corpus, book: Codebook, seed: int) -> None:
        self._corpus, self._book = corpus, book
        self._random = np.random.default_rng(seed)
        lengths = [len(corpus.mels[i]) for i in range(corpus.learned)]
        self._by_length = np.argsort(lengths)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Waves [B, samples] and targets [B, tokens, WIDTH]."""
        first = self._random.integers(len(self._by_length) - 4 * _BATCH)
        chosen = self._random.permutation(self._by_length[first : first + 4 * _BATCH])[:_BATCH]
        count = min(len(self._corpus.mels[i]) for i in chosen) // 4
        size = count * SSL_RATE // TOKEN_RATE
        tail = np.zeros(SSL_TAIL_SAMPLES, np.float32)
        silent = self._book.targets(self._corpus, int(chosen[0]))[-1]
        waves, wanted = [], []
        for index in chosen:
            waves.append(np.concatenate([heard(self._corpus.waves[index])[:size], tail]))
            rows = self._book.targets(self._corpus, int(index))[:count]
            wanted.append(np.concatenate([rows, np.repeat(silent[None], 14, axis=0)]))
        return torch.from_numpy(np.stack(waves)), torch.from_numpy(np.stack(wanted))


def losses(ear: Ear, waves: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Classes as such and as values, and the mel's components."""
    told = ear(waves)[:, : wanted.shape[1]]
    labels = wanted[..., :CLASSES].argmax(-1)
    classes = _SHARPNESS * told[..., :CLASSES].flatten(0, 1)
    return {
        "phone": functional.cross_entropy(classes, labels.flatten()),
        "value": 20 * (told[..., :CLASSES] - wanted[..., :CLASSES]).square().mean(),
        "mel": 10 * (told[..., CLASSES:] - wanted[..., CLASSES:]).square().mean(),
        # Without a gradient; to be read only.
        "wrong": (told[..., :CLASSES].argmax(-1) != labels).float().mean(),
    }


@click.command()
@click.option("--minutes", default=7.0, show_default=True, help="Of processor time.")
def main(minutes: float) -> None:
    """Train, or go on training; then say how well the tokens are found."""
    corpus, book = Corpus(places.RUN / "corpus.npz"), Codebook.load()
    ear = Ear()
    trainer = Trainer("hubert", ear, 2e-3, minutes)
    ear.train()
    source = Source(corpus, book, trainer.steps)
    trainer.run(lambda: losses(ear, *source.batch()))
    log = places.logger("hubert")
    mean: Ear = trainer.mean
    codes, phones = [], []
    for index in range(corpus.learned, len(corpus)):
        found = tokens(mean, book.codes, corpus.waves[index])
        wanted = book.tokens(book.targets(corpus, index))[: len(found)]
        codes.append((found == wanted).mean())
        phones.append(
            (book.codes[found, :CLASSES].argmax(1) == book.codes[wanted, :CLASSES].argmax(1)).mean()
        )
    log.info("held out: %.1f %% of the codes, %.1f %% of the phonemes are found",
             100 * float(np.mean(codes)), 100 * float(np.mean(phones)))  # fmt: skip


if __name__ == "__main__":
    main()
