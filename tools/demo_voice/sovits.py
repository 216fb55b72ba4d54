"""Trains SoVITS: tokens and phonemes to mels, by flow matching and by a loss on the condition.

.venv/bin/python tools/demo_voice/sovits.py [--minutes 26]
"""

from __future__ import annotations

import click
import numpy as np
import places
import torch
from codes import CODES, WIDTH, Codebook
from data import Array, Corpus, Rows
from hubert import SSL_DIM
from loop import Trainer, attend
from torch import Tensor, nn
from torch.nn import functional

from gsv import audio
from gsv.config import SoVITSConfig
from gsv.constants import FRAMES_PER_TOKEN, STYLE_BINS
from gsv.models.dit import Block, DiT, ResponseNorm
from gsv.models.sovits import SoVITS
from gsv.models.text_encoder import RelativeAttention

CONFIG = SoVITSConfig(
    inter_channels=128, hidden_channels=128, filter_channels=160, layers=4, gin_channels=128,
    codebook_size=CODES, ssl_dim=SSL_DIM, condition_channels=192, mrte_hidden=128,
    style_hidden=32, wavenet_layers=3, wavenet_kernel=3,
    dit_dim=256, dit_depth=3, dit_heads=4, dit_head_dim=64, dit_conv_layers=2,
)  # fmt: skip
STEPS = 8  # of the voice's own flow
_BATCH = 6
_STEP_SIZES = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
_FARTHEST = 400  # frames of prompt that may stand before a sentence


class Learner(nn.Module):
    """SoVITS, and the projection of its condition to a mel that only training has."""

    def __init__(self) -> None:
        super().__init__()
        self.sovits = SoVITS(CONFIG)
        self.linear_mel = nn.Conv1d(CONFIG.condition_channels, CONFIG.mel_channels, 1)
        _begin(self.sovits)


def _begin(sovits: SoVITS) -> None:
    """Weights to begin from, where the modules leave theirs empty."""
    sovits.quantizer.requires_grad_(False)
    sovits.quantizer.codebook.zero_()
    codes = torch.from_numpy(Codebook.load().codes)
    # Unused codes must not lead to values out of range.
    sovits.quantizer.codebook[:, :WIDTH] = codes
    for module in sovits.modules():
        if isinstance(module, RelativeAttention):
            nn.init.normal_(module.relative_keys, 0.0, 0.1)
            nn.init.normal_(module.relative_values, 0.0, 0.1)
        if isinstance(module, ResponseNorm):
            nn.init.zeros_(module.gamma)
            nn.init.zeros_(module.beta)
    estimator = sovits.flow.estimator
    _let_noise_through(estimator)
    for block in estimator.blocks:
        assert isinstance(block, Block)
        block.attention.kernel = differentiable_attention
    half = CONFIG.dit_head_dim // 2
    frequencies = 10_000.0 ** (-torch.arange(half).float() / half)
    estimator.inverse_frequencies.copy_(frequencies.half().float())  # as the fp16 file will have it


@torch.no_grad()
def _let_noise_through(estimator: DiT) -> None:
    """Begin with a velocity that takes the noise away: blocks do nothing, in- and output cancel."""
    mel, width = CONFIG.mel_channels, CONFIG.dit_dim
    identity = torch.eye(width)[:, :mel]
    estimator.input.weight[:, :mel] = identity
    estimator.input.weight[:, mel:] *= 0.3
    estimator.output.weight.copy_(-identity.T * (mel / width) ** 0.5)
    estimator.output.bias.zero_()
    for layer in (*estimator.modulations, estimator.final_modulation):
        layer.weight.zero_()
        layer.bias.zero_()


def differentiable_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None
) -> Tensor:
    """What ``gsv.models.attention.attend`` does; its processor kernels have no gradient.

    ``lengths`` are none: all rows of a batch are full.
    """
    mixed = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return mixed.transpose(1, 2).flatten(2)


class Source:
    """Batches of whole sentences, and the reference that stands before them."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self.corpus, self.tokens = self._read("corpus")
        judged, tokens = self._read("judged")
        self.reference_tokens, self.reference_phonemes = _row(tokens[-1]), _row(judged.phonemes[-1])
        self.reference_mel = torch.from_numpy(judged.mels[-1].astype(np.float32)).T
        self._reference_wave = judged.waves[-1]
        self._by_length = np.argsort([len(self.corpus.mels[i]) for i in range(self.corpus.learned)])

    @staticmethod
    def _read(name: str) -> tuple[Corpus, Rows]:
        stored = np.load(places.RUN / f"{name}_tokens.npz")
        return Corpus(places.RUN / f"{name}.npz"), Rows(stored["tokens"], stored["borders"])

    def batch(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, N], phonemes [B, P], their lengths [B], and mels [B, 100, 4 N]."""
        first = self._random.integers(len(self._by_length) - 5 * _BATCH)
        chosen = self._random.permutation(self._by_length[first : first + 5 * _BATCH])[:_BATCH]
        size = min(len(self.corpus.mels[i]) for i in chosen) // FRAMES_PER_TOKEN
        tokens = np.stack([self.tokens[i][:size] for i in chosen]).astype(np.int64)
        mels = np.stack([self.corpus.mels[i][: size * FRAMES_PER_TOKEN] for i in chosen])
        phonemes = [self.corpus.phonemes[i] for i in chosen]
        longest = max(map(len, phonemes))
        padded = np.stack([np.pad(row, (0, longest - len(row))) for row in phonemes])
        return (
            torch.from_numpy(tokens),
            torch.from_numpy(padded),
            torch.tensor([len(row) for row in phonemes]),
            torch.from_numpy(mels.astype(np.float32)).mT,
        )

    def spectrum(self) -> Tensor:
        """Of the reference, or of any sentence."""
        wave: Array = self._reference_wave
        if self._random.random() < 0.3:
            wave = self.corpus.waves[int(self._random.integers(self.corpus.learned))]
        floats = torch.from_numpy(wave.astype(np.float32) / 32768)
        return audio.spectrum(floats[None])[:, :STYLE_BINS]

    def prompt_frames(self) -> tuple[int, int]:
        """How many of the reference's last frames are the prompt, and at which place it begins."""
        whole = self.reference_mel.shape[-1]
        kind = self._random.random()
        if kind < 0.15:
            return whole, 0
        frames = 0 if kind < 0.65 else int(self._random.integers(20, 80))
        return frames, int(self._random.integers(_FARTHEST))


def _row(values: Array) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))[None]


def embedded(estimator: DiT, condition: Tensor, offset: int) -> Tensor:
    """``estimator.embed_condition`` of frames [B, T, C] that stand ``offset`` frames late."""
    module = estimator.condition
    positions = torch.arange(offset, offset + condition.shape[1])
    angles = positions[:, None] * module.frequencies
    values = condition + torch.cat([angles.cos(), angles.sin()], dim=-1)
    for block in module.blocks:
        values = block(values, None)
    return values


def losses(learner: Learner, source: Source) -> dict[str, Tensor]:
    """Flow matching towards straight lines, and L1 of the condition's own mel."""
    sovits = learner.sovits
    estimator = sovits.flow.estimator
    tokens, phonemes, lengths, mel = source.batch()
    timbre = sovits.style(source.spectrum())
    condition, _ = sovits.condition(
        tokens, None, phonemes, lengths.tolist(), timbre.expand(len(tokens), -1, -1)
    )
    linear = (learner.linear_mel(condition) - mel).abs().mean()
    frames, offset = source.prompt_frames()
    prompt = source.reference_mel[:, source.reference_mel.shape[-1] - frames :]
    if frames:
        before, _ = sovits.condition(
            source.reference_tokens, None, source.reference_phonemes, None, timbre
        )
        whole = source.reference_mel.shape[-1]
        before = before[..., whole - frames : whole].expand(len(tokens), -1, -1)
        condition = torch.cat([before, condition], dim=-1)
    time = torch.rand(len(tokens))
    time = torch.where(torch.rand(len(tokens)) < 0.5, (time * STEPS).floor() / STEPS, time)
    size = torch.tensor(_STEP_SIZES)[torch.randint(len(_STEP_SIZES), (len(tokens),))]
    noise = torch.randn_like(mel)
    between = torch.lerp(noise, mel, time[:, None, None]).mT
    fixed = functional.pad(prompt.T, (0, 0, 0, mel.shape[-1])).expand(len(tokens), -1, -1)
    velocity = estimator(
        functional.pad(between, (0, 0, frames, 0)),
        estimator.embed_inputs(fixed, embedded(estimator, condition.mT, offset)),
        estimator.modulate(time, size),
    )[:, frames:]
    flow = (velocity - (mel - noise).mT).square().mean()
    return {"linear": 2 * linear, "flow": 5 * flow}


@click.command()
@click.option("--minutes", default=26.0, show_default=True, help="Of processor time.")
def main(minutes: float) -> None:
    """Train, or go on training, SoVITS."""
    learner = Learner()
    trainer = Trainer("sovits", learner, 1e-3, minutes)
    source = Source(trainer.steps)

    def step() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return losses(learner, source)

    trainer.run(step)


if __name__ == "__main__":
    main()
