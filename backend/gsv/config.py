"""Shapes of the three acoustic networks, as frozen dataclasses that go to JSON and back.

An unknown or missing key is an error: a mistyped option that is ignored is found by a listener,
not by a test.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, TypeVar

from gsv.errors import ConfigurationError

Config = TypeVar("Config", bound="StrictConfig")


@dataclasses.dataclass(frozen=True)
class StrictConfig:
    """Base: ``from_dict`` refuses unknown and missing keys, lists become tuples."""

    @classmethod
    def from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
        """Build from plain values; ConfigurationError names every key that is wrong."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        required = {n for n, f in fields.items() if f.default is dataclasses.MISSING}
        missing = sorted(required - set(values))
        if unknown or missing:
            raise ConfigurationError(
                f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}; "
                f"allowed: {sorted(fields)}"
            )
        return cls(**{name: _freeze(value) for name, value in values.items()})

    @classmethod
    def load(cls: type[Config], path: Path) -> Config:
        """Read from a JSON file; ConfigurationError when it can't be read or a key is wrong."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: not a readable JSON file: {error}") from error
        return cls.from_dict(values)

    def save(self, path: Path) -> None:
        """Write as indented JSON."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        path.write_text(text + "\n", encoding="utf-8")


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class GPTConfig(StrictConfig):
    """Semantic language model (s1v3.ckpt). Defaults are those of the official file."""

    hidden_dim: int = 512
    heads: int = 16
    layers: int = 24
    vocabulary: int = 1025
    phonemes: int = 732
    eos: int = 1024
    bert_dim: int = 1024


@dataclasses.dataclass(frozen=True)
class SoVITSConfig(StrictConfig):
    """SoVITS v4 (s2Gv4.pth). Defaults are those of the official file."""

    # from the checkpoint's own config
    inter_channels: int = 192
    hidden_channels: int = 192
    filter_channels: int = 768
    heads: int = 2
    layers: int = 6
    kernel_size: int = 3
    gin_channels: int = 512
    # hard-coded upstream
    phonemes: int = 732
    codebook_size: int = 1024
    ssl_dim: int = 768
    condition_channels: int = 512  # upstream's inter_channels2
    mrte_hidden: int = 512
    mrte_heads: int = 4
    style_bins: int = 704
    style_hidden: int = 128
    style_heads: int = 2
    style_kernel: int = 5
    wavenet_layers: int = 8
    wavenet_kernel: int = 5
    mel_channels: int = 100
    dit_dim: int = 1024
    dit_depth: int = 22
    dit_heads: int = 16
    dit_head_dim: int = 64
    dit_ff_mult: int = 2
    dit_conv_layers: int = 4


VOCODER_EDGE_KERNEL = 7  # taps of the vocoder's first and last convolution, hard-coded upstream


@dataclasses.dataclass(frozen=True)
class VocoderConfig(StrictConfig):
    """48 kHz vocoder (vocoder.pth). Defaults are those of the official file."""

    mel_channels: int = 100
    initial_channels: int = 512
    upsample_rates: tuple[int, ...] = (10, 6, 2, 2, 2)
    upsample_kernels: tuple[int, ...] = (20, 12, 4, 4, 4)
    resblock_kernels: tuple[int, ...] = (3, 7, 11)
    resblock_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))

    @property
    def context_frames(self) -> int:
        """The receptive field's radius: frames on each side that a frame's samples depend on."""
        radius = VOCODER_EDGE_KERNEL // 2
        for rate in reversed(self.upsample_rates):
            radius = self.stage_context(radius, rate)
        return radius + VOCODER_EDGE_KERNEL // 2

    def stage_context(self, radius: int, rate: int) -> int:
        """Inputs of a stage on each side that the outputs within ``radius`` depend on."""
        blocks = zip(self.resblock_kernels, self.resblock_dilations, strict=True)
        radius += max(
            sum((d + 1) * (kernel - 1) // 2 for d in dilations) for kernel, dilations in blocks
        )
        # The transposed convolution of kernel 2 * rate and padding rate / 2: an output depends on
        # inputs up to 1.5 * rate - 1 outputs before it, and up to rate / 2 outputs after it.
        margin = rate // 2
        before = -(-(radius + 2 * rate - 1 - margin) // rate)
        after = (radius + margin - 1) // rate + 1
        return max(before, after)
