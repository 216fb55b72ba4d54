"""Trains the vocoder: mels of the corpus to 48 kHz waves, by spectral losses, then a GAN too.

    .venv/bin/python tools/demo_voice/vocoder.py [--minutes 120]
    python tools/demo_voice/vocoder.py --device cuda --minutes 5 --init vocoder.pth --gan-from 0 \
        --batch 16 --frames 44 --shares 3,1 --snapshots 5
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from adversary import SIZES, Adversary
from codes import read
from data import Corpus, Cutter
from loop import Trainer, limits
from recorded import Drawn
from torch import Tensor, nn
from torch.nn import functional

from gsv import audio
from gsv.checkpoints.convert import fold_weight_norm
from gsv.checkpoints.names.vocoder import rename
from gsv.config import VocoderConfig
from gsv.constants import MEL_CHANNELS, MEL_HOP, OUTPUT_RATE, REFERENCE_RATE, SAMPLES_PER_FRAME
from gsv.models.layers import RowUpsample
from gsv.models.vocoder import Vocoder

# Four stages instead of the official five: on a CPU few channels cost as much as sixteen, so the
# official rates would spend most of the time on stages of two and four channels. There 256 channels
# are as fast as 128; 160 and 192, which are no powers of two, take fifteen times as long.
CONFIG = VocoderConfig(
    initial_channels=256, upsample_rates=(5, 4, 4, 6), upsample_kernels=(10, 8, 8, 12)
)
_FRAMES, _MARGIN, _BATCH = 24, 2, 8  # of a crop; frames at its edges that aren't judged; crops
_FEWEST_FRAMES = 16  # so that what is judged holds the longest window and two frames' repetition
_RATE = 2e-3  # of learning from the beginning
_RESOLUTIONS = (512, 1024, 2048)
_LOW_RESOLUTIONS = (1024, 2048, 4096)  # the longest parts all harmonics of a voice
_LOW_TOP = 3_000  # Hz
_MEL_WINDOW = 1_920
_FLOOR = 1e-5
_ALIKE_SAMPLES = 960  # that are compared with those of earlier frames at once


_CENTRE, _SPREAD = -5.0, 3.0  # of log-mels


class Learner(Vocoder):
    """The vocoder on log-mels brought to mean 0 and variance 1, which it learns faster from."""

    def forward(self, mel: Tensor) -> Tensor:
        """As the product's, its zero padding of log-mels included."""
        padding = self.input.kernel_size[0] // 2
        scaled = functional.pad(
            (mel - _CENTRE) / _SPREAD, (padding, padding), value=-_CENTRE / _SPREAD
        )
        values = functional.conv1d(scaled, self.input.weight, self.input.bias).mT
        for stage in self.stages:
            values = stage(values)
        wave = self.output(functional.leaky_relu(values))
        return torch.tanh(wave.float()).mT

    def product_state(self) -> dict[str, Tensor]:
        """Weights that make the same of log-mels as they are."""
        state = dict(self.state_dict())
        weight, bias = state["input.weight"], state["input.bias"]
        state["input.weight"] = weight / _SPREAD
        state["input.bias"] = bias - weight.sum((1, 2)) * (_CENTRE / _SPREAD)
        return state


def build() -> Learner:
    """A vocoder with weights to begin from."""
    vocoder = Learner(CONFIG)
    for module in vocoder.modules():
        if isinstance(module, RowUpsample):
            nn.init.normal_(module.weight, 0.0, (2 * module.weight.shape[0]) ** -0.5)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        vocoder.output.weight *= 0.1
    return vocoder


def going_on(path: Path) -> Learner:
    """A vocoder in the official format, to go on from."""
    file = torch.load(path, weights_only=True)
    state = fold_weight_norm({str(rename(key)): value.float() for key, value in file.items()})
    weight = state["input.weight"] * _SPREAD
    state["input.bias"] = state["input.bias"] + weight.sum((1, 2)) * (_CENTRE / _SPREAD)
    state["input.weight"] = weight
    vocoder = Learner(CONFIG)
    vocoder.load_state_dict(state)
    return vocoder


class SpectralLoss(nn.Module):
    """Distance between magnitudes at several resolutions, and between log-mels; phase is free."""

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = audio.mel_filters(OUTPUT_RATE, _MEL_WINDOW, MEL_CHANNELS)
        self.register_buffer("filters", torch.from_numpy(filters))

    def forward(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """Both [B, samples] at 48 kHz."""
        linear, logarithmic = [], []
        for size in _RESOLUTIONS:
            ours, theirs = _magnitude(made, size), _magnitude(wanted, size)
            linear.append((ours - theirs).norm() / theirs.norm())
            logarithmic.append((ours.log() - theirs.log()).abs().mean())
        ours, theirs = (self.filters @ _magnitude(wave, _MEL_WINDOW) for wave in (made, wanted))
        mel = (ours.clamp(min=_FLOOR).log() - theirs.clamp(min=_FLOOR).log()).abs().mean()
        return {
            "linear": torch.stack(linear).mean(),
            "log": torch.stack(logarithmic).mean(),
            "mel": 2 * mel,
            "buzz": 2 * (_repetition(made) - _repetition(wanted)).abs().mean(),
            "low": 2 * _low_distance(made, wanted),
        }


def _low_distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Between log magnitudes up to 3 kHz, where a voice's harmonics stand apart.

    They are a small part of all bins, so the other losses hardly tell what lies between harmonics:
    phases that begin anew with each frame put a voice of 200 Hz on 100 Hz.
    """
    found = []
    for size in _LOW_RESOLUTIONS:
        top = size * _LOW_TOP // OUTPUT_RATE
        ours, theirs = (_magnitude(wave, size)[:, :top].log() for wave in (made, wanted))
        found.append((ours - theirs).abs().mean())
    return torch.stack(found).mean()


def _repetition(wave: Tensor) -> Tensor:
    """How alike a wave [B, samples] is to itself one and two mel frames before, from -1 to 1.

    A network without noise of its own makes the same of like frames: hiss becomes a buzz at the
    frame rate, which magnitudes hardly tell. Once as the wave is, once with its low end taken off,
    since a voice's own period is louder there.
    """
    found = []
    for values in (wave, wave.diff(n=2)):
        for lag in (SAMPLES_PER_FRAME, 2 * SAMPLES_PER_FRAME):
            late, early = values[:, lag:], values[:, :-lag]
            products = torch.stack([late * early, late.square(), early.square()])
            mean = functional.avg_pool1d(products, _ALIKE_SAMPLES, _ALIKE_SAMPLES // 4)
            found.append(mean[0] / (mean[1] * mean[2] + 1e-12).sqrt())
    return torch.cat(found, dim=-1)


def _magnitude(wave: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, device=wave.device)
    bins = torch.stft(wave, size, size // 4, window=window, center=False, return_complex=True)
    # The floor keeps silence, which is inaudible, from dominating the logarithm.
    return (bins.real.square() + bins.imag.square() + 1e-6 * size).sqrt()


@dataclasses.dataclass(frozen=True)
class Batch:
    """Crops, and whether the adversary takes part."""

    mel: Tensor  # [B, 100, frames], logarithmic
    wave: Tensor  # [B, frames * 480]
    fooling: bool


class Crops:
    """Random crops of mels and the waves that belong to them."""

    def __init__(
        self, corpus: Corpus, random: np.random.Generator, device: torch.device,
        shares: Sequence[float] = (), frames: int = _FRAMES,
    ) -> None:  # fmt: skip
        """``shares``: how often each teacher is drawn; by default as it has sentences.
        ``frames``: of a crop."""
        self._random, self._frames = random, frames
        self._mels, self._waves = Cutter(corpus.mels, device), Cutter(corpus.waves, device)
        learned, lengths = corpus.learned(), corpus.mels.lengths()
        self._rows = learned[lengths[learned] > frames]
        self._lengths = lengths[self._rows]
        teachers = corpus.teachers[self._rows]
        counts = np.bincount(teachers)
        each = np.array(shares) / counts if shares else np.ones(len(counts))
        self._chances = each[teachers] / each[teachers].sum()

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Log-mels [B, 100, frames] and waves [B, frames * 480]."""
        chosen = self._random.choice(len(self._rows), size, p=self._chances)
        frames = self._frames
        rows, firsts = self._rows[chosen], self._random.integers(self._lengths[chosen] - frames)
        mel = self._mels.spans(rows, firsts, frames).mT.contiguous()
        wave = self._waves.spans(rows, firsts * MEL_HOP, frames * MEL_HOP) / 32768
        return audio.denormalize_mel(mel), audio.resample_sinc(wave, REFERENCE_RATE, OUTPUT_RATE)


@click.command()
@limits(minutes=120.0)
@click.option("--gan-from", default=0.5, show_default=True, help="Share of the run; 1: no GAN.")
@click.option("--batch", type=int, help="Crops of a batch; by default 8, or 32 on a GPU.")
@click.option(
    "--frames",
    type=click.IntRange(min=_FEWEST_FRAMES),
    default=_FRAMES,
    show_default=True,
    help="Of a crop, 10 ms each.",
)
@click.option("--init", type=click.Path(exists=True, path_type=Path), help="A vocoder.pth.")
@click.option("--shares", default="", help="Of the teachers in the batches, such as 3,1.")
@click.option(
    "--adversary",
    "size",
    type=click.Choice(list(SIZES)),
    help="By default light, or full on a GPU.",
)
@click.option(
    "--rate",
    type=float,
    help="Of the vocoder's learning; by default 2e-3, and with --init 5e-4 (light) or 3e-4.",
)
@click.option(
    "--snapshots",
    default=0,
    show_default=True,
    help="How often the mean weights are stored apart (vocoder_<percent>.pt).",
)
def main(
    minutes: float, steps: int | None, device: str, gan_from: float, batch: int | None,
    frames: int, init: Path | None, shares: str, size: str | None, rate: float | None,
    snapshots: int,
) -> None:  # fmt: skip
    """Train, or go on training, the vocoder."""
    torch.manual_seed(4)
    vocoder = going_on(init) if init else build()
    adversary = Adversary(device, size or ("light" if device == "cpu" else "full"))
    rate = rate or (adversary.size.vocoder_rate if init else _RATE)
    trainer = Trainer(
        "vocoder", vocoder, rate, minutes, steps, device, seed=4, beside={"adversary": adversary},
        betas=adversary.size.vocoder_betas, snapshots=snapshots,
    )  # fmt: skip
    loss = SpectralLoss().to(trainer.device)
    drawn = [float(share) for share in shares.split(",") if share]
    crops = Crops(read("corpus"), trainer.random, trainer.device, drawn, frames)
    count = batch or _BATCH * trainer.scale
    inner = slice(_MARGIN * SAMPLES_PER_FRAME, (frames - _MARGIN) * SAMPLES_PER_FRAME)

    def draw() -> Batch:
        fooling = trainer.progress >= gan_from
        if fooling:
            adversary.begin_step(trainer.schedule())
        return Batch(*crops.batch(count), fooling)

    def losses(batch: Batch) -> dict[str, Tensor]:
        with trainer.autocast():
            made = vocoder(batch.mel)[:, 0, inner].float()
        wanted = batch.wave[:, inner]
        parts: dict[str, Tensor] = loss(made, wanted)
        if not batch.fooling:
            nothing = torch.zeros((), device=trainer.device)
            return parts | {"fool": nothing, "feature": nothing, "caught": nothing}
        caught = adversary.learn(made.detach(), wanted)
        return parts | adversary.losses(made, wanted) | {"caught": caught}

    trainer.finish(Drawn(draw, losses))


if __name__ == "__main__":
    main()
