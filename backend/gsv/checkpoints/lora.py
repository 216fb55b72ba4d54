"""A v4 LoRA file: what it adds to the base model, in our names.

Upstream merges ``W' = W + B·A`` (alpha equals the rank, so the scale is 1) into the query, key,
value and output projections of every block, after all other tensors of the file have replaced those
of the base (``TTS.py``: init_vits_weights). Half-precision buffers among them replace the base's,
too, ``inverse_frequencies`` included: the voice was trained and is heard with them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gsv.checkpoints.convert import expected_shapes, fold_weight_norm, shortened
from gsv.checkpoints.detect import Kind, require
from gsv.checkpoints.names import sovits as names
from gsv.checkpoints.reader import read_checkpoint
from gsv.checkpoints.unpickle import shown
from gsv.config import SoVITSConfig
from gsv.errors import CheckpointError
from gsv.models.sovits import SoVITS

_RANKS = range(1, 129)
_PEFT_PREFIX, _PREFIX = "cfm.base_model.model.", "cfm."
_PAIR = re.compile(
    r"(?P<base>cfm\.estimator\.transformer_blocks\.\d+\.attn\.(?:to_q|to_k|to_v|to_out\.0))"
    r"\.lora_(?P<half>[AB])\.default\.weight"
)


@dataclasses.dataclass(frozen=True)
class LowRank:
    """The change of one projection: ``up @ down`` is added to its weight."""

    down: Tensor  # [rank, in], upstream's A
    up: Tensor  # [out, rank], upstream's B

    def delta(self) -> Tensor:
        """The change [out, in] in float32."""
        return self.up.float() @ self.down.float()


@dataclasses.dataclass(frozen=True)
class Lora:
    """Everything that a LoRA file changes.

    Attributes:
        rank: common to all projections.
        projections: by the name of the weight they change.
        replaced: whole tensors that take the place of the base's, by name.
        unknown: keys of the file that no table knows; dropped.
        notes: for people.
    """

    rank: int
    projections: dict[str, LowRank]
    replaced: dict[str, Tensor]
    unknown: list[str]
    notes: list[str]

    def merge(self, base: dict[str, Tensor]) -> dict[str, Tensor]:
        """The base's tensors with this voice's in them; changed weights are float32."""
        merged = base | self.replaced
        for name, pair in self.projections.items():
            merged[name] = merged[name].float() + pair.delta()
        return merged


def read_lora(path: Path, base: SoVITSConfig) -> Lora:
    """Read a LoRA file for the base of the given shapes.

    Raises:
        CheckpointError: it is not a v4 LoRA file, or does not fit the base.
    """
    checkpoint = read_checkpoint(path)
    notes = require(checkpoint, Kind.SOVITS_LORA)
    halves: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    unknown = []
    for key, value in checkpoint.weights.items():
        plain = key.replace(_PEFT_PREFIX, _PREFIX, 1)
        try:
            if match := _PAIR.fullmatch(plain):
                name = names.rename(f"{match['base']}.weight")
                halves.setdefault(str(name), {})[match["half"]] = value
            elif (renamed := names.rename(plain)) is not None:
                others[renamed] = value
        except KeyError:
            unknown.append(key)
    replaced = fold_weight_norm(others)
    rank = check_lora(path, checkpoint.extra.get("lora_rank"), halves, replaced, base)
    projections = {name: LowRank(pair["A"], pair["B"]) for name, pair in halves.items()}
    return Lora(rank, projections, replaced, unknown, notes)


def check_lora(
    path: Path,
    rank: object,
    halves: Mapping[str, Mapping[str, Tensor]],
    replaced: Mapping[str, Tensor],
    base: SoVITSConfig,
) -> int:
    """The rank, if the matrices ``A`` and ``B`` by name and the whole tensors fit the base.

    Raises:
        CheckpointError: they don't.
    """
    shapes = expected_shapes(SoVITS, base)
    if type(rank) is not int or rank not in _RANKS:
        raise CheckpointError(
            f"{path}: lora_rank is {shown(rank)}; allowed: {_RANKS[0]} to {_RANKS[-1]}"
        )
    wrong = [
        name
        for name, pair in halves.items()
        if name not in shapes or set(pair) != {"A", "B"} or not _fits(pair, rank, shapes[name])
    ]
    wrong += [n for n, value in replaced.items() if n not in shapes or value.shape != shapes[n]]
    wrong += [n for n, value in replaced.items() if not value.isfinite().all()]
    wrong += [n for n, p in halves.items() if not all(v.isfinite().all() for v in p.values())]
    if wrong:
        raise CheckpointError(f"{path}: does not fit the base model of v4 in: {shortened(wrong)}")
    return rank


def _fits(pair: Mapping[str, Tensor], rank: int, shape: torch.Size) -> bool:
    return pair["A"].shape == (rank, shape[1]) and pair["B"].shape == (shape[0], rank)
