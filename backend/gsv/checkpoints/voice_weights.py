"""Weights of a voice: a fine-tuned GPT, a full fine-tuned SoVITS, or a LoRA on the base SoVITS.

``gsv voices add`` stores them as safetensors whose metadata say what they are. Upstream's own
files, put into a voice's folder by hand, are read as well, by the restricted reader. Either way
every tensor is checked against the base model's shapes before anything uses it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsv.checkpoints.border import guarded
from gsv.checkpoints.convert import convert_gpt, convert_sovits, expected_shapes, fit
from gsv.checkpoints.detect import Kind, identify
from gsv.checkpoints.lora import Lora, LowRank, check_lora, read_lora
from gsv.checkpoints.manifest import sha256
from gsv.checkpoints.reader import read_checkpoint
from gsv.checkpoints.store import StoredTensors, save_tensors
from gsv.checkpoints.unpickle import brief, shown
from gsv.config import GPTConfig, SoVITSConfig
from gsv.errors import CheckpointError
from gsv.models.gpt import SemanticGPT
from gsv.models.sovits import SoVITS

SUFFIX = ".safetensors"
_MARK = "gsv_voice"  # metadata key of our own files
_MARK_LENGTH = 8_192  # characters; the longest part is the source's file name
_FORMAT = 1
_DOWN, _UP = ".down", ".up"
_QUANTIZER = "quantizer."


@dataclasses.dataclass(frozen=True)
class Stored:
    """What was written for a voice, for people.

    Attributes:
        kind: "GPT", "SoVITS" or "SoVITS LoRA".
        rank: of a LoRA, else 0.
        notes: of the conversion.
    """

    kind: str
    rank: int
    notes: list[str]


@guarded
def read_gpt(path: Path, base: GPTConfig) -> dict[str, Tensor]:
    """The tensors of a fine-tuned GPT of the base's shapes.

    Raises:
        CheckpointError: another kind of file, damaged, hostile, or of other shapes.
    """
    mark = _mark(path)
    if mark is None:
        converted = convert_gpt(read_checkpoint(path))
        _same(path, converted.config, base)
        return converted.tensors
    _want(path, mark, Kind.GPT)
    return fit(path, StoredTensors(path).read(), expected_shapes(SemanticGPT, base))


@guarded
def read_sovits(path: Path, base: SoVITSConfig) -> Lora | dict[str, Tensor]:
    """A LoRA on the base SoVITS, or the tensors of a full fine-tune of its shapes.

    Raises:
        CheckpointError: another kind of file, damaged, hostile, or of other shapes.
    """
    mark = _mark(path)
    if mark is None:
        checkpoint = read_checkpoint(path)
        if identify(checkpoint).kind is Kind.SOVITS_LORA:
            return read_lora(path, base)
        converted = convert_sovits(checkpoint)
        _same(path, converted.config, base)
        return converted.tensors
    if mark.get("kind") == Kind.SOVITS_LORA.value:
        return _stored_lora(path, mark, base)
    _want(path, mark, Kind.SOVITS)
    return fit(path, StoredTensors(path).read(), expected_shapes(SoVITS, base))


@guarded
def read_quantizer(path: Path, base: SoVITSConfig) -> dict[str, Tensor]:
    """Those tensors of the quantizer that a voice's SoVITS replaces, without the prefix.

    Training freezes the quantizer, but a half-precision file rounds it, and prompt tokens must be
    those that the voice's own file gives.

    Raises:
        CheckpointError: as :func:`read_sovits`.
    """
    if _mark(path) is None:
        found = read_sovits(path, base)
        tensors = found.replaced if isinstance(found, Lora) else found
    else:
        tensors = StoredTensors(path).read(lambda name: name.startswith(_QUANTIZER))
    own = {name: value for name, value in tensors.items() if name.startswith(_QUANTIZER)}
    shapes = expected_shapes(SoVITS, base)
    fitting = fit(path, own, {name: shapes[name] for name in own if name in shapes})
    return {name.removeprefix(_QUANTIZER): value for name, value in fitting.items()}


def store_gpt(source: Path, target: Path, base: GPTConfig) -> Stored:
    """Check a fine-tuned GPT and write it as safetensors."""
    checkpoint = read_checkpoint(source)
    converted = convert_gpt(checkpoint)
    _same(source, converted.config, base)
    _save(converted.tensors, target, source, kind=Kind.GPT.value)
    return Stored(Kind.GPT.value, 0, converted.notes)


def store_sovits(source: Path, target: Path, base: SoVITSConfig) -> Stored:
    """Check a fine-tuned SoVITS, full or LoRA, and write it as safetensors."""
    checkpoint = read_checkpoint(source)
    if identify(checkpoint).kind is Kind.SOVITS_LORA:
        lora = read_lora(source, base)
        tensors = dict(lora.replaced)
        for name, pair in lora.projections.items():
            tensors |= {name + _DOWN: pair.down, name + _UP: pair.up}
        _save(tensors, target, source, kind=Kind.SOVITS_LORA.value, rank=lora.rank)
        return Stored(Kind.SOVITS_LORA.value, lora.rank, lora.notes)
    converted = convert_sovits(checkpoint)
    _same(source, converted.config, base)
    _save(converted.tensors, target, source, kind=Kind.SOVITS.value)
    return Stored(Kind.SOVITS.value, 0, converted.notes)


@guarded
def parameters_in(path: Path) -> int:
    """How many numbers the tensors of a file hold, without reading them; a guess for ``.pth``.

    Raises:
        CheckpointError: the file is missing or no safetensors file.
    """
    if _mark(path) is None:
        return path.stat().st_size // torch.float16.itemsize
    return sum(math.prod(shape) for shape in StoredTensors(path).shapes.values())


def _save(tensors: dict[str, Tensor], target: Path, source: Path, **facts: Any) -> None:
    mark = {"format": _FORMAT, "source": source.name, "sha256": sha256(source), **facts}
    save_tensors(tensors, target, {_MARK: json.dumps(mark)})


def _mark(path: Path) -> dict[str, Any] | None:
    """What our own file says about itself; None for any other file."""
    if path.suffix != SUFFIX:
        return None
    try:
        text = StoredTensors(path).metadata.get(_MARK)
        if text is not None and not isinstance(text, str):
            raise ValueError(f"its {_MARK} is no text")
        if text is not None and len(text) > _MARK_LENGTH:
            raise CheckpointError(
                f"{path}: its {_MARK} has {len(text):,} characters; at most {_MARK_LENGTH:,} "
                "allowed: it was not written by `gsv voices add`"
            )
        mark = None if text is None else json.loads(text)
    # JSON that is nested without end brings up RecursionError.
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {brief(error)}") from error
    if mark is not None and (not isinstance(mark, dict) or mark.get("format") != _FORMAT):
        raise CheckpointError(f"{path}: written by another version; add the voice again")
    return mark


def _want(path: Path, mark: dict[str, Any], kind: Kind) -> None:
    given = mark.get("kind")
    if given != kind.value:
        told = brief(given) if isinstance(given, str) else shown(given)
        raise CheckpointError(f"{path}: holds a {told}, wanted: a {kind.value}")


def _same(path: Path, config: Any, base: Any) -> None:
    given, wanted = dataclasses.asdict(config), dataclasses.asdict(base)
    other = [
        f"{key} {given[key]} instead of {wanted[key]}" for key in given if given[key] != wanted[key]
    ]
    if other:
        raise CheckpointError(
            f"{path}: is of another shape than the base model: {', '.join(other)}; "
            "it was not fine-tuned from the weights that this repository serves"
        )


def _stored_lora(path: Path, mark: dict[str, Any], base: SoVITSConfig) -> Lora:
    halves: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for name, value in StoredTensors(path).read().items():
        for half, ending in (("A", _DOWN), ("B", _UP)):
            if name.endswith(ending):
                halves.setdefault(name.removesuffix(ending), {})[half] = value
                break
        else:
            replaced[name] = value
    rank = check_lora(path, mark.get("rank"), halves, replaced, base)
    pairs = {name: LowRank(pair["A"], pair["B"]) for name, pair in halves.items()}
    return Lora(rank, pairs, replaced, [], [])
