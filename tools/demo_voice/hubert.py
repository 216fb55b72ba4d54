"""Trains the small HuBERT to find the codebook's tokens by ear.

.venv/bin/python tools/demo_voice/hubert.py [--minutes 7]
"""

from __future__ import annotations

import click
import numpy as np
import places
import torch
from codes import CLASSES, CODES, PITCH, WIDTH, Codebook, Tokenized, read
from data import Array, Corpus, Cutter
from loop import Trainer, limits
from numpy.random import Generator
from torch import Tensor, nn
from torch.nn import functional
from transformers import HubertConfig, HubertModel

from gsv import audio
from gsv.constants import (
    FRAMES_PER_TOKEN,
    REFERENCE_RATE,
    SSL_RATE,
    SSL_TAIL_SAMPLES,
    TOKEN_RATE,
)
from gsv.models.quantizer import Quantizer

SSL_DIM = 192
CONFIG = HubertConfig(  # type: ignore[no-untyped-call]
    hidden_size=SSL_DIM, num_hidden_layers=2, num_attention_heads=3, intermediate_size=576,
    conv_dim=[64] * 7, num_conv_pos_embeddings=32, num_conv_pos_embedding_groups=6,
    hidden_dropout=0.0, attention_dropout=0.0, feat_proj_dropout=0.0, layerdrop=0.0,
    activation_dropout=0.0, apply_spec_augment=False,
)  # fmt: skip
BATCH = 8
_LONGEST = 200  # tokens of a training sentence; references are shorter
_STEP = 10  # tokens that lengths are multiples of, for cuDNN plans anew for each new shape
_TAIL = 14  # tokens of the zeros behind a reference that are surely silent
_JUDGED = 60  # held-out sentences
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

    def __init__(
        self, corpus: Corpus, said: Tokenized, book: Codebook, random: Generator,
        device: torch.device, size: int = BATCH,
    ) -> None:  # fmt: skip
        self._said, self._random, self._size = said, random, size
        self._waves = Cutter(corpus.waves, device)
        self._codes, self._device = torch.from_numpy(book.codes).to(device), device
        learned = corpus.learned()
        learned = learned[said.frames[learned] >= _STEP * FRAMES_PER_TOKEN]
        self._by_length = learned[np.argsort(said.frames[learned], kind="stable")]

    def batch(self) -> tuple[Tensor, Tensor]:
        """Waves [B, samples] and the codes that are to be heard, [B, tokens, WIDTH]."""
        span = min(4 * self._size, len(self._by_length))
        first = self._random.integers(len(self._by_length) - span + 1)
        chosen = self._random.permutation(self._by_length[first : first + span])[: self._size]
        count = min(int(self._said.frames[chosen].min()) // FRAMES_PER_TOKEN, _LONGEST)
        count = count // _STEP * _STEP
        size = count * REFERENCE_RATE // TOKEN_RATE
        waves = self._waves.spans(chosen, np.zeros(len(chosen), np.int64), size) / 32768
        # On the device; what the product's own filter makes of a recording is next to the same.
        waves = audio.resample_sinc(waves, REFERENCE_RATE, SSL_RATE)
        said = [self._said.tokens[index] for index in chosen]
        wanted = np.stack([np.append(row[:count], np.full(_TAIL, row[-1])) for row in said])
        places = torch.from_numpy(wanted).to(self._device)
        return functional.pad(waves, (0, SSL_TAIL_SAMPLES)), self._codes[places]


def losses(ear: Ear, waves: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Classes as such and as values, and the mel's components."""
    told = ear(waves)[:, : wanted.shape[1]]
    labels = wanted[..., :CLASSES].argmax(-1)
    classes = _SHARPNESS * told[..., :CLASSES].flatten(0, 1)
    return {
        "phone": functional.cross_entropy(classes, labels.flatten()),
        "value": 20 * (told[..., :CLASSES] - wanted[..., :CLASSES]).square().mean(),
        "mel": 10 * (told[..., CLASSES:PITCH] - wanted[..., CLASSES:PITCH]).square().mean(),
        "pitch": 4 * (told[..., PITCH] - wanted[..., PITCH]).square().mean(),
        # Without a gradient; to be read only.
        "wrong": (told[..., :CLASSES].argmax(-1) != labels).float().mean(),
    }


@click.command()
@limits(minutes=10.0)
def main(minutes: float, steps: int | None, device: str) -> None:
    """Train, or go on training; then say how well the tokens are found."""
    corpus, said, book = read("corpus"), Tokenized.load("corpus"), Codebook.load()
    ear = Ear().train()
    trainer = Trainer("hubert", ear, 2e-3, minutes, steps, device, seed=1)
    source = Source(corpus, said, book, trainer.random, trainer.device, BATCH * trainer.scale)

    def step() -> dict[str, Tensor]:
        waves, wanted = source.batch()
        return losses(ear, waves, wanted)

    trainer.finish(step)
    mean: Ear = trainer.mean.cpu()
    held = corpus.held_out()
    codes, phones = [], []
    for index in held[:: max(1, len(held) // _JUDGED)].tolist():
        found = tokens(mean, book.codes, corpus.waves[index])
        wanted = said.tokens[index][: len(found)]
        found = found[: len(wanted)]
        codes.append((found == wanted).mean())
        phones.append(
            (book.codes[found, :CLASSES].argmax(1) == book.codes[wanted, :CLASSES].argmax(1)).mean()
        )
    places.logger("hubert").info(
        "held out: %.1f %% of the codes, %.1f %% of the phonemes are found",
        100 * float(np.mean(codes)), 100 * float(np.mean(phones)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
