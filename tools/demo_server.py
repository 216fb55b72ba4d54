"""What `make demo` and `make bench` share: a prepared demo repository, served on free ports."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from gsv.checkpoints.manifest import verify_manifest
from gsv.errors import GsvError
from gsv.serving.server.launcher import EmbeddedServer, ServerOptions

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
OUT = ROOT / "out"
SIZES = ("voice", "tiny", "full")  # of gsv prepare --demo


@contextlib.contextmanager
def demo_server(size: str, dtype: str = "float32") -> Iterator[EmbeddedServer]:
    """A running server with demo weights; it is stopped when the block ends, however it ends."""
    with served(prepared(size, dtype)) as server:
        yield server


@contextlib.contextmanager
def served(repository: Path) -> Iterator[EmbeddedServer]:
    """A running server with that repository; it is stopped when the block ends, however it ends."""
    say("starting the embedded Triton server")
    started = time.monotonic()
    # SIGTERM would end Python at once; as an exception it lets the server stop properly.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with EmbeddedServer(repository, ServerOptions(), on_ready_model=_tell_ready) as server:
        say(f"ready after {time.monotonic() - started:.1f} s on {server.http_url}")
        yield server


def voice_of(size: str) -> str:
    """The voice that is made for these weights."""
    return "demo" if size == "voice" else "sample"


def prepared(size: str, dtype: str = "float32") -> Path:
    """The demo repository, made anew when there is none, or its makers or files have changed."""
    parts = ["demo", *([size] if size != "tiny" else []), *([dtype] if dtype != "float32" else [])]
    folder = BUILD / "_".join(parts)
    repository, mark = folder / "model_repository", folder / "made_from"
    makers = _makers()
    if mark.is_file() and mark.read_text() == makers and _is_whole(repository):
        say(f"using {repository.relative_to(ROOT)}")
        return repository
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "gsv"), "prepare", "--demo", size]
    command += ["--out", str(repository), "--dtype", dtype]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise click.ClickException("gsv prepare failed; its message stands above")
    mark.write_text(makers)
    return repository


def _makers() -> str:
    """A sum over everything that decides what a prepared repository holds."""
    total = hashlib.sha256()
    for folder in ("model_repository", "backend/gsv/checkpoints", "voices", "demo_voice"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def _is_whole(repository: Path) -> bool:
    try:
        for manifest in repository.glob("*/1/manifest.json"):
            verify_manifest(manifest.parent)
    except GsvError:
        return False
    return repository.is_dir()


def say(text: str) -> None:
    """One line to stderr."""
    click.echo(text, err=True)


def _tell_ready(name: str, ready: int, models: int) -> None:
    say(f"  {name} is ready ({ready} of {models})")
