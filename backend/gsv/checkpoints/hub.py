"""Gets the official files from the Hugging Face hub or a mirror of it.

The hub gives SHA-256 sums for large files and Git's SHA-1 for small ones.
"""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gsv.checkpoints.download import (
    BROKEN,
    TIMEOUT,
    Progress,
    RemoteFile,
    Source,
    open_address,
)
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

_SHA256 = re.compile(r"[0-9a-f]{64}")


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
        self._source = Source(
            f"{self._root}/{repository}",
            "check the connection, or set HF_ENDPOINT to a mirror",
            patience,
        )

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
        return self._source.download(self._address(file.path), file, folder, progress)

    def _tree(self) -> dict[str, RemoteFile]:
        """All files by path; empty where a mirror has no such list."""
        address = f"{self._root}/api/models/{self._repository}/tree/main?recursive=1"
        files: dict[str, RemoteFile] = {}
        while address:
            try:
                with open_address(address) as response:
                    entries, link = json.load(response), response.headers.get("Link") or ""
            except urllib.error.HTTPError as error:
                if error.code in (404, 405):
                    return {}
                raise self._source.failed("list of files", f"HTTP {error.code}") from error
            except (*BROKEN, ValueError) as error:
                raise self._source.failed("list of files", str(error)) from error
            files |= {file.path: file for file in map(_entry, entries) if file is not None}
            following = re.search(r'<([^>]+)>;\s*rel="next"', link)
            address = urllib.parse.urljoin(address, following[1]) if following else ""
        return files

    def _head(self, path: str) -> RemoteFile | None:
        """What the answer to HEAD tells; the sums stand in the redirect to the store."""
        request = urllib.request.Request(self._address(path), method="HEAD")
        opener = urllib.request.build_opener(_StayHere)
        try:
            with opener.open(request, timeout=TIMEOUT) as response:
                headers = response.headers
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if not 300 <= error.code < 400:
                raise self._source.failed(path, f"HTTP {error.code}") from error
            headers = error.headers
        except BROKEN as error:
            raise self._source.failed(path, str(error)) from error
        size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
        tag = (headers.get("X-Linked-Etag") or "").removeprefix("W/").strip('"')
        if not size.isdigit():
            raise self._source.failed(path, "the hub does not tell its size")
        return RemoteFile(path, int(size), sha256=tag if _SHA256.fullmatch(tag) else "")

    def _address(self, path: str) -> str:
        return f"{self._root}/{self._repository}/resolve/main/{urllib.parse.quote(path)}"


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
