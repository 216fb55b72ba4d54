"""The programs in examples/ run as they stand, against real local servers with fake models."""

from __future__ import annotations

import os
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest
from kserve_grpc import serve_grpc
from kserve_models import Models

from gsv_client import Audio

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def grpc_address(models: Models) -> Iterator[str]:
    with serve_grpc(models) as url:
        yield url


def run(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=60,
    )


def plain(address: str) -> str:
    """host:port, as tritonclient takes it."""
    return address.partition("://")[2]


def test_whole_http(http_address: str, models: Models, tmp_path: Path) -> None:
    done = run(
        tmp_path, "whole_http.py", "count 3", "--url", plain(http_address), "--voice", "demo",
        "--seed", "7", "-o", "out.wav",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Audio.read(tmp_path / "out.wav").rate == 48_000
    model, inputs, _, _ = models.seen[-1]
    assert model == "gpt_sovits_v4"
    assert inputs["SEED"].item() == 7
    assert inputs["VOICE"].item() == b"demo"


def test_whole_http_says_what_is_wrong(http_address: str, tmp_path: Path) -> None:
    done = run(tmp_path, "whole_http.py", "busy", "--url", plain(http_address))
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_stream_grpc(grpc_address: str, tmp_path: Path) -> None:
    done = run(tmp_path, "stream_grpc.py", "count 4", "--url", plain(grpc_address), "-o", "out.wav")
    assert done.returncode == 0, done.stderr
    with wave.open(str(tmp_path / "out.wav")) as file:
        assert file.getnframes() == 4 * 2_400
    assert done.stderr.count("of audio so far") == 4


def test_stream_grpc_can_be_left(grpc_address: str, models: Models, tmp_path: Path) -> None:
    done = run(
        tmp_path, "stream_grpc.py", "count 500", "--url", plain(grpc_address), "--chunks", "2"
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("of audio so far") == 2
    assert models.cancelled.wait(5)


def test_stream_grpc_says_what_is_wrong(grpc_address: str, tmp_path: Path) -> None:
    done = run(tmp_path, "stream_grpc.py", "busy", "--url", plain(grpc_address))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_with_client(address: str, tmp_path: Path) -> None:
    Audio.join([Audio([0.0] * 64_000, 16_000)]).save(tmp_path / "me.wav")
    done = run(
        tmp_path, "with_client.py", "--url", address, "--reference", "me.wav",
        "--reference-text", "What I say.",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in ("hello.wav", "story.wav", "own.wav"):
        assert Audio.read(tmp_path / name).duration > 0, name


def test_play(grpc_address: str, tmp_path: Path) -> None:
    player = "sh -c 'cat > heard'"
    done = run(tmp_path, "play.py", "count 3", "--url", grpc_address, "--player", player)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "heard").read_bytes()) == 3 * 2_400 * 2


def test_a_player_that_ends_early(grpc_address: str, models: Models, tmp_path: Path) -> None:
    player = f'{sys.executable} -c "import sys; sys.stdin.buffer.read(100)"'
    done = run(tmp_path, "play.py", "count 500", "--url", grpc_address, "--player", player)
    assert done.returncode == 0, done.stderr
    assert "the player was closed" in done.stderr
    assert models.cancelled.wait(5)
