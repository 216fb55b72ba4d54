"""Gets the official files from the Hugging Face hub or a mirror of it.

A broken transfer is taken up where it stopped, now or by the next call: bytes go to ``NAME.part``,
which becomes ``NAME`` when its checksum is right. The hub gives SHA-256 sums for large files and
Git's SHA-1 for small ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from gsv import __version__
from gsv.errors import CheckpointError

ENDPOINT = "https://huggingface.co"
REPOSITORY = "lj1995/GPT-SoVITS"
OFFICIAL_FILES = (
    "s1v3.ckpt",
    "gsv-v4-pretrained/s2Gv4.pth",
    "gsv-v4-pretrained/vocoder.pth",
    "chinese-hubert-base/config.json",
    "chinese-hubert-base/preprocessor_config.json",
    "chinese-hubert-base/pytorch_model.bin",
    "chinese-roberta-wwm-ext-large/config.json",
    "chinese-roberta-wwm-ext-large/tokenizer.json",
    "chinese-roberta-wwm-ext-large/pytorch_model.bin",
)

# Called with the file's path, the bytes that are here, and all its bytes.
Progress = Callable[[str, int, int], None]

_BLOCK = 1 << 18  # bytes read at a time
_TIMEOUT = 60.0  # seconds without a byte
_ATTEMPTS = 5  # in a row without a new byte
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors


@dataclasses.dataclass(frozen=True)
class RemoteFile:
    """One file of the hub's repository; a sum that the hub did not give is ""."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


class Hub:
    """A hub's repository of models."""

    def __init__(
        self, endpoint: str = ENDPOINT, repository: str = REPOSITORY, *, patience: float = 1.0
    ) -> None:
        """``patience``: seconds before the second attempt; doubled before each further one."""
        parts = urllib.parse.urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CheckpointError(f"endpoint {endpoint!r}: allowed: http:// or https:// addresses")
        self._root = endpoint.rstrip("/")
        self._repository = repository
        self._patience = patience

    def describe(self, paths: Sequence[str]) -> list[RemoteFile]:
        """Sizes and sums of the files.

        Raises:
            CheckpointError: the hub can't be reached, or does not have one of them.
        """
        known = self._tree()
        files = [known.get(path) or self._head(path) for path in paths]
        if lacking := [path for path, file in zip(paths, files, strict=True) if file is None]:
            raise CheckpointError(
                f"{self._root}/{self._repository} does not have {', '.join(lacking)}"
            )
        return [file for file in files if file is not None]

    def download(self, file: RemoteFile, folder: Path, progress: Progress) -> Path:
        """Bring one file into ``folder``, unless it is there already and right.

        Raises:
            CheckpointError: the transfer keeps breaking, or what came has another checksum.
        """
        target = folder / file.path
        if target.is_file() and target.stat().st_size == file.size and _is_right(target, file):
            progress(file.path, file.size, file.size)
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        self._transfer(file, part, progress)
        if not _is_right(part, file):
            part.unlink()
            raise CheckpointError(
                f"{file.path}: what came from {self._root} has another checksum than the hub "
                "tells; try again, or another endpoint"
            )
        part.replace(target)
        return target

    def _transfer(self, file: RemoteFile, part: Path, progress: Progress) -> None:
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
                self._receive(file, part, here, progress)
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code != 416:
                    raise self._failed(file.path, f"HTTP {error.code} {error.reason}") from error
                if error.code == 416:  # the part on disk is not a beginning of the file
                    part.unlink(missing_ok=True)
                problem = f"HTTP {error.code} {error.reason}"
            except _BROKEN as error:
                problem = str(error) or type(error).__name__
            now = part.stat().st_size if part.exists() else 0
            attempt = 0 if now > here else attempt + 1
            if attempt == _ATTEMPTS:
                raise self._failed(file.path, f"{problem}; what came so far is kept")
            if now < file.size:
                time.sleep(self._patience * 2**attempt)

    def _receive(self, file: RemoteFile, part: Path, here: int, progress: Progress) -> None:
        headers = {"Range": f"bytes={here}-"} if here else {}
        with self._open(self._address(file.path), headers) as response:
            if here and response.status != http.HTTPStatus.PARTIAL_CONTENT:
                here = 0  # a server that knows no ranges sends all of it
            with _writable(part, append=here > 0) as output:
                while block := response.read(_BLOCK):
                    here += len(block)
                    if here > file.size:
                        raise self._failed(file.path, f"more than the {file.size:,} bytes told")
                    _write(output, block, part)
                    progress(file.path, here, file.size)

    def _tree(self) -> dict[str, RemoteFile]:
        """All files by path; empty where a mirror has no such list."""
        address = f"{self._root}/api/models/{self._repository}/tree/main?recursive=1"
        files: dict[str, RemoteFile] = {}
        while address:
            try:
                with self._open(address) as response:
                    entries, link = json.load(response), response.headers.get("Link") or ""
            except urllib.error.HTTPError as error:
                if error.code in (404, 405):
                    return {}
                raise self._failed("list of files", f"HTTP {error.code}") from error
            except (*_BROKEN, ValueError) as error:
                raise self._failed("list of files", str(error)) from error
            files |= {file.path: file for file in map(_entry, entries) if file is not None}
            following = re.search(r'<([^>]+)>;\s*rel="next"', link)
            address = urllib.parse.urljoin(address, following[1]) if following else ""
        return files

    def _head(self, path: str) -> RemoteFile | None:
        """What the answer to HEAD tells; the sums stand in the redirect to the store."""
        request = urllib.request.Request(self._address(path), method="HEAD")
        opener = urllib.request.build_opener(_StayHere)
        try:
            with opener.open(request, timeout=_TIMEOUT) as response:
                headers = response.headers
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if not 300 <= error.code < 400:
                raise self._failed(path, f"HTTP {error.code}") from error
            headers = error.headers
        except _BROKEN as error:
            raise self._failed(path, str(error)) from error
        size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
        tag = (headers.get("X-Linked-Etag") or "").removeprefix("W/").strip('"')
        if not size.isdigit():
            raise self._failed(path, "the hub does not tell its size")
        return RemoteFile(path, int(size), sha256=tag if _SHA256.fullmatch(tag) else "")

    def _address(self, path: str) -> str:
        return f"{self._root}/{self._repository}/resolve/main/{urllib.parse.quote(path)}"

    def _open(self, address: str, headers: dict[str, str] | None = None) -> Any:
        own = {"User-Agent": f"gsv/{__version__}"}
        request = urllib.request.Request(address, headers=own | (headers or {}))
        return urllib.request.urlopen(request, timeout=_TIMEOUT)

    def _failed(self, what: str, why: str) -> CheckpointError:
        return CheckpointError(
            f"{what}: can't be had from {self._root}/{self._repository}: {why}; "
            "check the connection, or set HF_ENDPOINT to a mirror"
        )


# A disk that refuses is no broken connection: it must not be tried again.


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


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Reports a redirect in place of following it."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _entry(entry: Any) -> RemoteFile | None:
    match entry:
        case {"type": "file", "path": str(path), "size": int(size), "lfs": {"oid": str(oid)}}:
            return RemoteFile(path, size, sha256=oid)
        case {"type": "file", "path": str(path), "size": int(size), "oid": str(oid)}:
            return RemoteFile(path, size, git_sha1=oid)
    return None


def _is_right(path: Path, file: RemoteFile) -> bool:
    """Whether the file has the sum that the hub told; the size where it told none."""
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


def download_official(hub: Hub, folder: Path, progress: Progress) -> None:
    """Bring all official files of v4 into ``folder``, in upstream's layout.

    Raises:
        CheckpointError: the hub can't be reached, lacks a file, or the disk is too small.
    """
    files = hub.describe(OFFICIAL_FILES)
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(f.size for f in files if not (folder / f.path).is_file())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise CheckpointError(f"{folder}: {missing:,} bytes to come, {free:,} free on the disk")
    for file in files:
        hub.download(file, folder, progress)
