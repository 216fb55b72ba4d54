"""One real tritonserver with tiny random weights for all tests of this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gsv.serving.server.launcher import EmbeddedServer, ServerOptions

PREPARE = [sys.executable, "-c", "from gsv.commands.prepare import prepare; prepare()"]


@pytest.fixture(scope="session")
def demo_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository as ``gsv prepare --demo tiny`` makes it, the sample voice beside it."""
    folder = tmp_path_factory.mktemp("demo") / "model_repository"
    done = subprocess.run(
        [*PREPARE, "--demo", "tiny", "--out", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def server(demo_repository: Path) -> Iterator[EmbeddedServer]:
    """The server on free loopback ports; its log lies beside the repository."""
    log = demo_repository.parent / "triton.log"
    with (
        log.open("w", encoding="utf-8") as file,
        EmbeddedServer(
            demo_repository,
            ServerOptions(ready_timeout=180),
            on_line=lambda line, important: print(line, file=file, flush=True),  # noqa: T201
        ) as running,
    ):
        yield running
