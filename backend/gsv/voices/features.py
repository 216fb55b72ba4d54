"""Features of a voice's references, kept on disk beside the voice.

Encoding a reference takes seconds on a CPU, so what comes out is written into the hidden folder
``.cache`` of the voice, where every instance of every server finds it. A file is named by the sum
of all that it depends on: recording and text, the encoder's weights and settings, this package's
version. It is written beside its place and renamed, checked when it is read, and computed anew when
it is broken; where nothing can be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from gsv.voices.files import open_regular
from gsv.voices.voice import Voice, VoiceEntry

logger = logging.getLogger(__name__)

Arrays = dict[str, NDArray[Any]]
FOLDER = ".cache"
SUFFIX = ".safetensors"
FILE_LIMIT = 32 << 20  # bytes; ten seconds have some 3 MB
_FORMAT = 1
_MARK = "gsv_features"  # metadata key
_KEY_CHARACTERS = 32
# Files of one kind for each reference: those of a few servers with different weights or settings.
_FILES_A_REFERENCE = 4
_ABANDONED_SECONDS = 600.0  # until a file that was never renamed is deleted


class _Broken(Exception):
    """A file that is not what was written."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a stored array must be: its type, its shape with None for any length, the ids' limit."""

    dtype: type[np.generic]
    shape: tuple[int | None, ...]
    below: int | None = None

    def fits(self, array: NDArray[Any]) -> bool:
        """Whether ``array`` is so, and all its values are finite or ids within the limit."""
        return (
            array.dtype == self.dtype
            and len(array.shape) == len(self.shape)
            and all(n in (None, m) for n, m in zip(self.shape, array.shape, strict=True))
            and bool(np.isfinite(array).all())
            and (self.below is None or bool(((array >= 0) & (array < self.below)).all()))
        )


class FeatureStore:
    """One kind of features of all voices.

    Args:
        kind: a word, the beginning of the files' names.
        encoder: stands for the weights and settings that make the features; None where they are
            not known for sure, and nothing is kept.
        layout: of each array.
    """

    def __init__(self, kind: str, encoder: str | None, layout: Mapping[str, Layout]) -> None:
        self._kind = kind
        self._encoder = encoder
        self._layout = layout

    def key(self, voice: Voice, own: str = "") -> str:
        """A key for everything that the features of ``voice`` depend on.

        Args:
            own: stands for the voice's own part in making them.
        """
        parts = [_FORMAT, self._kind, self._encoder, voice.content, own]
        digest = hashlib.sha256(json.dumps(parts).encode())
        return digest.hexdigest()[:_KEY_CHARACTERS]

    def load(self, voice: Voice, key: str) -> Arrays | None:
        """The arrays under ``key``; None where they are not, or broken (which is logged)."""
        if self._encoder is None:
            return None
        try:
            with _opened(voice.folder) as folder:
                arrays, _ = _read(folder, self._name(key))
            self._check(arrays)
        except _Broken as error:
            logger.warning(
                "voice %s: %s/%s is broken and made anew: %s",
                voice.name, FOLDER, self._name(key), error,
            )  # fmt: skip
        except OSError:
            pass
        else:
            return arrays
        return None

    def save(self, voice: Voice, key: str, arrays: Arrays) -> None:
        """Keep ``arrays`` under ``key``, if the folder can be written."""
        if self._encoder is None:
            return
        try:
            with contextlib.suppress(FileExistsError):
                # Not its parents: a voice that has been removed must not come back.
                os.mkdir(voice.folder / FOLDER)
            with _opened(voice.folder) as folder:
                _write(folder, self._name(key), _packed(arrays, voice.content))
                self._clean(folder, _FILES_A_REFERENCE * (1 + len(voice.references)))
        except OSError as error:  # read-only, full, or gone: it is a cache
            logger.info("voice %s: its features are not kept: %s", voice.name, error)

    def _name(self, key: str) -> str:
        return f"{self._kind}-{key}{SUFFIX}"

    def _check(self, arrays: Arrays) -> None:
        wrong = [n for n, wanted in self._layout.items() if not _fits(arrays.get(n), wanted)]
        if wrong or len(arrays) != len(self._layout):
            raise _Broken(f"wrong arrays {wrong or sorted(arrays)}")

    def _clean(self, folder: int, most: int) -> None:
        """Delete the oldest files of this kind beyond ``most``, and what was never finished."""
        kept: list[tuple[float, str]] = []
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):  # another instance cleans up, too
                changed = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
                if name.startswith(f"{self._kind}-"):
                    kept.append((changed, name))
                elif name.startswith(".") and changed < time.time() - _ABANDONED_SECONDS:
                    os.unlink(name, dir_fd=folder)
        for _, name in sorted(kept)[: max(0, len(kept) - most)]:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)


@dataclasses.dataclass(frozen=True)
class KeptFile:
    """One file of a voice's cache, for people.

    Attributes:
        name: of the file.
        size: bytes.
        content: of the reference that it belongs to (``Voice.content``); "" for a broken file.
        problem: what is wrong with it.
    """

    name: str
    size: int
    content: str
    problem: str = ""

    @property
    def kind(self) -> str:
        """The first word of its name."""
        return self.name.partition("-")[0]


def kept_files(folder: Path) -> list[KeptFile]:
    """All files in the cache of the voice in ``folder``, each read and checked."""
    found = []
    try:
        with _opened(folder) as cache:
            for name in sorted(os.listdir(cache)):
                if name.startswith("."):
                    continue
                size = os.stat(name, dir_fd=cache, follow_symlinks=False).st_size
                try:
                    _, content = _read(cache, name)
                    found.append(KeptFile(name, size, content))
                except (_Broken, OSError) as error:
                    found.append(KeptFile(name, size, "", str(error)))
    except OSError:  # there is none
        return found
    return found


def describe_kept(entry: VoiceEntry) -> dict[str, Any]:
    """What a voice's cache holds: kinds by reference, outdated and broken files, bytes."""
    files = kept_files(entry.base.folder)
    voices = {voice.content: voice.name for voice in (entry.base, *entry.others.values())}
    current = [file for file in files if file.content in voices]
    return {
        "kept": {
            name: sorted({file.kind for file in current if voices[file.content] == name})
            for name in voices.values()
        },
        "outdated": sum(not file.problem for file in files) - len(current),
        "broken": [
            file.name.encode("utf-8", "backslashreplace").decode("utf-8")
            for file in files
            if file.problem
        ],
        "bytes": sum(file.size for file in files),
    }


@contextlib.contextmanager
def _opened(voice: Path) -> Iterator[int]:
    """The cache's folder, which is never a link that somebody laid there."""
    handle = os.open(voice / FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _read(folder: int, name: str) -> tuple[Arrays, str]:
    with open_regular(name, folder, os.O_NOFOLLOW) as file:
        data = file.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        raise _Broken(f"longer than {FILE_LIMIT:,} bytes")
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        mark = json.loads(header["__metadata__"][_MARK])
        version, total, content = mark["format"], mark["sha256"], str(mark["content"])
        arrays: Arrays = safetensors.numpy.load(data)
    except (ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise _Broken("it is not a file of this cache") from error
    if version != _FORMAT or total != _sum(arrays, content):
        raise _Broken("its sum or its format differs")
    return arrays, content


def _packed(arrays: Arrays, content: str) -> bytes:
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    mark = {"format": _FORMAT, "content": content, "sha256": _sum(whole, content)}
    return safetensors.numpy.save(whole, {_MARK: json.dumps(mark)})


def _sum(arrays: Arrays, content: str) -> str:
    digest = hashlib.sha256(content.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _write(folder: int, name: str, data: bytes) -> None:
    """Under a name of its own first: readers find the whole file or none."""
    aside = f".{uuid.uuid4().hex}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(aside, flags, 0o666, dir_fd=folder), "wb") as file:
        try:
            file.write(data)
            file.flush()
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.unlink(aside, dir_fd=folder)
            raise


def _fits(array: NDArray[Any] | None, wanted: Layout) -> bool:
    return array is not None and wanted.fits(array)
