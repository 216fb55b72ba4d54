"""A repository with its own environment, in a tritonserver that has never seen our packages."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server.conftest import PREPARE

from gsv.serving.server import installation, processes
from gsv.serving.server.options import choose_ports

pytestmark = pytest.mark.server

READY_SECONDS = 120.0


def ask(port: int, path: str, body: Any = None) -> tuple[int, bytes]:
    """Status and content of an HTTP request; status 0 when nothing answers."""
    data = json.dumps(body).encode() if body is not None else None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", data, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


@pytest.fixture
def packed(tmp_path: Path) -> Iterator[Path]:
    """A folder with repository, voices and environment, moved after it was made."""
    made = tmp_path / "made"
    done = subprocess.run(
        [
            *PREPARE,
            *("--demo", "tiny", "--out", str(made / "repository")),
            *("--pack-env", str(made / "python"), "--pack-links"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    folder = made.rename(tmp_path / "elsewhere")
    yield folder
    shutil.rmtree(folder)  # a copy of torch where there are no hard links


@contextlib.contextmanager
def plain_server(repository: Path, work: Path) -> Iterator[tuple[int, int]]:
    """A tritonserver with nothing of this virtual environment: its process and HTTP port."""
    found = installation.embedded(cache=work / "cache")
    libraries = found.environment["LD_LIBRARY_PATH"].split(":")[0]  # not those of our Python
    ports = choose_ports("127.0.0.1", (0, 0, 0))
    prefix = processes.region_prefix()
    arguments = [f"--{kind}-address=127.0.0.1" for kind in ("http", "grpc", "metrics")]
    arguments += [
        f"--{kind}-port={port}"
        for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True)
    ]
    log = work / "triton.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                str(found.binary),
                f"--model-repository={repository}",
                f"--backend-directory={found.backend_directory}",
                f"--backend-config=python,shm-region-prefix-name={prefix}",
                "--exit-timeout-secs=5",
                *arguments,
            ],
            # Everything there is: what a container without our packages has.
            env={
                "PATH": "/usr/bin:/bin",
                "LD_LIBRARY_PATH": libraries,
                "HOME": str(work),
                "OMP_NUM_THREADS": "1",
            },
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        limit = time.monotonic() + READY_SECONDS
        while ask(ports[0], "/v2/health/ready")[0] != 200:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < limit, log.read_text()[-3000:]
            time.sleep(0.2)
        yield process.pid, ports[0]
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        finally:
            process.kill()
            processes.remove_regions(prefix)


def test_a_server_without_our_packages_answers(packed: Path, tmp_path: Path) -> None:
    environment = packed / "python"
    with plain_server(packed / "repository", tmp_path) as (server, port):
        request = {"TEXT": "Hello there.", "LANGUAGE": "en", "SEED": 7, "SAMPLE_STEPS": 4}
        status, content = ask(port, "/v2/models/gpt_sovits_v4/generate", request)
        assert status == 200, content
        audio = np.array(json.loads(content)["AUDIO"])
        assert audio.size > 4800
        assert np.isfinite(audio).all()
        assert np.abs(audio).max() > 0
        stubs = processes.living_stubs(server)
        assert {stub.model for stub in stubs} >= {"gpt_sovits_v4", "sovits_v4", "text_frontend"}
        for stub in stubs:
            maps = Path(f"/proc/{stub.pid}/maps").read_text()
            files = {line.split()[-1] for line in maps.splitlines() if "/" in line}
            loaded = {file for file in files if "libpython" in file or ".cpython-" in file}
            assert loaded, stub
            assert all(Path(file).is_relative_to(environment) for file in loaded), stub
