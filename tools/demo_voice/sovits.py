"""Trains SoVITS: tokens and phonemes to mels, by flow matching and by a loss on the condition.

.venv/bin/python tools/demo_voice/sovits.py [--minutes 120]
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from codes import CODES, WIDTH, Codebook, Tokenized, read
from data import Array, Corpus, Cutter
from hubert import SSL_DIM
from loop import Trainer, attend, limits
from recorded import Drawn
from torch import Tensor, nn
from torch.nn import functional

from gsv import audio
from gsv.checkpoints.convert import fold_weight_norm
from gsv.checkpoints.names.sovits import rename
from gsv.config import SoVITSConfig
from gsv.constants import FRAMES_PER_TOKEN, MEL_HOP, STYLE_BINS
from gsv.device import upload
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
SIZES = (64, 128, 192, 256, 320, 384, 512, 640, 800, 1_024)  # frames of a batch's rows
_LONGEST = 1_200  # frames of a sentence
_MOST_ROWS = 128
_BEGUN, _LONGEST_BEGINNING = 0.2, 320  # share of such batches; frames
_CONTINUED = 0.4  # share of rows that go on after frames that are given
PROMPT = 320  # frames of the sentence before
_PROMPT_FRAMES, _PROMPT_SHARES = (0, 48, PROMPT), (0.4, 0.4, 0.2)  # of it that are given as mel
_STEP_SIZES = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)
_FARTHEST = 400  # frames of prompt that may stand before a sentence
_REFERENCE = 0.6  # share of batches whose prompt and timbre are the teacher's own reference's


class Learner(nn.Module):
    """SoVITS, and the projection of its condition to a mel that only training has."""

    step_sizes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.sovits = SoVITS(CONFIG)
        self.register_buffer("step_sizes", torch.tensor(_STEP_SIZES), persistent=False)
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
    heard: Tensor  # bool [B, 2 N], all true
    phonemes: Tensor  # [B, P]
    said: Tensor  # bool [B, P]
    mel: Tensor  # [B, 100, 4 N]
    prompt_tokens: Tensor  # [1, n]
    prompt_heard: Tensor
    prompt_phonemes: Tensor  # [1, p]
    prompt_said: Tensor
    prompt_mel: Tensor  # [100, 4 n]
    prompt_spectrum: Tensor  # [1, 704, T]
    offset: Tensor  # int64 [1]: the place at which the prompt begins
    given: Tensor  # int64 [B]: how many of each row's first frames the flow gets as mel too
    frames: int  # how many of the prompt's last frames are the prompt


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


@dataclasses.dataclass(frozen=True)
class Rows:
    """Sentences of one teacher that are cut to the same length."""

    places: Array
    size: int  # frames
    words: int  # phonemes that all of them are padded to


class Source:
    """Draws batches of sentences of like lengths, a teacher at a time.

    Their shapes are few, so that a GPU can repeat steps as graphs; what a sentence has beyond the
    next lower one of ``SIZES`` is cut off. As in a stream, some batches are beginnings of longer
    sentences, and some rows begin with frames that were made before.
    """

    def __init__(
        self, random: np.random.Generator, device: torch.device, frames: int = FRAMES
    ) -> None:
        self._random, self._device, self._frames = random, device, frames
        self._parts = {name: Part.load(name, device) for name in ("corpus", "judged")}
        corpus, said = self._parts["corpus"].corpus, self._parts["corpus"].said
        learned = corpus.learned()
        places = [learned[said.teachers[learned] == t] for t in np.unique(said.teachers)]
        words = _words(said, np.concatenate(places))
        whole = [list(_by_size(said, own, words)) for own in places]
        begun = [list(_beginnings(said, own, max(words.values()))) for own in places]
        self._rows = [one + other for one, other in zip(whole, begun, strict=True)]
        self._shares = [
            np.concatenate([(1 - _BEGUN) * _shares(one), _BEGUN * _shares(other)])
            for one, other in zip(whole, begun, strict=True)
        ]
        lengths = said.frames
        self._prompts = [
            own[(lengths[own] >= PROMPT) & (lengths[own] < 2 * PROMPT)] for own in places
        ]
        self._own_prompts = [
            int(np.flatnonzero(self._parts["judged"].said.teachers == t)[-1])
            for t in range(len(places))
        ]
        counts = [len(said.phonemes[i]) for own in self._prompts for i in own]
        counts += [len(self._parts["judged"].said.phonemes[i]) for i in self._own_prompts]
        self._prompt_words = max(counts)

    def batch(self) -> Batch:
        """On the device."""
        teacher = int(self._random.integers(len(self._rows)))
        shares = self._shares[teacher]
        rows = self._rows[teacher][int(self._random.choice(len(shares), p=shares / shares.sum()))]
        corpus = self._parts["corpus"]
        count = int(np.clip(self._frames // rows.size, 2, _MOST_ROWS))
        given = self._random.integers(rows.size, size=count)
        given *= self._random.random(count) < _CONTINUED
        chosen = self._random.choice(rows.places, count)
        tokens = rows.size // FRAMES_PER_TOKEN
        phonemes, said = _padded([corpus.said.phonemes[i] for i in chosen], rows.words)
        part, row = self._prompt(teacher)
        prompt = self._parts[part]
        size = min(PROMPT, int(prompt.said.frames[row]) // FRAMES_PER_TOKEN * FRAMES_PER_TOKEN)
        prompt_phonemes, prompt_said = _padded([prompt.said.phonemes[row]], self._prompt_words)
        one, start = np.array([row]), np.array([0])
        wave = prompt.waves.spans(one, start, size * MEL_HOP) / 32768
        heard = functools.partial(torch.ones, dtype=torch.bool, device=self._device)
        return Batch(
            upload(np.stack([corpus.said.tokens[i][:tokens] for i in chosen]), self._device),
            heard(count, 2 * tokens),
            upload(phonemes, self._device),
            upload(said, self._device),
            corpus.mels.spans(chosen, np.zeros(count, np.int64), rows.size).mT,
            upload(prompt.said.tokens[row][None, : size // FRAMES_PER_TOKEN], self._device),
            heard(1, size // FRAMES_PER_TOKEN * 2),
            upload(prompt_phonemes, self._device),
            upload(prompt_said, self._device),
            prompt.mels.spans(one, start, size)[0].T,
            audio.spectrum(wave)[:, :STYLE_BINS],
            upload(self._random.integers(_FARTHEST, size=1), self._device),
            upload(given, self._device),
            min(size, int(self._random.choice(_PROMPT_FRAMES, p=_PROMPT_SHARES))),
        )

    def _prompt(self, teacher: int) -> tuple[str, int]:
        if self._random.random() < _REFERENCE or not len(self._prompts[teacher]):
            return "judged", self._own_prompts[teacher]
        return "corpus", int(self._random.choice(self._prompts[teacher]))


def _cut_to(said: Tokenized, places: Array, size: int) -> Array:
    """Those of ``places`` that are cut to ``size`` frames."""
    longer = (*SIZES, _LONGEST)[SIZES.index(size) + 1]
    return places[(said.frames[places] >= size) & (said.frames[places] < longer)]


def _words(said: Tokenized, places: Array) -> dict[int, int]:
    """Phonemes that the sentences of each size are padded to."""
    return {
        size: max((len(said.phonemes[i]) for i in _cut_to(said, places, size)), default=0)
        for size in SIZES
    }


def _by_size(said: Tokenized, places: Array, words: Mapping[int, int]) -> Iterator[Rows]:
    for size in SIZES:
        own = _cut_to(said, places, size)
        if len(own):
            yield Rows(own, size, words[size])


def _beginnings(said: Tokenized, places: Array, words: int) -> Iterator[Rows]:
    """Sentences of which the first frames are learned alone."""
    for size in SIZES:
        own = places[(said.frames[places] >= size) & (said.frames[places] < _LONGEST)]
        if size <= _LONGEST_BEGINNING and len(own):
            yield Rows(own, size, words)


def _shares(found: Sequence[Rows]) -> Array:
    counts = np.array([len(rows.places) for rows in found], float)
    return counts / counts.sum()


def _padded(rows: Sequence[Array], size: int) -> tuple[Array, Array]:
    """[B, size], and which of it is no padding."""
    lengths = np.array([len(row) for row in rows])
    padded = np.stack([np.pad(row, (0, size - len(row))) for row in rows])
    return padded, np.arange(size) < lengths[:, None]


def embedded(estimator: DiT, condition: Tensor, offset: Tensor) -> Tensor:
    """``estimator.embed_condition`` of frames [B, T, C] that stand ``offset`` frames late."""
    module = estimator.condition
    positions = offset + torch.arange(condition.shape[1], device=condition.device)
    angles = positions[:, None] * module.frequencies
    values = condition + torch.cat([angles.cos(), angles.sin()], dim=-1)
    for block in module.blocks:
        values = block(values, None)
    return values


def losses(learner: Learner, batch: Batch) -> dict[str, Tensor]:
    """Flow matching towards straight lines, and L1 of the condition's own mel."""
    sovits = learner.sovits
    estimator = sovits.flow.estimator
    mel, rows, frames = batch.mel, len(batch.tokens), batch.frames
    timbre = sovits.style(batch.prompt_spectrum)
    condition = sovits.condition_by_masks(
        batch.tokens, batch.heard, batch.phonemes, batch.said, timbre.expand(rows, -1, -1)
    )
    linear = (learner.linear_mel(condition) - mel).abs().mean()
    whole = batch.prompt_mel.shape[-1]
    prompt = batch.prompt_mel[:, whole - frames :]
    if frames:
        before = sovits.condition_by_masks(
            batch.prompt_tokens,
            batch.prompt_heard,
            batch.prompt_phonemes,
            batch.prompt_said,
            timbre,
        )
        before = before[..., whole - frames : whole].expand(rows, -1, -1)
        condition = torch.cat([before, condition], dim=-1)
    time = torch.rand(rows, device=mel.device)
    on_grid = torch.rand(rows, device=mel.device) < 0.5
    time = torch.where(on_grid, (time * STEPS).floor() / STEPS, time)
    drawn = torch.randint(len(_STEP_SIZES), (rows,), device=mel.device)
    noise = torch.randn_like(mel)
    sought = (torch.arange(mel.shape[-1], device=mel.device) >= batch.given[:, None])[..., None]
    between = torch.lerp(noise, mel, time[:, None, None]).mT * sought
    fixed = torch.cat([prompt.T.expand(rows, -1, -1), mel.mT * ~sought], dim=1)
    velocity = estimator(
        functional.pad(between, (0, 0, frames, 0)),
        estimator.embed_inputs(fixed, embedded(estimator, condition.mT, batch.offset)),
        estimator.modulate(time, learner.step_sizes[drawn]),
    )[:, frames:]
    errors = (velocity - (mel - noise).mT).square().mean(-1, keepdim=True)
    flow = (errors * sought).sum() / sought.sum()
    return {"linear": 2 * linear, "flow": 5 * flow}


def going_on(path: Path) -> Learner:
    """SoVITS in the official format, to go on from."""
    weights = torch.load(path, weights_only=True)["weight"]
    named = {rename(key): value.float() for key, value in weights.items()}
    projection = {f"linear_mel.{k}": weights[f"linear_mel.{k}"].float() for k in ("weight", "bias")}
    state = fold_weight_norm({name: value for name, value in named.items() if name is not None})
    learner = Learner()
    # The quantizer's projection in the file is HuBERT's; here only its codes are read.
    own = {f"sovits.{name}": v for name, v in state.items() if "quantizer" not in name}
    left = learner.load_state_dict(own | projection, strict=False)
    if left.unexpected_keys or any("quantizer" not in name for name in left.missing_keys):
        raise click.ClickException(f"{path}: {left}")
    return learner


@click.command()
@limits(minutes=120.0)
@click.option("--init", type=click.Path(exists=True, path_type=Path), help="An s2Gv4.pth.")
def main(minutes: float, steps: int | None, device: str, init: Path | None) -> None:
    """Train, or go on training, SoVITS."""
    torch.manual_seed(3)
    learner = going_on(init) if init else Learner()
    trainer = Trainer("sovits", learner, 3e-4 if init else 1e-3, minutes, steps, device, seed=3)
    source = Source(trainer.random, trainer.device, FRAMES * trainer.scale)

    def step(batch: Batch) -> dict[str, Tensor]:
        with trainer.autocast():
            return losses(learner, batch)

    trainer.finish(Drawn(source.batch, step))


if __name__ == "__main__":
    main()
