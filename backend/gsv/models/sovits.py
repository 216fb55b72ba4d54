"""SoVITS v4: semantic tokens, phonemes and timbre to mel frames."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gsv.config import SoVITSConfig
from gsv.models.flow import FlowMatching
from gsv.models.layers import set_precision
from gsv.models.masking import row_mask
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

        The condition's encoders stay float32: they run once a sentence, and every step would read
        what they round.
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

    def style(self, spectrum: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """Timbre [B, gin_channels, 1] of linear magnitudes [B, 704, T]."""
        timbre: Tensor = self.style_encoder(spectrum, lengths)
        return timbre

    def condition(
        self,
        tokens: Tensor,
        token_lengths: Sequence[int] | None,
        phonemes: Tensor,
        phoneme_lengths: Sequence[int] | None,
        timbre: Tensor,
        speed: float | Sequence[float] = 1.0,
    ) -> tuple[Tensor, list[int]]:
        """The flow's condition at 100 frames a second; each row equal to itself alone.

        Nothing is read from the device, so a GPU's queue goes on.

        Args:
            tokens: int64 [B, N], 25 a second.
            token_lengths: of each row; None when every row has N.
            phonemes: int64 [B, P].
            phoneme_lengths: of each row; None when every row has P.
            timbre: [B, gin_channels, 1].
            speed: of all rows, or of each; 2 is twice as fast.

        Returns:
            Condition [B, condition_channels, T] and the frames of each row, up to T. At a speed
            other than 1 a row's last frame may be zero: its mask counts int(4 N / speed) + 1
            frames, its tensor 2 (int(2 N / speed) + 1).
        """
        rows, size = tokens.shape
        device = tokens.device
        speeds = [speed] * rows if isinstance(speed, float | int) else list(speed)
        counts = [size] * rows if token_lengths is None else list(token_lengths)
        content_mask = row_mask([2 * count for count in counts], 2 * size, device)
        phoneme_mask = row_mask(phoneme_lengths, phonemes.shape[1], device)
        encoded = self._encode(tokens, content_mask, phonemes, phoneme_mask, timbre)
        stretched = _stretched(encoded, counts, speeds)
        heard = [_heard_frames(*row) for row in zip(counts, speeds, strict=True)]
        heard_mask = row_mask(heard, 2 * stretched.shape[-1], device)
        frames = [2 * _half_frames(*row) for row in zip(counts, speeds, strict=True)]
        return self._smooth(stretched, heard_mask, timbre), frames

    def condition_by_masks(
        self,
        tokens: Tensor,
        content_mask: Tensor,
        phonemes: Tensor,
        phoneme_mask: Tensor,
        timbre: Tensor,
    ) -> Tensor:
        """:meth:`condition` at speed 1, of lengths that a captured graph reads from the device.

        Args:
            tokens: int64 [B, N].
            content_mask: bool [B, 2 N], true inside each row's length.
            phonemes: int64 [B, P].
            phoneme_mask: bool [B, P], likewise.
            timbre: [B, gin_channels, 1].

        Returns:
            [B, condition_channels, 4 N]
        """
        encoded = self._encode(tokens, content_mask, phonemes, phoneme_mask, timbre)
        return self._smooth(encoded, content_mask.repeat_interleave(2, dim=1), timbre)

    def _encode(
        self,
        tokens: Tensor,
        content_mask: Tensor | None,
        phonemes: Tensor,
        phoneme_mask: Tensor | None,
        timbre: Tensor,
    ) -> Tensor:
        """Hidden frames at 50 Hz, [B, C, 2 N]."""
        content = self.quantizer.embed(tokens).repeat_interleave(2, dim=-1)
        encoded: Tensor = self.text_encoder(content, content_mask, phonemes, phoneme_mask, timbre)
        return encoded

    def _smooth(self, encoded: Tensor, mask: Tensor | None, timbre: Tensor) -> Tensor:
        """Hidden frames [B, C, T] at 50 Hz to the condition [B, C', 2 T] at 100 Hz."""
        values = nn.functional.leaky_relu(self.bridge(encoded)).mT
        values = values.repeat_interleave(2, dim=1)  # [B, T, C]
        smoothed: Tensor = self.wavenet(values, mask, timbre)
        return smoothed.float().mT


def _stretched(encoded: Tensor, counts: Sequence[int], speeds: Sequence[float]) -> Tensor:
    """Rows [B, C, 2 N] at their speeds, [B, C, half frames]; zero behind each row's own."""
    if all(speed == 1 for speed in speeds):
        return encoded  # the encoder has zeros there
    size = max(_half_frames(encoded.shape[-1] // 2, speed) for speed in speeds)
    rows = [
        _stretch(row[None, :, : 2 * count], speed)
        for row, count, speed in zip(encoded, counts, speeds, strict=True)
    ]
    return torch.cat([nn.functional.pad(row, (0, size - row.shape[-1])) for row in rows])


def _stretch(encoded: Tensor, speed: float) -> Tensor:
    """[1, C, 2 N] to [1, C, int(2 N / speed) + 1], linearly; unchanged at speed 1."""
    if speed == 1:
        return encoded
    size = _half_frames(encoded.shape[-1] // 2, speed)
    return nn.functional.interpolate(encoded, size=size, mode="linear")


def _half_frames(tokens: int, speed: float) -> int:
    """Frames at 50 Hz that ``tokens`` become."""
    return 2 * tokens if speed == 1 else int(2 * tokens / speed) + 1


def _heard_frames(tokens: int, speed: float) -> int:
    """Frames that upstream's length mask lets through."""
    return 4 * tokens if speed == 1 else int(4 * tokens / speed) + 1
