"""The programs in examples/ against a real tritonserver."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gsv.serving.server.launcher import EmbeddedServer
from gsv_client import Audio

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
TEXT = "A first sentence. And then a second one, which is longer."


def run(folder: Path, name: str, *arguments: str) -> str:
    """What the example says on both channels."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_whole_answers_by_tritonclient(server: EmbeddedServer, tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        run(tmp_path, "whole_http.py", TEXT, "--url", server.http_url, "--seed", "3", "-o", name)
    assert Audio.read(tmp_path / "a.wav").duration > 0.5
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_streams_by_tritonclient(server: EmbeddedServer, tmp_path: Path) -> None:
    told = run(tmp_path, "stream_grpc.py", TEXT, "--url", server.grpc_url, "-o", "all.wav")
    assert "sentence 1" in told
    told = run(
        tmp_path, "stream_grpc.py", TEXT, "--url", server.grpc_url, "-o", "one.wav",
        "--chunks", "1",
    )  # fmt: skip
    assert told.count("of audio so far") == 1
    one, all_ = (Audio.read(tmp_path / name).duration for name in ("one.wav", "all.wav"))
    assert 0 < one < all_


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_our_client(server: EmbeddedServer, tmp_path: Path, protocol: str) -> None:
    url = f"grpc://{server.grpc_url}" if protocol == "grpc" else server.http_url
    told = run(tmp_path, "with_client.py", "--url", url)
    assert "refused: SPEED: got 9" in told
    assert Audio.read(tmp_path / "story.wav").duration > 0.5


def test_a_player(server: EmbeddedServer, tmp_path: Path) -> None:
    player = "sh -c 'cat > heard'"
    run(tmp_path, "play.py", TEXT, "--url", f"grpc://{server.grpc_url}", "--player", player)
    assert len((tmp_path / "heard").read_bytes()) > 24_000
