"""Flow matching: noise becomes mel frames along the estimator's velocity, in Euler steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gsv.config import SoVITSConfig
from gsv.models.dit import DiT


class FlowMatching(nn.Module):
    """The estimator with its schedule. Steps themselves are taken by the engine."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        self.estimator = DiT(config)
        self.condition_channels = config.condition_channels
        self.mel_channels = config.mel_channels

    @property
    def device(self) -> torch.device:
        """Where the estimator's tensors are."""
        return self.estimator.inverse_frequencies.device

    def schedule(self, steps: int) -> Tensor:
        """Modulation rows [steps, M] for times 0, 1/steps, … and step size 1/steps."""
        size = 1.0 / steps
        times, time = [], 0.0
        for _ in range(steps):
            times.append(time)
            time += size  # summed in double precision, as upstream
        uploaded = torch.tensor([times, [size] * steps], dtype=torch.float32)
        if self.device.type == "cuda":
            uploaded = uploaded.pin_memory()  # so that nobody waits for the copy
        return self.estimator.modulate(*uploaded.to(self.device, non_blocking=True))

    def embed(self, condition: Tensor, prompt: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the estimator reads besides the noisy mel.

        Args:
            condition: [B, C, T].
            prompt: [B, mel, P], P at most T.
            lengths: [B] frames of each row, or None.

        Returns:
            [B, T, D]
        """
        embedded = self.estimator.embed_condition(condition.mT, lengths)
        padded = nn.functional.pad(prompt.mT, (0, 0, 0, condition.shape[-1] - prompt.shape[-1]))
        return self.estimator.embed_inputs(padded, embedded)
