"""Voices on a real server: listed, added, tuned and removed while it runs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from voices.voice_files import write_wave
from voices.weights_files import gpt_file, lora_file

from gsv.checkpoints.voice_editing import NewVoice, Shapes, add_voice, remove_voice
from gsv_client import Client
from gsv_client.errors import InvalidRequest

pytestmark = pytest.mark.server

LIVE_SECONDS = 5.0


def say(client: Client, voice: str | None) -> np.ndarray:
    return client.say("Hello there.", voice=voice, seed=3, sample_steps=4).samples


def within_seconds(condition: Any) -> None:
    end = time.monotonic() + LIVE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_voice_comes_and_goes(
    server: Any, demo_repository: Path, tmp_path: Path, protocol: str
) -> None:
    folder, shapes = demo_repository.parent / "voices", Shapes.of(demo_repository)
    url = server.http_url if protocol == "http" else server.grpc_url
    with Client(url, protocol=protocol) as client:
        assert [(v.name, v.default) for v in client.voices()] == [("sample", True)]
        default = say(client, None)
        new = NewVoice(
            "tuned", write_wave(tmp_path / "a.wav"), "Words.", "en",
            gpt_file(tmp_path / "g.ckpt"), lora_file(tmp_path / "l.pth"), {"top_k": 5},
        )  # fmt: skip
        add_voice(folder, new, shapes)
        within_seconds(lambda: "tuned" in [v.name for v in client.voices()])
        tuned = say(client, "tuned")
        assert tuned.shape != default.shape or np.abs(tuned - default).max() > 0.01
        np.testing.assert_allclose(say(client, "tuned"), tuned, atol=1e-3)
        chunks = list(client.stream("Hello there.", voice="tuned", seed=3, sample_steps=4))
        assert chunks
        np.testing.assert_allclose(say(client, None), default, atol=1e-3)
        (listed,) = [v for v in client.voices() if v.name == "tuned"]
        assert listed.details["sampling"] == {"top_k": 5}
        remove_voice(folder, "tuned")
        within_seconds(lambda: "tuned" not in [v.name for v in client.voices()])
        time.sleep(1.1)
        with pytest.raises(InvalidRequest, match="VOICE: got 'tuned'; allowed: sample"):
            say(client, "tuned")


def test_the_command_lists_a_servers_voices(server: Any) -> None:
    code = "from gsv_client.cli import main; main()"
    command = [sys.executable, "-c", code, "voices", "list", "--url", f"http://{server.http_url}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "sample *" in done.stdout
