"""Opens a checkpoint file of upstream or of a transformers folder, whatever its container.

Files that upstream saves for LoRA and v2Pro have the first two bytes of the zip archive, ``PK``,
replaced by two digits that name the version (``process_ckpt.py``: my_save2). The digits are kept as
``Checkpoint.header``; see ``archive`` for how such a file is read in place.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from gsv.checkpoints.archive import load_file, open_legacy, open_zip, tensor
from gsv.checkpoints.border import guarded
from gsv.checkpoints.unpickle import TensorRef, brief
from gsv.errors import CheckpointError

_ZIP_MARK = b"\x03\x04"
_SUMMED_BYTES = 8192  # upstream tells official files by the MD5 of so many bytes
# Tensors may share storages (tied weights), but a small file that asks for many times its size is
# made to exhaust memory.
_SIZE_RATIO, _SIZE_SLACK = 4, 1 << 20
_KEY_LENGTH = 300
_CONFIG_NODES, _CONFIG_DEPTH = 100_000, 32


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A file's content.

    Attributes:
        path: where it was read from.
        weights: tensors by upstream's key; they share one copy of the file.
        config: upstream's configuration as plain values, ``HParams`` objects as dicts.
        info: upstream's remark, such as ``GPT-e15``.
        header: the two digits in place of ``PK``, or "".
        fingerprint: MD5 of the first 8,192 bytes, by which upstream knows official files.
        layout: the top-level key that held the weights; "" for a plain state dict.
        extra: the other top-level entries as plain values (``lora_rank``, ``arch``, ...).
    """

    path: Path
    weights: dict[str, Tensor]
    config: dict[str, Any]
    info: str
    header: str
    fingerprint: str
    layout: str
    extra: dict[str, Any]


@guarded
def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.ckpt``, ``.pth``, ``.bin`` or ``.safetensors`` file without running code from it.

    Raises:
        CheckpointError: the file is missing, cut short, damaged, hostile, or no checkpoint; the
            message is one line that begins with the path.
    """
    data = load_file(path)
    start = bytes(data[:_SUMMED_BYTES])
    header = ""
    try:
        if start[2:4] == _ZIP_MARK:
            header = _header(start[:2])
            content, storages = open_zip(data)
        elif start[:1] == b"\x80":
            content, storages = open_legacy(data)
        elif start[8:9] == b"{":
            return _from_safetensors(path, bytes(data))
        else:
            raise CheckpointError(_strange(start))
        layout, found, rest = _find_weights(content)
        weights = {}
        budget = _SIZE_RATIO * len(data) + _SIZE_SLACK
        for key, ref in found.items():
            weights[key] = tensor(ref, storages)
            budget -= weights[key].nbytes
            if budget < 0:
                raise CheckpointError("its tensors claim far more memory than the file has bytes")
        rest = _Plain().of(rest)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    config, info = rest.pop("config", None), rest.pop("info", None)
    return Checkpoint(
        path=path,
        weights=weights,
        config=config if isinstance(config, dict) else {},
        info=info if isinstance(info, str) else "",
        header=header,
        fingerprint=_fingerprint(start),
        layout=layout,
        extra=rest,
    )


def _from_safetensors(path: Path, data: bytes) -> Checkpoint:
    try:
        weights = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"damaged safetensors file: {brief(error)}") from error
    except KeyError as error:  # of the table of torch's types
        raise CheckpointError(
            f"it has numbers of the kind {brief(error.args[0])}, which can't be read; "
            "weight files have F16, BF16 or F32"
        ) from error
    _check_names(weights)
    return Checkpoint(path, weights, {}, "", "", _fingerprint(data), "", {})


def _fingerprint(data: bytes) -> str:
    return hashlib.md5(data[:_SUMMED_BYTES], usedforsecurity=False).hexdigest()


def _header(first: bytes) -> str:
    if first == b"PK":
        return ""
    if not first.isdigit():
        raise CheckpointError(
            f"it begins with {brief(first)}; a checkpoint begins with PK or 00 to 06"
        )
    return first.decode("ascii")


def _strange(start: bytes) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file itself; run `git lfs pull` or download it"
    if start.lstrip()[:1] == b"<":
        return "it is a web page, not a checkpoint; the download went wrong"
    return "it is not a checkpoint: neither a zip archive, a torch stream nor safetensors"


def _find_weights(content: Any) -> tuple[str, dict[str, TensorRef], dict[str, Any]]:
    """The layout's key, the tensors, and everything else at the top level."""
    if not isinstance(content, dict):
        raise CheckpointError("it holds no table of tensors")
    # "weight" is upstream's; the others are training states and foreign files, read so that they
    # can be named in an error.
    for layout in ("weight", "state_dict", "model", "generator"):
        inner = content.get(layout)
        if isinstance(inner, dict) and any(isinstance(v, TensorRef) for v in inner.values()):
            rest = {k: v for k, v in content.items() if k != layout}
            return layout, _tensors_of(inner), rest
    found = _tensors_of(content)
    if not found:
        raise CheckpointError("it holds no tensors")
    return "", found, {k: v for k, v in content.items() if k not in found}


def _tensors_of(table: dict[Any, Any]) -> dict[str, TensorRef]:
    found = {str(k): v for k, v in table.items() if isinstance(v, TensorRef)}
    _check_names(found)
    return found


def _check_names(table: Iterable[str]) -> None:
    for key in table:  # they go into messages and files
        if len(key) > _KEY_LENGTH or not key.isprintable():
            raise CheckpointError(f"it has a tensor with a strange name: {brief(key)}")


class _Plain:
    """Copies configuration into plain values; bounded, because a pickle can nest without end."""

    def __init__(self) -> None:
        self._nodes = 0

    def of(self, value: Any, depth: int = 0) -> Any:
        self._nodes += 1
        if self._nodes > _CONFIG_NODES or depth > _CONFIG_DEPTH:
            raise CheckpointError("its configuration is nested without end")
        if isinstance(value, dict):
            return {str(k): self.of(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple, set)):
            return [self.of(v, depth + 1) for v in value]
        if isinstance(value, (str, int, float, type(None))):
            return value
        return f"<{type(value).__name__}>"  # tensors of an optimizer, bytes: of no use here
