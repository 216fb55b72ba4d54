"""Gets the official files from the Hugging Face hub or a mirror of it.

``huggingface_hub`` tells what there is: size, checksum and commit of each file. The bytes come by
``download``, like those of the text data: it resumes a broken transfer where it stopped and checks
the SHA-256. The library gives up when a connection ends early, and compares sizes only.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from gsv.checkpoints.download import TIMEOUT, Progress, RemoteFile, Source
from gsv.errors import CheckpointError

ENDPOINT = "https://huggingface.co"
REPOSITORY = "lj1995/GPT-SoVITS"


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The official files at one commit, with their known sizes and checksums."""

    revision: str
    files: tuple[RemoteFile, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the files lie, in upstream's layout."""
        return tuple(file.path for file in self.files)


# The commit, sizes and sums are those that public projects which pin these files have recorded
# independently of each other (s2Gv4.pth and vocoder.pth: two of them, the others: more).
OFFICIAL = Snapshot(
    "336b2ec4e8d4ac74740798dd40af44e74659ecaf",
    (
        RemoteFile(
            "s1v3.ckpt",
            155_284_856,
            "87133414860ea14ff6620c483a3db5ed07b44be42e2c3fcdad65523a729a745a",
        ),
        RemoteFile(
            "gsv-v4-pretrained/s2Gv4.pth",
            769_025_545,
            "906fe22f48c3e037a389df291d4d32a9414e15dbb8f9628643e83aaced109ea4",
        ),
        RemoteFile(
            "gsv-v4-pretrained/vocoder.pth",
            57_781_109,
            "4d611913df7b12d49e8976c944558d2d096816365edfc6c35a9e85b67dd14ed9",
        ),
        RemoteFile(
            "chinese-hubert-base/config.json",
            1_449,
            "c3e5060a1277e0f078cc6be9da4528a605dba6ece93018981fe2c820e5c7b103",
        ),
        RemoteFile(
            "chinese-hubert-base/preprocessor_config.json",
            212,
            "dcd684124d06722947939d41ea6ae58dbf10968c60a11a29f23ddc602c64a29b",
        ),
        RemoteFile(
            "chinese-hubert-base/pytorch_model.bin",
            188_811_417,
            "24164f129c66499d1346e2aa55f183250c223161ec2770c0da3d3b08cf432d3c",
        ),
        RemoteFile(
            "chinese-roberta-wwm-ext-large/config.json",
            963,
            "3d57de2fd7e80d0e5c8ff194f0bbb6baa10df7e43fc262a0cc71298a78b0a3e5",
        ),
        RemoteFile(
            "chinese-roberta-wwm-ext-large/tokenizer.json",
            268_962,
            "173796956820ea27bd14f76bf28162607ff4254807e2948253eb5b46f5bb643b",
        ),
        RemoteFile(
            "chinese-roberta-wwm-ext-large/pytorch_model.bin",
            651_225_145,
            "e53a693acc59ace251d143d068096ae0d7b79e4b1b503fa84c9dcf576448c1d8",
        ),
    ),
)

_SHA256 = re.compile(r"[0-9a-f]{64}")  # of large files
_GIT_SHA1 = re.compile(r"[0-9a-f]{40}")  # of small files, as Git counts it
_NOT_FOUND = 404


class Hub:
    """A hub's repository of models, at one commit.

    Args:
        endpoint: address of the hub or of a mirror.
        repository: owner and name.
        revision: a commit, tag or branch. The commit that a branch points to when the first file
            is asked for is used for all further ones, so that all files are of one commit.
        retry_delay: seconds before the second attempt; doubled before each further one.
    """

    def __init__(
        self,
        endpoint: str = ENDPOINT,
        repository: str = REPOSITORY,
        revision: str = OFFICIAL.revision,
        *,
        retry_delay: float = 1.0,
    ) -> None:
        parts = urllib.parse.urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise CheckpointError(f"endpoint {endpoint!r}: allowed: http:// or https:// addresses")
        self._root = endpoint.rstrip("/")
        self._repository = repository
        self.revision = revision
        self._source = Source(
            self.address,
            "check the connection, or set HF_ENDPOINT to a mirror",
            retry_delay,
        )

    @property
    def address(self) -> str:
        """Of the repository, for messages."""
        return f"{self._root}/{self._repository}"

    def describe(self, paths: Sequence[str]) -> list[RemoteFile]:
        """Sizes and sums of the files.

        Raises:
            CheckpointError: the hub can't be reached, or does not have one of them.
        """
        files = [self._look(path) for path in paths]
        if lacking := [path for path, file in zip(paths, files, strict=True) if file is None]:
            raise CheckpointError(
                f"{self.address} does not have {', '.join(lacking)} (revision {self.revision})"
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
        except Exception as error:  # of requests or httpx, whichever the library was built on
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


def download_official(
    hub: Hub, folder: Path, progress: Progress, official: Snapshot = OFFICIAL
) -> None:
    """Bring all official files of v4 into ``folder``, in upstream's layout.

    At the revision of ``official`` the files must have its checksums; at any other revision those
    that the hub tells.

    Raises:
        CheckpointError: the hub can't be reached, lacks a file or has another one of that name, or
            the disk is too small.
    """
    is_pinned = hub.revision == official.revision
    files = hub.describe(official.paths)
    if is_pinned:
        for told, known in zip(files, official.files, strict=True):
            _check_told(hub, told, known)
        files = list(official.files)
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(f.size for f in files if not (folder / f.path).is_file())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise CheckpointError(
            f"{folder}: the download needs {missing:,} bytes; {free:,} are free on the disk"
        )
    for file in files:
        hub.download(file, folder, progress)


def _check_told(hub: Hub, told: RemoteFile, known: RemoteFile) -> None:
    """Refuse another file before a long transfer of it."""
    if told.size != known.size or told.sha256 not in ("", known.sha256):
        raise CheckpointError(
            f"{told.path}: {hub.address} has another file ({told.size:,} bytes, SHA-256 "
            f"{told.sha256 or 'not told'}) than the official one ({known.size:,} bytes, "
            f"{known.sha256}); use another mirror, or name a --revision to take it as it is"
        )
