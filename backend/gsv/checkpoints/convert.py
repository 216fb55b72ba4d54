"""Upstream's tensors and numbers → ours, checked against the modules that will load them.

The expected names and shapes come from the modules themselves, made on the meta device. A missing
tensor, a wrong shape or a number that is not finite is an error; a tensor that no table knows is
listed and dropped.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from gsv.checkpoints.detect import Kind, require
from gsv.checkpoints.names import gpt as gpt_names
from gsv.checkpoints.names import sovits as sovits_names
from gsv.checkpoints.names import vocoder as vocoder_names
from gsv.checkpoints.reader import Checkpoint
from gsv.checkpoints.unpickle import brief, shown
from gsv.config import GPTConfig, SoVITSConfig, StrictConfig, VocoderConfig
from gsv.constants import (
    EOS,
    MEL_RATE,
    PHONEMES,
    REFERENCE_RATE,
    SAMPLES_PER_FRAME,
    SPECTRUM_FFT,
    SPECTRUM_HOP,
    VOCABULARY,
)
from gsv.errors import CheckpointError
from gsv.models.gpt import SemanticGPT
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder

Config = TypeVar("Config", bound=StrictConfig)
_LISTED = 5  # names in one message
_NAME_LENGTH = 200  # characters of each, with its shapes
# Bounds on the numbers of a configuration: a network is built from them before shapes are compared.
_LARGEST_SHAPE, _LARGEST_RATE = 4_096, 1 << 20


@dataclasses.dataclass(frozen=True)
class Converted(Generic[Config]):
    """One network, ready to be stored.

    Attributes:
        config: its shapes.
        tensors: by our names; complete and of the right shapes, in the source's precision.
        unknown: keys of the file that no table knows; dropped.
        notes: for people.
    """

    config: Config
    tensors: dict[str, Tensor]
    unknown: list[str]
    notes: list[str]


def convert_gpt(checkpoint: Checkpoint) -> Converted[GPTConfig]:
    """Convert s1v3.ckpt or a file fine-tuned from it.

    Raises:
        CheckpointError: wrong kind of file, wrong configuration, missing tensor or wrong shape.
    """
    notes = require(checkpoint, Kind.GPT)
    number = _Numbers(checkpoint, "model", _LARGEST_SHAPE)
    _expect(checkpoint, "EOS", number("EOS"), EOS)
    _expect(checkpoint, "vocab_size", number("vocab_size"), VOCABULARY)
    _expect(checkpoint, "phoneme_vocab_size", number("phoneme_vocab_size"), PHONEMES)
    width = number("hidden_dim")
    _expect(checkpoint, "embedding_dim", number("embedding_dim"), width)
    config = GPTConfig(
        hidden_dim=width,
        heads=number("head"),
        layers=number("n_layer"),
        bert_dim=_size(checkpoint, "model.bert_proj.weight", 1),
    )
    if width % config.heads:
        raise CheckpointError(f"{checkpoint.path}: {width} channels for {config.heads} heads")
    tensors, unknown = _rename(checkpoint, gpt_names.rename)
    return Converted(config, _fit(checkpoint, tensors, SemanticGPT, config), unknown, notes)


# Numbers that upstream hard-codes; only reduced test files carry them, in a dict called "arch".
_ARCH = {
    "ssl_dim": "ssl_dim", "inter_channels2": "condition_channels", "mrte_hidden": "mrte_hidden",
    "mrte_heads": "mrte_heads", "style_in": "style_bins", "style_hidden": "style_hidden",
    "style_heads": "style_heads", "style_kernel": "style_kernel", "wns1_layers": "wavenet_layers",
    "wns1_kernel": "wavenet_kernel", "mel_dim": "mel_channels", "dit_dim": "dit_dim",
    "dit_depth": "dit_depth", "dit_heads": "dit_heads", "dit_dim_head": "dit_head_dim",
    "dit_ff_mult": "dit_ff_mult", "dit_conv_layers": "dit_conv_layers",
}  # fmt: skip


def sovits_config(checkpoint: Checkpoint) -> SoVITSConfig:
    """The shapes that a v4 SoVITS file declares; its audio settings are checked on the way.

    Raises:
        CheckpointError: a setting is missing, or is not what v4 works with.
    """
    audio = _Numbers(checkpoint, "data", _LARGEST_RATE)
    _expect(checkpoint, "sampling_rate", audio("sampling_rate"), REFERENCE_RATE, " Hz")
    _expect(checkpoint, "hop_length", audio("hop_length"), SPECTRUM_HOP)
    _expect(checkpoint, "win_length", audio("win_length"), SPECTRUM_FFT)
    _expect(checkpoint, "filter_length", audio("filter_length"), SPECTRUM_FFT)
    number = _Numbers(checkpoint, "model", _LARGEST_SHAPE)
    arch = checkpoint.extra.get("arch")
    given = arch if isinstance(arch, dict) else {}
    return SoVITSConfig(
        inter_channels=number("inter_channels"),
        hidden_channels=number("hidden_channels"),
        filter_channels=number("filter_channels"),
        heads=number("n_heads"),
        layers=number("n_layers"),
        kernel_size=number("kernel_size"),
        gin_channels=number("gin_channels"),
        **{
            ours: _whole(checkpoint, f"arch.{key}", given[key], _LARGEST_SHAPE)
            for key, ours in _ARCH.items()
            if key in given
        },
    )


def convert_sovits(checkpoint: Checkpoint) -> Converted[SoVITSConfig]:
    """Convert s2Gv4.pth or a full file fine-tuned from it; weight norms are folded.

    Raises:
        CheckpointError: wrong kind of file, wrong configuration, missing tensor or wrong shape.
    """
    notes = require(checkpoint, Kind.SOVITS)
    config = sovits_config(checkpoint)
    tensors, unknown = _rename(checkpoint, sovits_names.rename)
    return Converted(config, _fit(checkpoint, tensors, SoVITS, config), unknown, notes)


def convert_vocoder(checkpoint: Checkpoint) -> Converted[VocoderConfig]:
    """Convert vocoder.pth. The file carries no configuration: the shapes tell all but dilations.

    Raises:
        CheckpointError: wrong kind of file, wrong output rate, missing tensor or wrong shape.
    """
    notes = require(checkpoint, Kind.VOCODER)
    config = _vocoder_config(checkpoint)
    factor = math.prod(config.upsample_rates)
    if factor != SAMPLES_PER_FRAME:
        raise CheckpointError(
            f"{checkpoint.path}: this vocoder makes {factor} samples of each mel frame "
            f"({factor * MEL_RATE:,} Hz); wanted: {SAMPLES_PER_FRAME} "
            f"({SAMPLES_PER_FRAME * MEL_RATE:,} Hz), the vocoder.pth of v4"
        )
    tensors, unknown = _rename(checkpoint, vocoder_names.rename)
    return Converted(config, _fit(checkpoint, tensors, Vocoder, config), unknown, notes)


def _vocoder_config(checkpoint: Checkpoint) -> VocoderConfig:
    official = VocoderConfig()
    kernels = [
        value.shape[2]
        for key, value in checkpoint.weights.items()
        if key.startswith("ups.") and key.endswith((".weight", ".weight_v")) and value.ndim == 3
    ]
    head = checkpoint.weights.get("conv_pre.weight")
    if head is None or head.ndim != 3 or not kernels:
        raise CheckpointError(f"{checkpoint.path}: this vocoder is not built as that of v4")
    return dataclasses.replace(
        official,
        mel_channels=int(head.shape[1]),
        initial_channels=int(head.shape[0]),
        # Upstream's kernels are twice their rates in every stage, so they tell the rates.
        upsample_rates=tuple(k // 2 for k in kernels),
        upsample_kernels=tuple(kernels),
    )


class _Numbers:
    """Whole numbers of one section of the file's configuration."""

    def __init__(self, checkpoint: Checkpoint, section: str, largest: int) -> None:
        values = checkpoint.config.get(section)
        if not isinstance(values, dict):
            raise CheckpointError(
                f"{checkpoint.path}: its configuration has no section {section!r}"
            )
        self._checkpoint, self._section, self._values = checkpoint, section, values
        self._largest = largest

    def __call__(self, name: str) -> int:
        if name not in self._values:
            raise CheckpointError(
                f"{self._checkpoint.path}: its configuration lacks {self._section}.{name}"
            )
        value = self._values[name]
        return _whole(self._checkpoint, f"{self._section}.{name}", value, self._largest)


def _whole(checkpoint: Checkpoint, name: str, value: Any, largest: int) -> int:
    if type(value) is not int or not 0 < value <= largest:
        raise CheckpointError(
            f"{checkpoint.path}: {name} is {shown(value)}; "
            f"allowed: whole numbers from 1 to {largest}"
        )
    return value


def _expect(checkpoint: Checkpoint, name: str, given: int, wanted: int, unit: str = "") -> None:
    if given != wanted:
        raise CheckpointError(
            f"{checkpoint.path}: {name} is {given}{unit}; v4 needs {wanted}{unit}"
        )


def _size(checkpoint: Checkpoint, key: str, axis: int) -> int:
    value = checkpoint.weights.get(key)
    if value is None or value.ndim <= axis:
        raise CheckpointError(f"{checkpoint.path}: {key} is missing or has a wrong shape")
    return int(value.shape[axis])


def _rename(
    checkpoint: Checkpoint, rename: Callable[[str], str | None]
) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors by our names, weight norms folded; and the keys that no table knows."""
    named: dict[str, Tensor] = {}
    unknown = []
    for key, value in checkpoint.weights.items():
        try:
            name = rename(_old_style(key))
        except KeyError:
            unknown.append(key)
            continue
        if name is not None:
            named[name] = value
    return fold_weight_norm(named), unknown


def _old_style(key: str) -> str:
    # torch's newer weight norm keeps scale and direction under other names.
    key = key.replace(".parametrizations.weight.original0", ".weight_g")
    return key.replace(".parametrizations.weight.original1", ".weight_v")


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair ``weight_g``, ``weight_v`` by ``weight`` = g·v/‖v‖, in float32.

    The norm runs over all axes but the first (``torch.nn.utils.weight_norm`` with dim 0). A scale
    without its direction, or the reverse, stays as it is and is reported as missing later.
    """
    folded = dict(tensors)
    for name in tensors:
        stem = name.removesuffix("_g")
        if stem == name or f"{stem}_v" not in folded:
            continue
        scale, direction = folded.pop(name).float(), folded.pop(f"{stem}_v").float()
        norm = direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (direction.ndim - 1))
        folded[stem] = direction * (scale.reshape(norm.shape) / norm)
    return folded


def expected_shapes(module: Callable[[Any], nn.Module], config: Any) -> dict[str, torch.Size]:
    """Names and shapes that ``module(config)`` loads, without making its weights."""
    with torch.device("meta"):
        return {name: value.shape for name, value in module(config).state_dict().items()}


def _fit(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    module: Callable[[Any], nn.Module],
    config: StrictConfig,
) -> dict[str, Tensor]:
    try:
        shapes = expected_shapes(module, config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{checkpoint.path}: its configuration describes no possible network: {error}"
        ) from error
    return fit(checkpoint.path, tensors, shapes)


def fit(
    path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """The tensors that ``shapes`` names, in its order.

    Raises:
        CheckpointError: one is missing, has another shape, or holds a value that is not finite.
    """
    if missing := [name for name in shapes if name not in tensors]:
        raise CheckpointError(f"{path}: tensors are missing: {shortened(missing)}")
    wrong = [
        f"{name} {brief(list(tensors[name].shape))} instead of {list(shape)}"
        for name, shape in shapes.items()
        if tensors[name].shape != shape
    ]
    if wrong:
        raise CheckpointError(f"{path}: wrong shapes: {shortened(wrong)}")
    result = {name: _storable(tensors[name]) for name in shapes}
    if broken := [name for name, value in result.items() if not value.isfinite().all()]:
        raise CheckpointError(f"{path}: values that are not finite in: {shortened(broken)}")
    return result


def _storable(value: Tensor) -> Tensor:
    if value.dtype in (torch.float16, torch.bfloat16, torch.float32):
        return value
    return value.float()


def shortened(names: Iterable[str]) -> str:
    """A list for one line: the first few, and how many more."""
    listed = list(names)
    more = len(listed) - _LISTED
    first = ", ".join(brief(name, _NAME_LENGTH) for name in listed[:_LISTED])
    return first + (f" and {more} more" if more > 0 else "")
