"""The vocoder's adversary: small discriminators of periods and of spectra (least squares GAN).

As in HiFi-GAN and UnivNet, with a fraction of their channels: it is there to put the voice's
harmonics and noise in the right place, which spectral losses leave smeared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from loop import adam, load_optimizer, set_rate
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

_PERIODS = (2, 3, 5, 7, 11)  # samples at half the rate
_RESOLUTIONS = (480, 960, 1920)  # samples of a spectrum's window
_WIDTHS = (16, 32, 64, 128)
_SLOPE = 0.1
_RATE = 4e-4
_FOOL, _FEATURE = 0.3, 0.6  # weights of the losses beside the spectral ones


class PeriodDiscriminator(nn.Module):
    """Looks at every n-th sample."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self._period = period
        widths = (1, *_WIDTHS)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(one, other, (5, 1), (3, 1), (2, 0)))
            for one, other in zip(widths, widths[1:], strict=False)
        )
        self.output = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """[B, samples] to the layers' values, the judgement last."""
        rest = -wave.shape[-1] % self._period
        folded = functional.pad(wave, (0, rest)).unflatten(-1, (-1, self._period))
        return _through(folded[:, None], self.layers, self.output)


class SpectrumDiscriminator(nn.Module):
    """Looks at log magnitudes."""

    window: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self.register_buffer("window", torch.hann_window(size), persistent=False)
        widths = (1, *[32] * 4)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(one, other, (5, 3), (2, 1), (2, 1)))
            for one, other in zip(widths, widths[1:], strict=False)
        )
        self.output = weight_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, wave: Tensor) -> list[Tensor]:
        """[B, samples] to the layers' values, the judgement last."""
        bins = torch.stft(wave, self._size, self._size // 4, window=self.window, center=False,
                          return_complex=True)  # fmt: skip
        power = bins.real.square() + bins.imag.square()
        return _through((power + 1e-6).log()[:, None] / 8, self.layers, self.output)


def _through(values: Tensor, layers: nn.ModuleList, output: nn.Module) -> list[Tensor]:
    found = []
    for layer in layers:
        values = functional.leaky_relu(layer(values), _SLOPE)
        found.append(values)
    return [*found, output(values)]


class Discriminators(nn.Module):
    """All of them; periods hear 24 kHz, where pitch and voicing are."""

    def __init__(self) -> None:
        super().__init__()
        self.periods = nn.ModuleList(map(PeriodDiscriminator, _PERIODS))
        self.spectra = nn.ModuleList(map(SpectrumDiscriminator, _RESOLUTIONS))

    def forward(self, wave: Tensor) -> list[list[Tensor]]:
        """[B, samples] at 48 kHz."""
        half = functional.avg_pool1d(wave[:, None], 2)[:, 0]
        return [*(one(half) for one in self.periods), *(one(wave) for one in self.spectra)]


class Adversary:
    """The discriminators and their optimizer; saved with the vocoder's state."""

    def __init__(self, device: str) -> None:
        self._module = Discriminators().to(device)
        values = list(self._module.parameters())
        self._optimizer = adam(values, _RATE, torch.device(device), (0.8, 0.99))

    def set_share(self, share: float) -> None:
        """How much of its rate it learns by."""
        set_rate(self._optimizer, _RATE * share)

    def learn(self, made: Tensor, wanted: Tensor) -> Tensor:
        """One step of telling the made from the real; how well it went (0: all told apart)."""
        self._module.requires_grad_(True)
        loss = _mean([
            (1 - real[-1]).square().mean() + fake[-1].square().mean()
            for real, fake in zip(self._module(wanted), self._module(made), strict=True)
        ])  # fmt: skip
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._module.parameters(), 10.0)
        self._optimizer.step()
        return loss.detach()

    def losses(self, made: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """What the vocoder is to lower: being caught, and features unlike the real ones'."""
        self._module.requires_grad_(False)
        with torch.no_grad():
            real = self._module(wanted)
        fake = self._module(made)
        fool = _mean([(1 - one[-1]).square().mean() for one in fake])
        feature = _mean([
            (ours - theirs).abs().mean() / (theirs.abs().mean() + 1e-5)
            for one, other in zip(fake, real, strict=True)
            for ours, theirs in zip(one[:-1], other[:-1], strict=True)
        ])  # fmt: skip
        return {"fool": _FOOL * fool, "feature": _FEATURE * feature}

    def state_dict(self) -> dict[str, Any]:
        """Of both."""
        return {"module": self._module.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Of both."""
        self._module.load_state_dict(state["module"])
        load_optimizer(self._optimizer, state["optimizer"])


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()
