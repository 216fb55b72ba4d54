"""The training loop that all steps share: Adam, running mean of the weights, log, resuming."""

from __future__ import annotations

import copy
import csv
import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import places
import torch
from torch import Tensor, nn

_WARM_UP_STEPS = 200
_CLIP = 1.0  # of the gradient's norm
_SAVE_MINUTES = 3.0
_LOG_STEPS = 50
_DECAY_FROM = 0.6  # share of the time after which the rate of learning falls to zero


Learner = TypeVar("Learner", bound=nn.Module)


def mean_weights(step: str, module: Learner) -> Learner:
    """``module`` with the running mean that training has stored, for use."""
    state = torch.load(places.RUN / f"{step}.pt", weights_only=True)
    module.load_state_dict(state["mean"])
    return module.eval()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of [B, heads, T, D] as plain matrix products.

    On a CPU the backward pass of PyTorch's fused one takes longer than all the rest of a step.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    weights = (scores if mask is None else scores + mask).softmax(-1)
    mixed: Tensor = weights.to(value.dtype) @ value
    return mixed


class Trainer(Generic[Learner]):
    """Trains ``module`` for so many minutes of processor time; goes on where an earlier run ended.

    Args:
        step: names the files ``<run>/<step>.pt``, ``.csv`` and ``.log``.
        module: everything that learns.
        rate: of learning.
        minutes: of this process's own processor time, earlier runs counted in, so that whoever
            stops the process for a while takes nothing from it.
        momentum: of the weights' running mean, which is what is exported.
    """

    def __init__(
        self, step: str, module: Learner, rate: float, minutes: float, momentum: float = 0.999
    ) -> None:
        self._log = places.logger(step)
        self._step_name, self._module, self._rate = step, module, rate
        self._seconds, self._momentum = 60 * minutes, momentum
        self.mean: Learner = copy.deepcopy(module)
        self.mean.eval().requires_grad_(False)
        self._optimizer = torch.optim.AdamW(
            module.parameters(), rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.steps, self._spent, self._stopped = 0, 0.0, False
        if self.path.is_file():
            state = torch.load(self.path, weights_only=True)
            module.load_state_dict(state["module"])
            self.mean.load_state_dict(state["mean"])
            self._optimizer.load_state_dict(state["optimizer"])
            self.steps, self._spent = state["steps"], state["spent"]
            self._log.info("going on after step %d", self.steps)

    @property
    def path(self) -> Path:
        """Of the saved state."""
        return places.RUN / f"{self._step_name}.pt"

    @property
    def progress(self) -> float:
        """Share of the time that is over."""
        return min(1.0, (self._spent + time.process_time() - self._began) / self._seconds)

    def run(self, losses: Callable[[], dict[str, Tensor]]) -> None:
        """Take steps until the time is over; the sum of ``losses()`` is what falls."""
        self._began = saved = time.process_time()
        sums: dict[str, float] = {}
        counted = 0
        # Whoever ends the run early gets what it has learned so far.
        signal.signal(signal.SIGTERM, lambda number, frame: setattr(self, "_stopped", True))
        while self.progress < 1 and not self._stopped:
            parts = losses()
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate * self._schedule()
            self._optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(torch.stack(list(parts.values())).sum())
            norm = nn.utils.clip_grad_norm_(self._module.parameters(), _CLIP)
            if bool(norm.isfinite()):
                self._optimizer.step()
            self.steps += 1
            self._follow()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            counted += 1
            if self.steps % _LOG_STEPS == 0:
                self._report({name: value / counted for name, value in sums.items()})
                sums, counted = {}, 0
            if time.process_time() - saved > 60 * _SAVE_MINUTES:
                self.save()
                saved = time.process_time()
        self.save()
        if self._stopped:
            sys.exit("stopped; call it again to go on")

    def save(self) -> None:
        """Write the state; a run that is broken off loses minutes only."""
        state = {
            "module": self._module.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "steps": self.steps,
            "spent": self._spent + time.process_time() - self._began,
        }
        torch.save(state, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)

    def _schedule(self) -> float:
        warm = min(1.0, (self.steps + 1) / _WARM_UP_STEPS)
        late = max(0.0, self.progress - _DECAY_FROM) / (1 - _DECAY_FROM)
        return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * late)) / 2)

    @torch.no_grad()
    def _follow(self) -> None:
        momentum = min(self._momentum, (1 + self.steps) / (10 + self.steps))
        pairs = zip(
            self.mean.state_dict().values(), self._module.state_dict().values(), strict=True
        )
        for mean, value in pairs:
            if mean.is_floating_point():
                mean.lerp_(value, 1 - momentum)
            else:
                mean.copy_(value)

    def _report(self, means: dict[str, float]) -> None:
        values = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        self._log.info("step %d, %.0f %%: %s", self.steps, 100 * self.progress, values)
        path = places.RUN / f"{self._step_name}.csv"
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *means])
            writer.writerow([self.steps, *(f"{value:.5f}" for value in means.values())])
