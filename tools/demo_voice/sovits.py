"""Trains SoVITS: tokens and phonemes to mels, by flow matching and by a loss on the condition.

.venv/bin/python tools/demo_voice/sovits.py [--minutes 120]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import click
import numpy as np
import torch
from codes import CODES, WIDTH, Codebook, Tokenized, read
from data import Array, Corpus, Cutter
from hubert import SSL_DIM
from loop import Trainer, attend, limits
from torch import Tensor, nn
from torch.nn import functional

from gsv import audio
from gsv.config import SoVITSConfig
from gsv.constants import FRAMES_PER_TOKEN, MEL_HOP, STYLE_BINS
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
FRAMES = 3_200  # of a batch
_LONGEST = 1_200  # frames of a sentence
_STEP, _TEXT_STEP = 32, 32  # frames and phonemes that lengths are multiples of
_MOST_ROWS = 128
_STEP_SIZES = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
_FARTHEST = 400  # frames of prompt that may stand before a sentence
_REFERENCE = 0.6  # share of batches whose prompt and timbre are the teacher's own reference's


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


@dataclasses.dataclass(frozen=True)
class Batch:
    """Sentences of one teacher, and another sentence of it that stands before them."""

    tokens: Tensor  # [B, N]
    phonemes: Tensor  # [B, P]
    lengths: list[int]  # of the phonemes
    mel: Tensor  # [B, 100, 4 N]
    prompt_tokens: Tensor  # [1, n]
    prompt_phonemes: Tensor  # [1, p]
    prompt_lengths: list[int]
    prompt_mel: Tensor  # [100, frames]
    prompt_wave: Tensor  # [samples] at 32 kHz
    frames: int  # how many of the prompt's last frames are the prompt
    offset: int  # the place at which it begins


@dataclasses.dataclass(frozen=True)
class Part:
    """The corpus or the judged sentences."""

    corpus: Corpus
    said: Tokenized
    mels: Cutter
    waves: Cutter

    @classmethod
    def load(cls, name: str, device: torch.device) -> Part:
        """From the run."""
        corpus = read(name)
        mels, waves = Cutter(corpus.mels, device), Cutter(corpus.waves, device)
        return cls(corpus, Tokenized.load(name), mels, waves)


def _padded(rows: Sequence[Array]) -> Array:
    """[B, a multiple of ``_TEXT_STEP``]"""
    size = -(-max(map(len, rows)) // _TEXT_STEP) * _TEXT_STEP
    return np.stack([np.pad(row, (0, size - len(row))) for row in rows])


class Source:
    """Draws batches of sentences of like lengths, a teacher at a time.

    Lengths are multiples of ``_STEP`` and ``_TEXT_STEP``: cuDNN plans anew for each new shape.
    """

    def __init__(
        self, random: np.random.Generator, device: torch.device, frames: int = FRAMES
    ) -> None:
        self._random, self._device, self._frames = random, device, frames
        self._parts = {name: Part.load(name, device) for name in ("corpus", "judged")}
        self._said, self._mels = self._parts["corpus"].said, self._parts["corpus"].mels
        frames_of = self._said.frames
        learned = self._parts["corpus"].corpus.learned()
        learned = learned[(frames_of[learned] <= _LONGEST) & (frames_of[learned] >= _STEP)]
        self._rows: dict[int, Array] = {}
        for teacher in np.unique(self._said.teachers).tolist():
            own = learned[self._said.teachers[learned] == teacher]
            self._rows[teacher] = own[np.argsort(frames_of[own], kind="stable")]
        self._judged = self._parts["judged"].said.teachers

    def batch(self) -> Batch:
        """On the device."""
        teacher = int(self._random.choice(list(self._rows)))
        rows = self._rows[teacher]
        at = int(self._random.integers(len(rows)))
        size = int(self._said.frames[rows[at]]) // _STEP * _STEP  # frames
        count = int(np.clip(self._frames // size, 2, _MOST_ROWS))
        # Sentences that are as long, and little longer ones, whose ends are cut off.
        first = int(np.searchsorted(self._said.frames[rows], size))
        chosen = self._random.choice(rows[first : first + 4 * count], count)
        tokens = size // FRAMES_PER_TOKEN
        phonemes = [self._said.phonemes[i] for i in chosen]
        part, row = self._prompt(teacher)
        prompt = self._parts[part]
        whole = int(prompt.said.frames[row]) // _STEP * _STEP
        frames, offset = self._prompt_frames(whole)
        one, start = np.array([row]), np.array([0])
        return Batch(
            self._on(np.stack([self._said.tokens[i][:tokens] for i in chosen])),
            self._on(_padded(phonemes)),
            [len(row) for row in phonemes],
            self._mels.spans(chosen, np.zeros(count, np.int64), size).mT,
            self._on(prompt.said.tokens[row][None, : whole // FRAMES_PER_TOKEN]),
            self._on(_padded([prompt.said.phonemes[row]])),
            [len(prompt.said.phonemes[row])],
            prompt.mels.spans(one, start, whole)[0].T,
            prompt.waves.spans(one, start, whole * MEL_HOP)[0] / 32768,
            frames,
            offset,
        )

    def _prompt(self, teacher: int) -> tuple[str, int]:
        if self._random.random() < _REFERENCE:
            return "judged", int(np.flatnonzero(self._judged == teacher)[-1])
        rows = self._rows[teacher]
        return "corpus", int(self._random.choice(rows[: max(1, len(rows) // 2)]))

    def _prompt_frames(self, whole: int) -> tuple[int, int]:
        kind = self._random.random()
        if kind < 0.2:
            return whole, 0
        frames = 0 if kind < 0.6 else int(self._random.integers(20, 80))
        return min(frames, whole), int(self._random.integers(_FARTHEST))

    def _on(self, values: Array) -> Tensor:
        return torch.from_numpy(values).to(self._device)


def embedded(estimator: DiT, condition: Tensor, offset: int) -> Tensor:
    """``estimator.embed_condition`` of frames [B, T, C] that stand ``offset`` frames late."""
    module = estimator.condition
    positions = torch.arange(offset, offset + condition.shape[1], device=condition.device)
    angles = positions[:, None] * module.frequencies
    values = condition + torch.cat([angles.cos(), angles.sin()], dim=-1)
    for block in module.blocks:
        values = block(values, None)
    return values


def losses(learner: Learner, batch: Batch) -> dict[str, Tensor]:
    """Flow matching towards straight lines, and L1 of the condition's own mel."""
    sovits = learner.sovits
    estimator = sovits.flow.estimator
    mel, rows = batch.mel, len(batch.tokens)
    timbre = sovits.style(audio.spectrum(batch.prompt_wave[None])[:, :STYLE_BINS])
    condition, _ = sovits.condition(
        batch.tokens, None, batch.phonemes, batch.lengths, timbre.expand(rows, -1, -1)
    )
    linear = (learner.linear_mel(condition) - mel).abs().mean()
    frames = batch.frames
    whole = batch.prompt_mel.shape[-1]
    prompt = batch.prompt_mel[:, whole - frames :]
    if frames:
        before, _ = sovits.condition(
            batch.prompt_tokens, None, batch.prompt_phonemes, batch.prompt_lengths, timbre
        )
        before = before[..., whole - frames : whole].expand(rows, -1, -1)
        condition = torch.cat([before, condition], dim=-1)
    # Drawn on the processor, so that a run on any device draws the same.
    time = torch.rand(rows)
    time = torch.where(torch.rand(rows) < 0.5, (time * STEPS).floor() / STEPS, time)
    size = torch.tensor(_STEP_SIZES)[torch.randint(len(_STEP_SIZES), (rows,))]
    time, size = time.to(mel.device), size.to(mel.device)
    noise = torch.randn(mel.shape).to(mel.device)
    between = torch.lerp(noise, mel, time[:, None, None]).mT
    fixed = functional.pad(prompt.T, (0, 0, 0, mel.shape[-1])).expand(rows, -1, -1)
    velocity = estimator(
        functional.pad(between, (0, 0, frames, 0)),
        estimator.embed_inputs(fixed, embedded(estimator, condition.mT, batch.offset)),
        estimator.modulate(time, size),
    )[:, frames:]
    flow = (velocity - (mel - noise).mT).square().mean()
    return {"linear": 2 * linear, "flow": 5 * flow}


@click.command()
@limits(minutes=120.0)
def main(minutes: float, steps: int | None, device: str) -> None:
    """Train, or go on training, SoVITS."""
    torch.manual_seed(3)
    learner = Learner()
    trainer = Trainer("sovits", learner, 1e-3, minutes, steps, device, seed=3)
    source = Source(trainer.random, trainer.device, FRAMES * trainer.scale)

    def step() -> dict[str, Tensor]:
        batch = source.batch()
        with trainer.autocast():
            return losses(learner, batch)

    trainer.finish(step)


if __name__ == "__main__":
    main()
