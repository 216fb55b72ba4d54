"""SoVITS v4: semantic tokens, phonemes and timbre to mel frames."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gsv.config import SoVITSConfig
from gsv.models.flow import FlowMatching
from gsv.models.layers import set_precision
from gsv.models.masking import length_mask
from gsv.models.quantizer import Quantizer
from gsv.models.style import StyleEncoder
from gsv.models.text_encoder import TextEncoder
from gsv.models.wavenet import WaveNet


class SoVITS(nn.Module):
    """All parts of ``s2Gv4.pth`` that synthesis needs."""

    def __init__(self, config: SoVITSConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = Quantizer(config.ssl_dim, config.codebook_size)
        self.style_encoder = StyleEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.bridge = nn.Conv1d(config.hidden_channels, config.condition_channels, 1)
        self.wavenet = WaveNet(config)
        self.flow = FlowMatching(config)

    def set_precision(self, dtype: torch.dtype) -> None:
        """Hold the estimator's weights as ``dtype``, and lay them out for its processor.

        The condition's encoders stay float32: they run once a sentence, and what they round all
        steps would be told.
        """
        set_precision(self.flow, dtype)

    def with_parts(self, changed: Mapping[str, Tensor]) -> SoVITS:
        """A model that shares all of this one but the parts that ``changed`` has tensors of.

        Args:
            changed: by name; of parts that :meth:`set_precision` does not lay out anew.
        """
        twin = copy.copy(self)
        twin._modules = dict(self._modules)
        for name in {key.partition(".")[0] for key in changed}:
            part = copy.deepcopy(getattr(self, name))
            own = {k.partition(".")[2]: v for k, v in changed.items() if k.startswith(f"{name}.")}
            part.load_state_dict(part.state_dict() | own, strict=True)
            setattr(twin, name, part)
        return twin

    def style(self, spectrum: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Timbre [B, gin_channels, 1] of linear magnitudes [B, 704, T]."""
        timbre: Tensor = self.style_encoder(spectrum, lengths)
        return timbre

    def condition(
        self,
        tokens: Tensor,
        token_lengths: Tensor | None,
        phonemes: Tensor,
        phoneme_lengths: Tensor | None,
        timbre: Tensor,
        speed: float | Sequence[float] = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """The flow's condition at 100 frames a second; each row equal to itself alone.

        Args:
            tokens: int64 [B, N], 25 a second.
            token_lengths: [B] or None when every row has N.
            phonemes: int64 [B, P].
            phoneme_lengths: [B] or None when every row has P.
            timbre: [B, gin_channels, 1].
            speed: of all rows, or of each; 2 is twice as fast.

        Returns:
            Condition [B, condition_channels, T] and the frames of each row, int64 [B]. At a speed
            other than 1 a row's last frame may be zero: its mask counts int(4 N / speed) + 1
            frames, its tensor 2 (int(2 N / speed) + 1).
        """
        rows, device = tokens.shape[0], tokens.device
        speeds = [speed] * rows if isinstance(speed, float | int) else list(speed)
        counts = [tokens.shape[1]] * rows if token_lengths is None else token_lengths.tolist()
        content = self.quantizer.embed(tokens).repeat_interleave(2, dim=-1)  # 50 Hz
        encoded = self.text_encoder(
            content,
            length_mask(None if token_lengths is None else 2 * token_lengths, content.shape[-1]),
            phonemes,
            length_mask(phoneme_lengths, phonemes.shape[1]),
            timbre,
        )
        stretched = [
            _stretch(row[None, :, : 2 * count], row_speed)
            for row, count, row_speed in zip(encoded, counts, speeds, strict=True)
        ]
        frames = torch.tensor([2 * row.shape[-1] for row in stretched], device=device)
        heard = torch.tensor(
            [_heard_frames(count, s) for count, s in zip(counts, speeds, strict=True)],
            device=device,
        )
        half = max(row.shape[-1] for row in stretched)
        padded = [nn.functional.pad(row, (0, half - row.shape[-1])) for row in stretched]
        values = nn.functional.leaky_relu(self.bridge(torch.cat(padded))).mT
        values = values.repeat_interleave(2, dim=1)  # [B, T, C] at 100 Hz
        mask = length_mask(heard, values.shape[1])
        return self.wavenet(values, mask, timbre).float().mT, frames


def _stretch(encoded: Tensor, speed: float) -> Tensor:
    """[1, C, 2 N] to [1, C, int(2 N / speed) + 1], linearly; unchanged at speed 1."""
    if speed == 1:
        return encoded
    size = int(encoded.shape[-1] / speed) + 1
    return nn.functional.interpolate(encoded, size=size, mode="linear")


def _heard_frames(tokens: int, speed: float) -> int:
    """Frames that upstream's length mask lets through."""
    return 4 * tokens if speed == 1 else int(4 * tokens / speed) + 1
