"""Tensors on disk, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from gsv.checkpoints.unpickle import brief
from gsv.errors import CheckpointError


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file; views are written as tensors of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory, as tied weights of a source file do.
    seen: set[int] = set()
    own = {}
    for name, value in tensors.items():
        shared = value.untyped_storage().data_ptr() in seen
        own[name] = value.contiguous().clone() if shared else value.contiguous()
        seen.add(own[name].untyped_storage().data_ptr())
    safetensors.torch.save_file(own, path, metadata={"format": "pt", **(metadata or {})})


def load_module_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a prepared file, for ``module.load_state_dict(..., strict=True)``.

    Raises:
        CheckpointError: the file is missing or no safetensors file.
    """
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; prepare the model repository with `gsv prepare`"
        ) from error
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged safetensors file: {brief(error)}") from error


@contextlib.contextmanager
def staged_folder(target: Path, *, replace: bool) -> Iterator[Path]:
    """A temporary folder beside ``target`` that takes its place when the block ends without error.

    Whatever happens, ``target`` is afterwards either what it was or complete: everything is on
    disk before the name changes.

    Raises:
        CheckpointError: ``target`` exists and may not be replaced, or the place can't be written.
    """
    target = target.absolute()
    if target.exists() and not replace:
        raise CheckpointError(f"{target}: exists already; choose another folder or use --force")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise CheckpointError(f"{target.parent}: can't be written: {error.strerror}") from error
    try:
        staged = work / "new"
        staged.mkdir()
        yield staged
        _flush(staged)
        if target.exists():
            target.rename(work / "old")
            try:
                staged.rename(target)
            except OSError:
                (work / "old").rename(target)
                raise
        else:
            staged.rename(target)
        _flush_one(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _flush(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _flush_one(Path(parent) / name)
        _flush_one(Path(parent))


def _flush_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
