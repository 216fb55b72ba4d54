"""Brings files of known size and checksum over HTTP.

A broken transfer is taken up where it stopped, now or by the next call: bytes go to ``NAME.part``,
which becomes ``NAME`` when its checksum is right.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from gsv import __version__
from gsv.errors import CheckpointError

# Called with the file's path, the bytes that have arrived, and its size in bytes.
Progress = Callable[[str, int, int], None]

TIMEOUT = 60.0  # seconds without a byte
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors
_BLOCK = 1 << 18  # bytes read at a time
_ATTEMPTS = 5  # in a row without a new byte


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """One file; a sum that is not known is ""."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where files come from, for messages.

    Attributes:
        name: an address.
        advice: what to do when it fails.
        retry_delay: seconds before the second attempt; doubled before each further one.
    """

    name: str
    advice: str
    retry_delay: float = 1.0

    def failed(self, what: str, why: str) -> CheckpointError:
        """The error for a file that can't be downloaded."""
        return CheckpointError(
            f"{what}: can't be downloaded from {self.name}: {why}; {self.advice}"
        )

    def download(self, address: str, file: RemoteFile, folder: Path, progress: Progress) -> Path:
        """Bring one file into ``folder``, unless it is there already and right.

        Raises:
            CheckpointError: the transfer keeps breaking, or what came has another checksum.
        """
        target = folder / file.path
        if target.is_file() and target.stat().st_size == file.size and is_right(target, file):
            progress(file.path, file.size, file.size)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        self._transfer(address, file, part, progress)
        if not is_right(part, file):
            part.unlink()
            raise CheckpointError(
                f"{file.path}: what came from {self.name} has another checksum than it should "
                f"have and was thrown away; try again, or {self.advice}"
            )
        part.replace(target)
        return target

    def _transfer(self, address: str, file: RemoteFile, part: Path, progress: Progress) -> None:
        attempt = 0
        while True:
            here = part.stat().st_size if part.exists() else 0
            if here > file.size:  # of another version
                part.unlink()
                here = 0
            if here == file.size:
                part.touch()
                return
            problem: str = "the connection ended early"
            try:
                self._receive(address, file, part, here, progress)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code < 500 and error.code != 416:
                    raise self.failed(file.path, f"HTTP {error.code} {error.reason}") from error
                if error.code == 416:  # the part on disk is not a beginning of the file
                    part.unlink(missing_ok=True)
                problem = f"HTTP {error.code} {error.reason}"
            except _BROKEN as error:
                problem = str(error) or type(error).__name__
            now = part.stat().st_size if part.exists() else 0
            attempt = 0 if now > here else attempt + 1
            if attempt == _ATTEMPTS:
                raise self.failed(file.path, f"{problem}; what came so far is kept")
            if now < file.size:
                time.sleep(self.retry_delay * 2**attempt)

    def _receive(
        self, address: str, file: RemoteFile, part: Path, here: int, progress: Progress
    ) -> None:
        headers = {"Range": f"bytes={here}-"} if here else {}
        with _opened(address, headers) as response:
            if here and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                here = 0  # a server without ranges sends the whole file
            with _writable(part, append=here > 0) as output:
                while block := response.read(_BLOCK):
                    here += len(block)
                    if here > file.size:
                        raise self.failed(file.path, f"more than the {file.size:,} bytes told")
                    _write(output, block, part)
                    progress(file.path, here, file.size)


def _opened(address: str, headers: dict[str, str]) -> Any:
    """The answer to a GET, to be closed by the caller."""
    own = {"User-Agent": f"gsv/{__version__}"}
    request = urllib.request.Request(address, headers=own | headers)
    return urllib.request.urlopen(request, timeout=TIMEOUT)


# A disk that refuses is not a broken connection: it must not be tried again.


def _writable(path: Path, *, append: bool) -> BinaryIO:
    try:
        return path.open("ab" if append else "wb", buffering=0)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written: {error.strerror}") from error


def _write(output: BinaryIO, block: bytes, path: Path) -> None:
    try:
        output.write(block)
    except OSError as error:
        raise CheckpointError(f"{path}: can't be written: {error.strerror}") from error


def is_right(path: Path, file: RemoteFile) -> bool:
    """Whether the file has the sum that is known; the size where none is."""
    if file.sha256:
        return _sum(path, hashlib.sha256()) == file.sha256
    if file.git_sha1:
        blob = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        return _sum(path, blob) == file.git_sha1
    return path.stat().st_size == file.size


def _sum(path: Path, digest: Any) -> str:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return str(digest.hexdigest())
