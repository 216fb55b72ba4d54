"""Voices on a real server: listed, added, tuned and removed while it runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from voices.voice_files import make_voice, write_wave
from voices.weights_files import gpt_file, lora_file

from gsv.checkpoints.voice_editing import NewVoice, Shapes, add_voice, remove_voice
from gsv.voices.features import kept_files
from gsv_client import Client
from gsv_client.errors import InvalidRequest, ServerUnavailable

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


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_broken_voice_is_the_operators_matter(
    server: Any, demo_repository: Path, protocol: str
) -> None:
    """503 and UNAVAILABLE, whatever is broken and whichever model finds it; others go on."""
    voices = demo_repository.parent / "voices"
    url = server.http_url if protocol == "http" else server.grpc_url
    make_voice(voices / "broken", language="klingon")
    (make_voice(voices / "no_gpt", gpt="own.ckpt") / "own.ckpt").write_bytes(b"nothing")
    (make_voice(voices / "no_sovits", sovits="own.pth") / "own.pth").write_bytes(b"nothing")
    (make_voice(voices / "no_sound") / "reference.wav").write_bytes(b"nothing")
    wanted = {
        "broken": "language 'klingon' is not one of",
        "no_gpt": "own.ckpt: it is not a checkpoint",
        "no_sovits": "own.pth: it is not a checkpoint",
        "no_sound": "reference.wav: not a readable sound file",
    }
    try:
        with Client(url, protocol=protocol) as client:
            for voice, message in wanted.items():
                for _ in range(2):
                    with pytest.raises(ServerUnavailable, match=f"voice {voice}: ") as caught:
                        say(client, voice)
                    assert message in str(caught.value)
                    assert str(voices) not in str(caught.value)
                with pytest.raises(ServerUnavailable, match=f"voice {voice}: "):
                    list(client.stream("Hello there.", voice=voice, sample_steps=4))
            assert len(say(client, None)) > 0
            assert [m for m in client.voices().broken if "klingon" in m]
    finally:
        for voice in wanted:
            shutil.rmtree(voices / voice)


def series(server: Any, family: str, **labels: str) -> float | None:
    """The sum of a family's series with these labels; None where there are none."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(family + "{") and all(f'{k}="{v}"' in line for k, v in labels.items())
    ]
    return sum(found) if found else None


def test_metrics_of_voices(server: Any, demo_repository: Path, tmp_path: Path) -> None:
    folder, shapes = demo_repository.parent / "voices", Shapes.of(demo_repository)
    new = NewVoice(
        "measured", write_wave(tmp_path / "a.wav"), "Measured words.", "en",
        gpt_file(tmp_path / "g.ckpt"), lora_file(tmp_path / "l.pth"),
    )  # fmt: skip
    add_voice(folder, new, shapes)
    mine = {"voice": "measured"}
    with Client(server.grpc_url, protocol="grpc") as client:
        seconds = sum(len(say(client, "measured")) for _ in range(2)) / 48_000
        chunks = client.stream("Hello there.", voice="measured", seed=3, sample_steps=4)
        streamed = sum(len(chunk.samples) for chunk in chunks) / 48_000
        with pytest.raises(InvalidRequest):
            say(client, "made_up_by_a_caller")
    within_seconds(
        lambda: series(server, "gsv_voice_requests_total", model="gpt_sovits_v4_stream", **mine)
    )
    unary = {"model": "gpt_sovits_v4", **mine}
    assert series(server, "gsv_voice_requests_total", outcome="answered", **unary) == 2
    assert series(server, "gsv_voice_audio_seconds_total", **unary) == pytest.approx(seconds)
    stream = {"model": "gpt_sovits_v4_stream", **mine}
    assert series(server, "gsv_voice_audio_seconds_total", **stream) == pytest.approx(streamed)
    for model in ("reference_encoder", "text_frontend"):
        counted = {
            source: series(server, "gsv_voice_features_total", model=model, source=source, **mine)
            for source in ("computed", "memory")
        }
        assert counted == {"computed": 1, "memory": 2}
    for model in ("semantic_gpt", "sovits_v4"):
        assert series(server, "gsv_voice_loads_total", model=model, **mine) == 1
        assert series(server, "gsv_voice_load_seconds_total", model=model, **mine)
        assert series(server, "gsv_voice_resident_bytes", model=model, device="cpu", **mine)
    assert series(server, "gsv_voice_requests_total", voice="(unknown)", outcome="refused")
    assert series(server, "gsv_voice_requests_total", voice="made_up_by_a_caller") is None
    remove_voice(folder, "measured")
    end = time.monotonic() + 30
    families = ("gsv_voice_requests_total", "gsv_voice_resident_bytes")
    while any(series(server, family, **mine) is not None for family in families):
        assert time.monotonic() < end, "series of a removed voice stay"
        time.sleep(0.5)


def test_features_are_kept_beside_the_voice(server: Any, demo_repository: Path) -> None:
    voice = demo_repository.parent / "voices" / "sample"
    with Client(server.http_url) as client:
        say(client, "sample")
    kept = kept_files(voice)
    assert {file.kind for file in kept} == {"acoustic", "text"}
    assert [file.problem for file in kept] == ["", ""]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_command_lists_a_servers_voices(server: Any, protocol: str) -> None:
    code = "from gsv_client.cli import main; main()"
    url = server.http_url if protocol == "http" else server.grpc_url
    command = [sys.executable, "-c", code, "voices", "list", "--url", f"{protocol}://{url}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "sample *" in done.stdout
