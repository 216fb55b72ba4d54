"""The training loop that all steps share: Adam, running mean of the weights, log, going on.

A run that is stopped and taken up again takes the same steps as one that isn't: everything that a
step depends on, random generators included, is in the state. (With a limit in minutes the rate of
learning follows the clock, so only a limit in steps gives the same weights.)
"""

from __future__ import annotations

import contextlib
import copy
import csv
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import click
import numpy as np
import places
import torch
from recorded import Drawn, Recorder
from torch import Tensor, nn
from torch.nn import functional

from gsv.device import prepare, upload

_WARM_UP_STEPS = 200
_CLIP = 1.0  # of the gradient's norm
_SAVE_MINUTES = 2.0
_LOG_STEPS = 50
_GPU_BATCHES = 4  # as many times larger than a processor's
_DECAY_FROM = 0.5  # share of the run after which the rate of learning falls to zero


Learner = TypeVar("Learner", bound=nn.Module)


class Stateful(Protocol):
    """What is saved beside the module."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def mean_weights(step: str, module: Learner) -> Learner:
    """``module`` with the running mean that training has stored, for use on the processor."""
    state = torch.load(places.RUN / f"{step}.pt", weights_only=True, map_location="cpu")
    module.load_state_dict(state["mean"])
    return module.eval()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of [B, heads, T, D]; on a processor as plain matrix products.

    There the backward pass of PyTorch's fused one takes longer than all the rest of a step.
    """
    if query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value, mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.mT
    weights = (scores if mask is None else scores + mask).softmax(-1)
    mixed: Tensor = weights.to(value.dtype) @ value
    return mixed


def on(values: Tensor, device: torch.device) -> Tensor:
    """A processor's tensor on the device, without waiting for what a GPU still has to do."""
    return upload(values.numpy(), device)


def limits(minutes: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The options that every step has."""
    options = (
        click.option("--minutes", default=minutes, show_default=True,
                     help="Of processor time, or of the clock on a GPU; earlier runs count."),
        click.option("--steps", type=int, help="Stop after so many steps instead."),
        click.option("--device", default="cpu", show_default=True, help="cpu or cuda."),
    )  # fmt: skip

    def add(command: Callable[..., None]) -> Callable[..., None]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def adam(
    values: list[nn.Parameter], rate: float, device: torch.device, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """On a GPU one whose steps can be recorded, so that its rate lies on the device."""
    on_gpu = device.type == "cuda"
    first = torch.tensor(rate, device=device) if on_gpu else rate
    return torch.optim.AdamW(
        values, first, betas=betas, weight_decay=0.01, fused=on_gpu, capturable=on_gpu
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of learning, from the next step on."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Its state; the tensor of its rate stays the one that recorded steps read."""
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def step_if_finite(optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
    """The optimizer's step, unless the gradients' norm is not finite."""
    if norm.is_cuda:
        # The fused optimizer takes no step where this is 1, and nobody waits for the GPU.
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(norm.isfinite()):
        optimizer.step()


def _prepare_gpu(device: torch.device) -> None:
    """As the product does, but with TF32, which training can do with."""
    prepare(device)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


class Trainer(Generic[Learner]):
    """Trains ``module`` for so many minutes or steps; goes on where an earlier run ended.

    Args:
        step: names the files ``<run>/<step>.pt``, ``.csv``, ``.json`` and ``.log``.
        module: everything that learns by the losses; it is moved to the device.
        rate: of learning.
        minutes: of this process's own processor time, earlier runs counted in, so that whoever
            stops the process for a while takes nothing from it; on a GPU, of the clock.
        steps: the limit instead of ``minutes``.
        device: where the steps run, in bfloat16 where that is safe.
        seed: of everything random.
        momentum: of the weights' running mean, which is what is exported.
        beside: whatever else is to be saved, by name (a discriminator, its optimizer).
        betas: of Adam.
        snapshots: how often the running mean is also stored apart during the run, at equal
            distances, as ``<run>/<step>_<percent>.pt`` in float16 (``<step>.pt`` in small: what
            exports and judges read); 0: never.
    """

    def __init__(
        self, step: str, module: Learner, rate: float, minutes: float, steps: int | None = None,
        device: str = "cpu", seed: int = 0, momentum: float = 0.999,
        beside: Mapping[str, Stateful] | None = None,
        betas: tuple[float, float] = (0.9, 0.98), snapshots: int = 0,
    ) -> None:  # fmt: skip
        self._log = places.logger(step)
        self._step_name, self._rate = step, rate
        self._seconds, self._limit, self._momentum = 60 * minutes, steps, momentum
        self.device = torch.device(device)
        if self.device.type == "cuda":
            _prepare_gpu(self.device)
        self._module = module.to(self.device)
        self._clock = time.monotonic if self.device.type == "cuda" else time.process_time
        self._beside = dict(beside or {})
        self.mean: Learner = copy.deepcopy(module)
        self.mean.eval().requires_grad_(False)
        self._pairs: list[tuple[Tensor, Tensor]] | None = None  # of the mean and of the module
        learning = [value for value in module.parameters() if value.requires_grad]
        self._optimizer = adam(learning, rate, self.device, betas)
        on_gpu = self.device.type == "cuda"
        self._recorder = Recorder(self._learn, self.device) if on_gpu else None
        self.random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.steps, self._spent, self._stopped = 0, 0.0, False
        self._began = self._clock()
        if self.path.is_file():
            self._load()
        self._snapshots = snapshots
        self._taken = int(snapshots * self.progress)

    @property
    def path(self) -> Path:
        """Of the saved state."""
        return places.RUN / f"{self._step_name}.pt"

    @property
    def progress(self) -> float:
        """Share of the run that is over."""
        if self._limit is not None:
            return min(1.0, self.steps / max(self._limit, 1))
        return min(1.0, (self._spent + self._clock() - self._began) / self._seconds)

    @property
    def scale(self) -> int:
        """By what batches are larger than a processor's."""
        return _GPU_BATCHES if self.device.type == "cuda" else 1

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Matrix products in bfloat16."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def run(self, losses: Callable[[], dict[str, Tensor]], stop_after: int | None = None) -> bool:
        """Take steps until the run is over; the sum of ``losses()`` is what falls.

        Args:
            losses: called once a step; :class:`Drawn` ones are recorded on a GPU.
            stop_after: break off after so many steps, as SIGTERM would; for tests.

        Returns:
            Whether the run is over.
        """
        with self._recorder.stream() if self._recorder else contextlib.nullcontext():
            self._take_steps(losses, stop_after)
            if self._taken < self._snapshots:  # stopped, or over since the last step
                self.snapshot()
            self.save()
        return self.progress >= 1

    def _take_steps(self, losses: Callable[[], dict[str, Tensor]], stop_after: int | None) -> None:
        self._began = saved = self._clock()
        started, first = time.monotonic(), self.steps
        sums: dict[str, Tensor] = {}
        counted = 0
        # Whoever ends the run early gets what it has learned so far.
        before = signal.signal(signal.SIGTERM, lambda number, frame: self.stop())
        while self.progress < 1 and not self._stopped:
            set_rate(self._optimizer, self._rate * self.schedule())
            if self._recorder is not None and isinstance(losses, Drawn):
                parts = self._recorder.take(losses)
            else:
                parts = losses()
                self._learn(parts)
            self.steps += 1
            self._follow()
            for name, value in parts.items():
                sums[name] = sums[name] + value.detach() if name in sums else value.detach().clone()
            counted += 1
            if self.steps % _LOG_STEPS == 0 or self.progress >= 1:
                speed = (self.steps - first) / max(time.monotonic() - started, 1e-9)
                self._report({name: float(v) / counted for name, v in sums.items()}, speed)
                sums, counted = {}, 0
            if int(self._snapshots * self.progress) > self._taken:
                self._taken = int(self._snapshots * self.progress)
                self.snapshot()
            if self._clock() - saved > 60 * _SAVE_MINUTES:
                self.save()
                saved = self._clock()
            if stop_after is not None and self.steps - first >= stop_after:
                self.stop()
        signal.signal(signal.SIGTERM, before)

    def finish(self, losses: Callable[[], dict[str, Tensor]]) -> None:
        """:meth:`run`, and an exit that says so if it was stopped before it was over."""
        if not self.run(losses):
            sys.exit("stopped; call it again to go on")

    def stop(self) -> None:
        """Break off after the step that is under way."""
        self._stopped = True

    def save(self) -> None:
        """Write the state; a run that is broken off loses minutes only."""
        now = self._clock()
        state = {
            "module": self._module.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "beside": {name: part.state_dict() for name, part in self._beside.items()},
            "random": json.dumps(self.random.bit_generator.state),
            "torch_random": torch.get_rng_state(),
            "steps": self.steps,
            "spent": self._spent + now - self._began,
        }
        if self.device.type == "cuda":
            state["device_random"] = torch.cuda.get_rng_state(self.device)
        torch.save(state, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").replace(self.path)

    def snapshot(self) -> None:
        """Store the running mean as it is now."""
        mean = {
            name: value.half() if value.is_floating_point() else value
            for name, value in self.mean.state_dict().items()
        }
        percent = round(100 * self.progress)
        path = self.path.with_name(f"{self._step_name}_{percent:03}.pt")
        new = path.with_suffix(".new")
        torch.save({"mean": {k: v.cpu() for k, v in mean.items()}, "steps": self.steps}, new)
        new.replace(path)

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        self._module.load_state_dict(state["module"])
        self.mean.load_state_dict(state["mean"])
        load_optimizer(self._optimizer, state["optimizer"])
        for name, part in self._beside.items():
            if name in state["beside"]:
                part.load_state_dict(state["beside"][name])
        self.random.bit_generator.state = json.loads(state["random"])
        torch.set_rng_state(state["torch_random"])
        if "device_random" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["device_random"], self.device)
        self.steps, self._spent = state["steps"], state["spent"]
        self._log.info("going on after step %d", self.steps)

    def _learn(self, parts: dict[str, Tensor]) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(torch.stack(list(parts.values())).sum())
        norm = nn.utils.clip_grad_norm_(self._module.parameters(), _CLIP)
        step_if_finite(self._optimizer, norm)

    def schedule(self) -> float:
        """The share of the rate that the present step learns by."""
        warm = min(1.0, (self.steps + 1) / _WARM_UP_STEPS)
        late = max(0.0, self.progress - _DECAY_FROM) / (1 - _DECAY_FROM)
        return warm * (0.02 + 0.98 * (1 + math.cos(math.pi * late)) / 2)

    @torch.no_grad()
    def _follow(self) -> None:
        momentum = min(self._momentum, (1 + self.steps) / (10 + self.steps))
        if self._pairs is None:
            means, values = self.mean.state_dict(), self._module.state_dict()
            self._pairs = [(means[name], values[name]) for name in means]
        floats = [pair for pair in self._pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(  # type: ignore[attr-defined]
            [mean for mean, _ in floats], [value for _, value in floats], 1 - momentum
        )
        for mean, value in self._pairs:
            if not mean.is_floating_point():
                mean.copy_(value)

    def _report(self, means: dict[str, float], speed: float) -> None:
        values = " ".join(f"{name} {value:.4f}" for name, value in means.items())
        self._log.info("step %d, %.0f %%: %s", self.steps, 100 * self.progress, values)
        told = {
            "step": self.steps, "share": round(self.progress, 4),
            "steps_per_second": round(speed, 3), "losses": means,
        }  # fmt: skip
        new_file = places.RUN / f"{self._step_name}.json.new"
        new_file.write_text(json.dumps(told) + "\n", encoding="utf-8")
        new_file.replace(places.RUN / f"{self._step_name}.json")
        path = places.RUN / f"{self._step_name}.csv"
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["step", *means])
            writer.writerow([self.steps, *(f"{value:.5f}" for value in means.values())])
