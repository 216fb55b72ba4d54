"""Trains the vocoder: mels of the corpus to 48 kHz waves, by spectral losses alone.

.venv/bin/python tools/demo_voice/vocoder.py [--minutes 14]
"""

from __future__ import annotations

import click
import numpy as np
import places
import torch
from data import Corpus
from loop import Trainer
from torch import Tensor, nn
from torch.nn import functional

from gsv import audio
from gsv.config import VocoderConfig
from gsv.constants import MEL_CHANNELS, MEL_HOP, OUTPUT_RATE, REFERENCE_RATE, SAMPLES_PER_FRAME
from gsv.models.layers import RowUpsample
from gsv.models.vocoder import Vocoder

# Four stages instead of the official five: on a CPU few channels cost as much as sixteen, so the
# official rates would spend most of the time on stages of two and four channels.
CONFIG = VocoderConfig(
    initial_channels=128, upsample_rates=(5, 4, 4, 6), upsample_kernels=(10, 8, 8, 12)
)
_FRAMES, _MARGIN, _BATCH = 24, 2, 8  # of a crop; frames at its edges that aren't judged; crops
_RESOLUTIONS = (512, 1024, 2048)
_MEL_WINDOW = 1_920
_FLOOR = 1e-5


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
        }


def _magnitude(wave: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size)
    bins = torch.stft(wave, size, size // 4, window=window, center=False, return_complex=True)
    # The floor keeps silence, which is inaudible, from dominating the logarithm.
    return (bins.real.square() + bins.imag.square() + 1e-6 * size).sqrt()


class Crops:
    """Random crops of mels and the waves that belong to them."""

    def __init__(self, corpus: Corpus, seed: int) -> None:
        self._corpus = corpus
        self._random = np.random.default_rng(seed)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Log-mels [B, 100, frames] and waves [B, frames * 480]."""
        mels, waves = [], []
        for index in self._random.integers(self._corpus.learned, size=_BATCH):
            mel = self._corpus.mels[index]
            first = self._random.integers(len(mel) - _FRAMES)
            samples = slice(first * MEL_HOP, (first + _FRAMES) * MEL_HOP)
            mels.append(mel[first : first + _FRAMES].astype(np.float32).T)
            waves.append(self._corpus.waves[index][samples].astype(np.float32) / 32768)
        wave = audio.resample_sinc(torch.from_numpy(np.stack(waves)), REFERENCE_RATE, OUTPUT_RATE)
        return audio.denormalize_mel(torch.from_numpy(np.stack(mels))), wave


@click.command()
@click.option("--minutes", default=14.0, show_default=True, help="Of processor time.")
def main(minutes: float) -> None:
    """Train, or go on training, the vocoder."""
    vocoder, loss = build(), SpectralLoss()
    trainer = Trainer("vocoder", vocoder, 2e-3, minutes)
    crops = Crops(Corpus(places.RUN / "corpus.npz"), seed=trainer.steps)
    inner = slice(_MARGIN * SAMPLES_PER_FRAME, (_FRAMES - _MARGIN) * SAMPLES_PER_FRAME)

    def losses() -> dict[str, Tensor]:
        mel, wave = crops.batch()
        parts: dict[str, Tensor] = loss(vocoder(mel)[:, 0, inner], wave[:, inner])
        return parts

    trainer.run(losses)


if __name__ == "__main__":
    main()
