"""Tensors on disk, and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
from torch import Tensor

from gsv.checkpoints.unpickle import brief
from gsv.errors import CheckpointError
from gsv.voices.files import open_regular

_HEADER_LIMIT = 16 << 20  # bytes; a GPT's has 30,000


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file; views are written as tensors of their own.

    Raises:
        CheckpointError, OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory, as tied weights of a source file do.
    seen: set[int] = set()
    own = {}
    for name, value in tensors.items():
        shared = value.untyped_storage().data_ptr() in seen
        own[name] = value.contiguous().clone() if shared else value.contiguous()
        seen.add(own[name].untyped_storage().data_ptr())
    try:
        safetensors.torch.save_file(own, path, metadata={"format": "pt", **(metadata or {})})
    except safetensors.SafetensorError as error:  # the disk is full
        raise CheckpointError(f"{path}: can't be written: {brief(error)}") from error


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


class StoredTensors:
    """A safetensors file that others may write, replace or cut at any moment.

    It is read and not mapped: memory over a file that is cut ends the process (SIGBUS). And only a
    regular file is opened: a pipe would let the reader wait, with Python's lock.

    Raises:
        CheckpointError: it is damaged.
        OSError: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_regular(path) as file:
            self._text = _header_text(file)
        header = self._parsed(self._text)
        self.metadata: dict[str, Any] = header.pop("__metadata__", None) or {}
        self._header = header

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Of each tensor."""
        return {name: self._entry(name)["shape"] for name in self._header}

    def read(self, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """The tensors whose names are wanted."""
        header, parts, end = {}, [], 0
        with open_regular(self._path) as file:
            if _header_text(file) != self._text:
                raise self._damaged("it changed while it was read")
            start, size = file.tell(), os.fstat(file.fileno()).st_size
            for name in filter(wanted, self._header):
                entry = self._entry(name)
                begin, after = entry["data_offsets"]
                if start + after > size:
                    raise self._damaged(f"it ends before tensor {name[:80]!r} does")
                file.seek(start + begin)
                parts.append(file.read(after - begin))
                header[name] = {**entry, "data_offsets": [end, end + after - begin]}
                end += after - begin
        text = json.dumps(header).encode()
        data = b"".join((len(text).to_bytes(8, "little"), text, *parts))
        del parts
        try:
            return safetensors.torch.load(data)  # which checks lengths and shapes
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise self._damaged(error) from error

    def _parsed(self, text: bytes) -> dict[str, Any]:
        try:
            header = json.loads(text)
        # JSON that is nested without end brings up RecursionError.
        except (ValueError, RecursionError) as error:
            raise self._damaged(error) from error
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
            raise self._damaged("its header is no table of tensors")
        return header

    def _entry(self, name: str) -> dict[str, Any]:
        entry = self._header[name]
        try:
            numbers = [*entry["data_offsets"], *entry["shape"]]
            begin, end = entry["data_offsets"]
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged(error) from error
        if not all(type(n) is int and n >= 0 for n in numbers) or begin > end:
            raise self._damaged(f"tensor {name[:80]!r} has no place")
        return dict(entry)

    def _damaged(self, why: object) -> CheckpointError:
        return CheckpointError(f"{self._path}: damaged safetensors file: {brief(why)}")


def _header_text(file: BinaryIO) -> bytes:
    """The header of a safetensors file, which is behind it then; empty where it is too long."""
    length = int.from_bytes(file.read(8), "little")
    return file.read(length) if length <= _HEADER_LIMIT else b""


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
        exchange(target, staged, work / "old")
        _flush_one(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def exchange(target: Path, staged: Path, old: Path) -> None:
    """Give ``staged`` the name ``target``, and what had it the name ``old``.

    ``target`` is there afterwards also where this is interrupted, by Ctrl-C too.
    """
    try:
        if target.exists():
            target.rename(old)
        staged.rename(target)
    except BaseException:  # Ctrl-C too: the name must lead somewhere
        if old.exists() and not target.exists():
            old.rename(target)
        raise


def _flush(folder: Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            path = Path(parent) / name
            # Something else that was put there, such as a pipe, holds up nobody.
            if stat.S_ISREG(path.lstat().st_mode):
                _flush_one(path)
        _flush_one(Path(parent))


def _flush_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
