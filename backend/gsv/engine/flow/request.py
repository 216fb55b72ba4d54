"""One chunk of mel on its way through flow matching: what was asked, and the record of its run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gsv.engine.noise import normal_frames
from gsv.engine.turns import WHOLE_ANSWER, Ticket, Turn
from gsv.errors import InvalidRequest

# Called on the engine's thread with the new frames [mel, T - P], normalised, on the CPU.
OnDone = Callable[[Tensor], None]
OnError = Callable[[BaseException], None]

MAX_STEPS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class FlowRequest:
    """New mel frames after a prompt.

    Attributes:
        condition: float32 [C, T], of the prompt's P frames and then of the new ones.
        prompt: float32 [mel, P], normalised to [-1, 1].
        steps: Euler steps, 1 to 100.
        seed, sentence: name the noise.
        first_frame: index of the first new frame in its sentence; with it the noise of a chunk
            is that part of the whole sentence's.
        temperature: scale of the noise.
        noise: float32 [mel, T - P] to start from instead, for parity tests.
        model: name of the estimator; "" is the engine's first one.
        adapter: name of the low-rank changes to it; "" is none.
        turn: who waits for the frames.
        accepted: it belongs to an answer that has begun, and is not refused when the line is full.
    """

    condition: Tensor
    prompt: Tensor
    steps: int
    seed: int = 0
    sentence: int = 0
    first_frame: int = 0
    temperature: float = 1.0
    noise: Tensor | None = None
    model: str = ""
    adapter: str = ""
    turn: Turn = WHOLE_ANSWER
    accepted: bool = False

    @property
    def frames(self) -> int:
        """T, the prompt's frames and the new ones."""
        return self.condition.shape[-1]

    @property
    def prompt_frames(self) -> int:
        """P, the prompt's frames."""
        return self.prompt.shape[-1]

    def verify(self, condition_channels: int, mel_channels: int) -> None:
        """Raise InvalidRequest for steps out of range, ValueError for shapes that don't fit."""
        if not 1 <= self.steps <= MAX_STEPS:
            raise InvalidRequest.value("SAMPLE_STEPS", self.steps, f"1 to {MAX_STEPS}")
        new = self.frames - self.prompt_frames
        if (
            self.condition.shape != (condition_channels, self.frames)
            or self.prompt.shape != (mel_channels, self.prompt_frames)
            or new < 1
            or (self.noise is not None and self.noise.shape != (mel_channels, new))
        ):
            noise = None if self.noise is None else list(self.noise.shape)
            raise ValueError(
                f"condition {list(self.condition.shape)}, prompt {list(self.prompt.shape)}, noise "
                f"{noise}: must be [{condition_channels}, T], [{mel_channels}, P] with P < T, and "
                f"[{mel_channels}, T - P] if given"
            )

    def initial_noise(self) -> Tensor:
        """Where the new frames start, float32 [T - P, mel]."""
        if self.noise is not None:
            return self.noise.mT * self.temperature
        new = self.frames - self.prompt_frames
        channels = self.prompt.shape[0]
        noise = normal_frames(self.seed, self.sentence, self.first_frame, new, channels)
        return torch.from_numpy(noise) * self.temperature


class FlowTask:
    """The record of one request; changed by the engine's thread alone, but for ``cancel``."""

    def __init__(self, request: FlowRequest, on_done: OnDone, on_error: OnError) -> None:
        self.request = request
        self.step = 0  # Euler steps taken
        self.turn = request.turn
        self.ticket: Ticket | None = None  # its place in line
        self.submitted = time.monotonic()
        self.cancelled = False
        self._on_done: OnDone | None = on_done
        self._on_error = on_error

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.step >= self.request.steps

    @property
    def answered(self) -> bool:
        """Whether its caller has the frames or an error."""
        return self._on_done is None

    @property
    def remaining(self) -> int:
        """Frames still to be estimated, over all steps."""
        return (self.request.steps - self.step) * self.request.frames

    def cancel(self) -> None:
        """Ask to stop; from any thread."""
        self.cancelled = True

    def done(self, mel: Tensor) -> None:
        """Answer with the new frames."""
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(mel)

    def fail(self, error: BaseException) -> None:
        """Answer with an error; without effect on a run that is answered."""
        if not self.answered:
            self._on_done = None
            self._on_error(error)
