"""The vocoder's adversary: discriminators of periods, of spectra and of frames (least squares GAN).

As in HiFi-GAN and UnivNet. It is there to put the voice's harmonics and noise in the right place,
which spectral losses leave smeared. The light one has a fraction of their channels, for a
processor; the full one has HiFi-GAN's channels, hears spectra with their phase, and on a GPU runs
in bfloat16.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import click
import torch
from loop import adam, load_optimizer, set_rate, step_if_finite
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from gsv.constants import OUTPUT_RATE, REFERENCE_RATE, SAMPLES_PER_FRAME

_PERIODS = (2, 3, 5, 7, 11)  # samples at half the rate
_SLOPE = 0.1
_BETAS = (0.8, 0.99)
_FLOOR = 1e-7  # of a spectrum's power, where speech at its usual level has 6e-3


@dataclasses.dataclass(frozen=True)
class View:
    """How a spectrum is taken."""

    window: int  # samples
    hop: int
    top: int  # Hz; what is above isn't looked at


@dataclasses.dataclass(frozen=True)
class Size:
    """How strong an adversary is, and how the vocoder learns against it."""

    periods: tuple[int, ...]  # channels of the strided layers
    periods_last: bool  # whether an unstrided layer follows
    views: tuple[View, ...]  # of the spectra
    spectra: tuple[int, ...]  # channels
    phase: bool  # whether spectra are heard with their phase
    frames: tuple[int, ...]  # channels of the one that compares frames; none: there is none
    rate: float  # of the discriminators' learning
    fool: float  # weights of the losses beside the spectral ones
    feature: float
    alone: int  # steps for which discriminators learn alone
    rising: int  # steps for which these weights then rise
    vocoder_rate: float  # of a vocoder's learning that goes on from trained weights
    vocoder_betas: tuple[float, float]


_NYQUIST = OUTPUT_RATE // 2
_LIGHT_VIEWS = tuple(View(size, size // 4, _NYQUIST) for size in (480, 960, 1920))
# Up to 16 kHz, above which the teachers have nothing. The low band, where a voice's harmonics are,
# is looked at closer.
_VIEWS = tuple(View(size, size // 4, REFERENCE_RATE // 2) for size in (256, 512, 1024, 2048))
_LOW_VIEWS = tuple(View(size, size // 8, 4_000) for size in (1024, 2048, 4096))
SIZES = {
    "light": Size(
        periods=(16, 32, 64, 128), periods_last=False,
        views=_LIGHT_VIEWS, spectra=(32, 32, 32, 32), phase=False, frames=(),
        rate=4e-4, fool=0.3, feature=0.6, alone=0, rising=0,
        vocoder_rate=5e-4, vocoder_betas=(0.9, 0.98),
    ),
    "middle": Size(
        periods=(16, 64, 256, 512), periods_last=False,
        views=(*_VIEWS[1:], *_LOW_VIEWS[1:]), spectra=(16, 32, 32, 32), phase=True,
        frames=(16, 32, 64, 64),
        rate=3e-4, fool=1.0, feature=2.0, alone=300, rising=500,
        vocoder_rate=3e-4, vocoder_betas=_BETAS,
    ),
    "full": Size(
        periods=(32, 128, 512, 1024), periods_last=True,
        views=(*_VIEWS, *_LOW_VIEWS), spectra=(32, 32, 64, 64), phase=True,
        frames=(32, 64, 128, 128),
        rate=3e-4, fool=1.0, feature=2.0, alone=300, rising=500,
        vocoder_rate=3e-4, vocoder_betas=_BETAS,
    ),
}  # fmt: skip


class PeriodDiscriminator(nn.Module):
    """Looks at every n-th sample."""

    def __init__(self, period: int, channels: Sequence[int], last: bool) -> None:
        super().__init__()
        self._period = period
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(one, other, (5, 1), (3, 1), (2, 0)))
            for one, other in _pairs(1, channels)
        )
        if last:
            layer = nn.Conv2d(channels[-1], channels[-1], (5, 1), padding=(2, 0))
            self.layers.append(weight_norm(layer))
        self.output = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """[B, samples] to the layers' values, the judgement last."""
        return _through(_folded(wave, self._period), self.layers, self.output)


class FrameDiscriminator(nn.Module):
    """Looks at mel frames side by side, where noise that is repeated shows as stripes.

    Crops begin where a frame begins, so it also sees whatever happens at the same place of each.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(one, other, (3, 9), (1, 2), (1, 4)))
            for one, other in _pairs(1, channels)
        )
        self.output = weight_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """[B, samples] at half the rate to the layers' values, the judgement last."""
        return _through(_folded(wave, SAMPLES_PER_FRAME // 2), self.layers, self.output)


class SpectrumDiscriminator(nn.Module):
    """Looks at log magnitudes."""

    window: Tensor

    def __init__(self, view: View, channels: Sequence[int]) -> None:
        super().__init__()
        self._view = view
        self.register_buffer("window", torch.hann_window(view.window), persistent=False)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(one, other, (5, 3), (2, 1), (2, 1)))
            for one, other in _pairs(1, channels)
        )
        self.output = weight_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """[B, samples] to the layers' values, the judgement last."""
        bins = _bins(wave, self._view, self.window)
        power = bins.real.square() + bins.imag.square()
        return _through((power + 1e-6).log()[:, None] / 8, self.layers, self.output)


class PhaseDiscriminator(nn.Module):
    """Looks at log magnitudes, at the spectrum itself with its range compressed, and at where it is
    in frequency."""

    window: Tensor
    height: Tensor

    def __init__(self, view: View, channels: Sequence[int]) -> None:
        super().__init__()
        self._view = view
        window = torch.hann_window(view.window)
        # So scaled, power is that of the wave, whatever the window.
        self.register_buffer("window", window / window.square().sum().sqrt(), persistent=False)
        count = view.window * view.top // OUTPUT_RATE
        self.register_buffer("height", torch.linspace(-1, 1, count)[:, None], persistent=False)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(one, other, (9, 3), (2, 1), (4, wide), dilation=(1, wide)))
            for (one, other), wide in zip(_pairs(4, channels), (1, 1, 2, 4), strict=True)
        )
        self.output = weight_norm(nn.Conv2d(channels[-1], 1, 3, padding=1))

    def inputs(self, wave: Tensor) -> Tensor:
        """[B, samples] at 48 kHz to [B, 4, bins, frames]."""
        bins = _bins(wave, self._view, self.window)[:, : len(self.height)]
        power = bins.real.square() + bins.imag.square() + _FLOOR
        smaller = power**-0.35  # magnitudes to the power of 0.3
        return torch.stack([
            (power.log() + 9) / 4, bins.real * smaller, bins.imag * smaller,
            self.height.expand_as(power),
        ], dim=1)  # fmt: skip

    def forward(self, wave: Tensor) -> list[Tensor]:
        """[B, samples] to the layers' values, the judgement last."""
        return _through(self.inputs(wave), self.layers, self.output)


def _pairs(first: int, channels: Sequence[int]) -> list[tuple[int, int]]:
    """What goes into each layer and what comes out."""
    return list(zip((first, *channels), channels, strict=False))


def _folded(wave: Tensor, period: int) -> Tensor:
    """[B, samples] to [B, 1, rows, period]."""
    rest = -wave.shape[-1] % period
    return functional.pad(wave, (0, rest)).unflatten(-1, (-1, period))[:, None]


def _bins(wave: Tensor, view: View, window: Tensor) -> Tensor:
    """[B, samples] to a complex spectrum [B, bins, frames], of the whole band."""
    return torch.stft(wave, view.window, view.hop, window=window, center=False, return_complex=True)


def _through(values: Tensor, layers: nn.ModuleList, output: nn.Module) -> list[Tensor]:
    found = []
    if torch.is_autocast_enabled(values.device.type):
        # Tensor cores want channels last; as a copy, so that a single channel lies so too.
        rows = values.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        values = rows.permute(0, 3, 1, 2)
    for layer in layers:
        values = functional.leaky_relu(layer(values), _SLOPE)
        found.append(values)
    return [*found, output(values)]


class Discriminators(nn.Module):
    """All of them; periods and frames hear 24 kHz, where pitch and voicing are."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.periods = nn.ModuleList(
            PeriodDiscriminator(period, size.periods, size.periods_last) for period in _PERIODS
        )
        spectrum = PhaseDiscriminator if size.phase else SpectrumDiscriminator
        self.spectra = nn.ModuleList(spectrum(view, size.spectra) for view in size.views)
        self.frames = nn.ModuleList([FrameDiscriminator(size.frames)] if size.frames else [])

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """[B, samples] at 48 kHz."""
        half = functional.avg_pool1d(wave[:, None], 2)[:, 0]
        return [
            *(one(half) for one in self.periods),
            *(one(wave) for one in self.spectra),
            *(one(half) for one in self.frames),
        ]


class Adversary:
    """The discriminators and their optimizer; saved with the vocoder's state."""

    def __init__(self, device: str, size: str = "light") -> None:
        """``size``: one of :data:`SIZES`."""
        self.size, self._name = SIZES[size], size
        self._device = torch.device(device)
        self._half = self.size.phase and self._device.type == "cuda"
        self._module = Discriminators(self.size).to(device)
        values = list(self._module.parameters())
        self._optimizer = adam(values, self.size.rate, self._device, _BETAS)
        self._steps = 0
        # On the device, since a recorded step reads it there.
        self._weight = torch.tensor(0.0 if self.size.alone else 1.0, device=self._device)

    def begin_step(self, share: float) -> None:
        """Before each step that it takes part in, with how much of its rate it is to learn by."""
        set_rate(self._optimizer, self.size.rate * share)
        if self.size.alone:
            risen = (self._steps - self.size.alone) / self.size.rising
            self._weight.fill_(min(max(risen, 0.0), 1.0))
        self._steps += 1

    def learn(self, made: Tensor, wanted: Tensor) -> Tensor:
        """One step of telling the made from the real; how well it went (0: all told apart)."""
        self._module.requires_grad_(True)
        judged = (values[-1].float() for values in self._judge(torch.cat([wanted, made])))
        pairs = (one.chunk(2) for one in judged)
        loss = _mean([(1 - real).square().mean() + fake.square().mean() for real, fake in pairs])
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), 10.0)
        step_if_finite(self._optimizer, norm)
        return loss.detach()

    def losses(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """What the vocoder is to lower: being caught, and features unlike the real ones'."""
        self._module.requires_grad_(False)
        with torch.no_grad():
            real = self._judge(wanted)
        fake = self._judge(made)
        fool = _mean([(1 - one[-1].float()).square().mean() for one in fake])
        feature = _mean([
            _size_of(ours - theirs) / (_size_of(theirs) + 1e-5)
            for one, other in zip(fake, real, strict=True)
            for ours, theirs in zip(one[:-1], other[:-1], strict=True)
        ])  # fmt: skip
        return {
            "fool": self.size.fool * self._weight * fool,
            "feature": self.size.feature * self._weight * feature,
        }

    def _judge(self, wave: Tensor) -> list[list[Tensor]]:
        """All layers' values; those of all but the light one in bfloat16 on a GPU."""
        half = torch.autocast(self._device.type, torch.bfloat16)
        with half if self._half else contextlib.nullcontext():
            made: list[list[Tensor]] = self._module(wave)
        return made

    def state_dict(self) -> dict[str, Any]:
        """Of both, the size, and the steps that were taken."""
        return {
            "size": self._name,
            "steps": self._steps,
            "module": self._module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The same; a state of another size is refused with what to do about it."""
        saved = state.get("size", "light")  # what the states before there were sizes had
        if saved != self._name:
            raise click.ClickException(
                f"the state that is there was trained with --adversary {saved}, this run has "
                f"--adversary {self._name}; go on with {saved}, or move the state away, export it "
                "(export.py) and begin from the vocoder.pth with --init"
            )
        self._module.load_state_dict(state["module"])
        load_optimizer(self._optimizer, state["optimizer"])
        self._steps = state.get("steps", 0)


def _size_of(values: Tensor) -> Tensor:
    """The mean magnitude, summed up in float32."""
    return values.abs().mean(dtype=torch.float32)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
