"""Gets the official files from the Hugging Face hub or a mirror of it.

``huggingface_hub`` tells what there is: size, sum and commit of each file. The bytes come by
``download``, as those of the text data do: it goes on wherever a transfer broke off, and checks
sums; the library gives up when a connection ends early, and checks sizes only.
"""

from __future__ import annotations

import re
import shutil
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from gsv.checkpoints.download import TIMEOUT, Progress, RemoteFile, Source
from gsv.errors import CheckpointError

ENDPOINT = "https://huggingface.co"
REPOSITORY = "lj1995/GPT-SoVITS"
REVISION = "main"
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

_SHA256 = re.compile(r"[0-9a-f]{64}")  # of large files
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # of small files, as Git counts it
_NOT_FOUND = 404


class Hub:
    """A hub's repository of models, at one commit.

    Args:
        endpoint: address of the hub or of a mirror.
        repository: owner and name.
        revision: a commit, tag or branch. What a branch points to when the first file is asked for
            holds for all further ones, so that no two files are of different commits.
        patience: seconds before the second attempt; doubled before each further one.
    """

    def __init__(
        self,
        endpoint: str = ENDPOINT,
        repository: str = REPOSITORY,
        revision: str = REVISION,
        *,
        aging: float = 1.0,
    ) -> None:
        parts = urllib.parse.urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CheckpointError(f"endpoint {endpoint!r}: allowed: http:// or https:// addresses")
        self._root = endpoint.rstrip("/")
        self._repository = repository
        self.revision = revision
        self._source = Source(
            f"{self._root}/{repository}",
            "check the connection, or set HF_ENDPOINT to a mirror",
            aging,
        )

    def describe(self, paths: Sequence[str]) -> list[RemoteFile]:
        """Sizes and sums of the files.

        Raises:
            CheckpointError: the hub can't be reached, or does not have one of them.
        """
        files = [self._look(path) for path in paths]
        if lacking := [path for path, file in zip(paths, files, strict=True) if file is None]:
            raise CheckpointError(
                f"{self._root}/{self._repository} does not have {', '.join(lacking)} "
                f"(revision {self.revision})"
            )
        return [file for file in files if file is not None]

    def download(self, file: RemoteFile, folder: Path, progress: Progress) -> Path:
        """Bring one file into ``folder``, unless it is there already and right.

        Raises:
            CheckpointError: the transfer keeps breaking, or what came has another checksum.
        """
        return self._source.download(self._address(file.path), file, folder, progress)

    def _look(self, path: str) -> RemoteFile | None:
        """What the hub tells of a file; None if it does not have it."""
        from huggingface_hub import get_hf_file_metadata
        from huggingface_hub.errors import HfHubHTTPError

        try:
            # No token: the files are public, and a mirror must not see one.
            found = get_hf_file_metadata(self._address(path), token=False, timeout=TIMEOUT)
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status == _NOT_FOUND:
                return None
            raise self._source.failed(path, f"HTTP {status}") from error
        except Exception as error:
            # Depending on its version, errors of requests, httpx or httpx2 come through.
            raise self._source.failed(path, str(error)) from error
        if found.size is None:
            raise self._source.failed(path, "the hub does not tell its size")
        if found.commit_hash:
            self.revision = found.commit_hash
        tag = found.etag or ""
        return RemoteFile(
            path,
            found.size,
            sha256=tag if _SHA256.fullmatch(tag) else "",
            git_sha1=tag if _GIT_SHA1.fullmatch(tag) else "",
        )

    def _address(self, path: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self._repository, path, revision=self.revision, endpoint=self._root)


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
