"""The two containers that torch has written: the zip archive (1.6 and later) and the older stream.

Both give the unpickled object and the storages, as tensors that view one copy of the file in
memory: a file of 1.5 GB takes 1.5 GB. All sizes are checked against the file before anything is
built on them.
"""

from __future__ import annotations

import functools
import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from gsv.checkpoints.unpickle import (
    DIMENSIONS,
    LEGACY_MAGIC,
    PICKLE_LIMIT,
    StorageRef,
    TensorRef,
    unpickle,
)
from gsv.errors import CheckpointError
from gsv.voices.files import open_regular

FILE_LIMIT = 8 << 30  # bytes; the largest official file has 0.8 GB, 1.5 GB in float32
ENTRY_LIMIT = 100_000  # storages; the largest official file has 685
# Bytes of an archive's directory: 46 and a name an entry. Checked before zipfile makes an object of
# each entry, whatever number of them the file tells.
_DIRECTORY_LIMIT = 128 * ENTRY_LIMIT

_LOCAL_HEADER = struct.Struct("<2s2s22xHH")  # "PK", 03 04, …, length of name, length of extra field
_LEGACY_PROTOCOL = 1001

Storages = Callable[[StorageRef], Tensor]


def load_file(path: Path) -> mmap.mmap:
    """The whole file in private memory that behaves like a file.

    Not mapped: a file that is cut while it is mapped kills the process that reads it, and people
    copy new weights over old ones.

    Raises:
        CheckpointError: it is not there, can't be read, is empty or too large.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > FILE_LIMIT:
                raise CheckpointError(f"{path}: {size:,} bytes; at most {FILE_LIMIT:,} allowed")
            if size == 0:
                raise CheckpointError(f"{path}: the file is empty")
            data = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with memoryview(data) as view:
                filled = 0
                while filled < size and (count := os.readv(file.fileno(), [view[filled:]])):
                    filled += count
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror}") from error
    if filled < size:
        raise CheckpointError(f"{path}: became shorter while it was read")
    return data


def _dtype(ref: StorageRef) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, ref.dtype)
    return dtype


def _view(data: mmap.mmap, start: int, count: int, dtype: torch.dtype) -> Tensor:
    size = count * dtype.itemsize
    if start + size > len(data):
        raise CheckpointError("a storage lies outside the file: it is cut short")
    if count == 0:
        return torch.empty(0, dtype=dtype)
    if start % dtype.itemsize:  # never in files that torch wrote in zip form
        return torch.frombuffer(bytearray(data[start : start + size]), dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start)


def tensor(ref: TensorRef, storages: Storages) -> Tensor:
    """The tensor that ``ref`` describes; CheckpointError when it reaches outside its storage."""
    shape, stride, offset = ref.shape, ref.stride, ref.offset
    for numbers in (shape, stride, (offset,)):
        plain = isinstance(numbers, tuple) and all(
            type(n) is int and 0 <= n < 1 << 63 for n in numbers
        )
        if not plain or len(numbers) > DIMENSIONS:
            raise CheckpointError("it has a tensor with an impossible shape, stride or offset")
    if len(shape) != len(stride):
        raise CheckpointError("it has a tensor with an impossible stride")
    elements = 1
    for n in shape:
        elements *= n
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if elements else 0
    # A view larger than its storage repeats elements: a small file could ask for endless memory.
    if last >= max(ref.storage.count, 1) or elements > ref.storage.count:
        raise CheckpointError(
            f"it has a tensor of shape {list(shape)} that reaches outside its storage of "
            f"{ref.storage.count} elements"
        )
    return storages(ref.storage).as_strided(shape, stride, offset)


class _Directory:
    """The file as zipfile reads it to find the entries, which takes one read for all of them."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.seek, self.tell = data.seek, data.tell

    def read(self, size: int = -1) -> bytes:
        left = len(self._data) - self._data.tell()
        wanted = left if size < 0 else min(size, left)
        if wanted > _DIRECTORY_LIMIT:
            raise CheckpointError(
                f"it has a directory of {wanted:,} bytes; at most {_DIRECTORY_LIMIT:,} allowed"
            )
        return self._data.read(wanted)


def open_zip(data: mmap.mmap) -> tuple[Any, Storages]:
    """Read a zip archive whose first two bytes may have been replaced (``reader`` explains).

    The directory at the end of the archive is intact even then, so nothing needs repairing: the
    entries are found through it and viewed in place.
    """
    try:
        with zipfile.ZipFile(cast(BinaryIO, _Directory(data))) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OSError) as error:
        raise CheckpointError(
            f"its end is missing or damaged, it has {len(data):,} bytes; get the file again"
        ) from error
    if len(entries) > ENTRY_LIMIT:
        raise CheckpointError(f"it has {len(entries):,} entries; at most {ENTRY_LIMIT:,} allowed")
    # torch never compresses and never overlaps; files made to exhaust time or memory do.
    if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
        raise CheckpointError("it has compressed or encrypted entries, which torch never writes")
    if sum(e.file_size for e in entries) > len(data):
        raise CheckpointError("its entries claim more bytes than the file has")
    pickles = [
        e for e in entries if e.filename.count("/") == 1 and e.filename.endswith("/data.pkl")
    ]
    if len(pickles) != 1:
        raise CheckpointError("it is a zip archive, but not one that torch.save wrote")
    root = pickles[0].filename.removesuffix("data.pkl")
    by_name = {e.filename: e for e in entries}
    if root + "constants.pkl" in by_name:
        raise CheckpointError("it is a TorchScript program; wanted: a file of torch.save")
    if root + "byteorder" in by_name:
        start, size = _extent(data, by_name[root + "byteorder"])
        if data[start : start + min(size, 16)] != b"little":
            raise CheckpointError("its numbers are stored big-endian; not supported")
    start, size = _extent(data, pickles[0])
    if size > PICKLE_LIMIT:
        raise CheckpointError(f"its pickle has {size:,} bytes; at most {PICKLE_LIMIT:,} allowed")

    @functools.cache  # checked once; and a storage that has to be copied is copied once
    def storages(ref: StorageRef) -> Tensor:
        entry = by_name.get(f"{root}data/{ref.key}")
        if entry is None or entry.file_size != ref.count * _dtype(ref).itemsize:
            raise CheckpointError(f"storage {ref.key!r} is missing or has another size than told")
        start, size = _extent(data, entry)
        _check_sum(data, entry, start, size)
        return _view(data, start, ref.count, _dtype(ref))

    _check_sum(data, pickles[0], start, size)
    return unpickle(io.BytesIO(data[start : start + size])).value, storages


def _extent(data: mmap.mmap, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Start and size of an entry's bytes."""
    end_of_header = entry.header_offset + _LOCAL_HEADER.size
    if entry.header_offset < 0 or end_of_header > len(data):
        raise CheckpointError("an entry lies outside the file: it is cut short")
    _, mark, name, extra = _LOCAL_HEADER.unpack_from(data, entry.header_offset)
    start = end_of_header + name + extra
    if mark != b"\x03\x04" or entry.compress_size != entry.file_size:
        raise CheckpointError("an entry of the archive is damaged")
    if start + entry.file_size > len(data):
        raise CheckpointError("an entry lies outside the file: it is cut short")
    return start, entry.file_size


def _check_sum(data: mmap.mmap, entry: zipfile.ZipInfo, start: int, size: int) -> None:
    with memoryview(data) as view, view[start : start + size] as content:
        if zlib.crc32(content) != entry.CRC:
            raise CheckpointError("its content does not match its checksum: the file is damaged")


def open_legacy(data: mmap.mmap) -> tuple[Any, Storages]:
    """Read the stream of torch < 1.6: magic number, protocol, system, object, keys, storages."""
    stream = io.BytesIO(data[:PICKLE_LIMIT])
    if unpickle(stream).value != LEGACY_MAGIC or unpickle(stream).value != _LEGACY_PROTOCOL:
        raise CheckpointError("it is a pickle, but not one that torch.save wrote")
    system = unpickle(stream).value
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError("its numbers are stored big-endian; not supported")
    content, keys = unpickle(stream), unpickle(stream).value
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys):
        raise CheckpointError("its list of storages is damaged")
    starts: dict[str, int] = {}
    position = stream.tell()
    for key in keys:
        ref = content.storages.get(key)
        if ref is None:
            raise CheckpointError("it has a storage that no tensor uses: its size can't be known")
        if position + 8 > len(data):
            raise CheckpointError("a storage lies outside the file: it is cut short")
        (count,) = struct.unpack_from("<q", data, position)
        if count != ref.count:
            raise CheckpointError(f"storage {key!r} has another size than told")
        starts[key] = position + 8
        position += 8 + count * _dtype(ref).itemsize

    @functools.cache  # a storage that has to be copied is copied once
    def storages(ref: StorageRef) -> Tensor:
        if ref.key not in starts:
            raise CheckpointError(f"storage {ref.key!r} is missing")
        return _view(data, starts[ref.key], ref.count, _dtype(ref))

    return content.value, storages
