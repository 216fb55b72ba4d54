"""The demo behind `make demo`: serve random weights, speak, listen to the figures, stop.

    .venv/bin/python tools/demo.py [--size tiny|full]

Prepares build/demo/model_repository (once), starts the embedded server on free ports, speaks an
English and a Chinese text in the bundled sample voice, writes out/*.wav and prints duration,
real-time factor and time per stage. Exit code 0 only if all of it worked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import click
import numpy as np

from gsv.checkpoints.manifest import verify_manifest
from gsv.errors import GsvError
from gsv.serving.launcher import EmbeddedServer, ServerOptions
from gsv_client import Audio, Client, GsvClientError

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "demo"
OUT = ROOT / "out"

TEXTS = {
    "english": ("en", "Hello there. This wave went through four models on a real Triton server."),
    "chinese": ("zh", "你好。这段声音经过了四个模型，全部运行在服务器上。"),
}
STAGES = ("text_frontend", "reference_encoder", "semantic_gpt", "sovits_v4", "vocoder")
RATE = 48_000
SHORTEST_SECONDS, LONGEST_SECONDS = 0.5, 300.0
SILENT_RMS, CLIPPED_SHARE = 1e-4, 1e-3


@dataclasses.dataclass(frozen=True)
class Spoken:
    """One answer: the audio, the seconds it took, and those of each stage."""

    audio: Audio
    seconds: float
    stages: dict[str, float]


@click.command()
@click.option("--size", type=click.Choice(["tiny", "full"]), default="tiny", show_default=True)
def main(size: str) -> None:
    """Serve random demo weights and speak with them."""
    try:
        repository = prepared(size)
        say("starting the embedded Triton server")
        started = time.monotonic()
        with EmbeddedServer(repository, ServerOptions(), on_ready_model=_tell_ready) as server:
            say(f"ready after {time.monotonic() - started:.1f} s on {server.http_url}")
            with Client(server.http_url) as client:
                for name, (language, text) in TEXTS.items():
                    spoken = speak(client, server.metrics_url, text, language)
                    path = OUT / f"{name}.wav"
                    save(spoken, path)
                    report(path, spoken)
    except (GsvError, GsvClientError, OSError) as error:
        raise click.ClickException(str(error)) from error
    say("done; these weights are random: the waves are noise, not speech")


def prepared(size: str) -> Path:
    """The demo repository, made anew when there is none, or its makers or files have changed."""
    folder = BUILD if size == "tiny" else BUILD.with_name(f"demo_{size}")
    repository, mark = folder / "model_repository", folder / "made_from"
    makers = _makers()
    if mark.is_file() and mark.read_text() == makers and _is_whole(repository):
        say(f"using {repository.relative_to(ROOT)}")
        return repository
    shutil.rmtree(folder, ignore_errors=True)
    command = [Path(sys.executable).parent / "gsv", "prepare", "--demo", size, "--out", repository]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise click.ClickException("gsv prepare failed; its message stands above")
    mark.write_text(makers)
    return repository


def _makers() -> str:
    """A sum over everything that decides what a prepared repository holds."""
    total = hashlib.sha256()
    for folder in ("model_repository", "backend/gsv/checkpoints", "voices"):
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


def speak(client: Client, metrics_url: str, text: str, language: str) -> Spoken:
    """Speak one text in the sample voice and take the times."""
    before = _stage_seconds(metrics_url)
    started = time.monotonic()
    audio = client.say(text, language=language, voice="sample", seed=1)
    seconds = time.monotonic() - started
    after = _stage_seconds(metrics_url)
    return Spoken(audio, seconds, {name: after[name] - before[name] for name in STAGES})


def save(spoken: Spoken, path: Path) -> None:
    """Write the wave; ClickException when no sound could look like this."""
    audio = spoken.audio
    problems = []
    if audio.rate != RATE:
        problems.append(f"its rate is {audio.rate} Hz and not {RATE}")
    if not SHORTEST_SECONDS <= audio.duration <= LONGEST_SECONDS:
        problems.append(f"it lasts {audio.duration:.2f} s")
    if not np.isfinite(audio.samples).all():
        problems.append("it holds values that are no numbers")
    if float(np.sqrt(np.mean(np.square(audio.samples)))) < SILENT_RMS:
        problems.append("it is silent")
    if float(np.mean(np.abs(audio.samples) >= 1.0)) > CLIPPED_SHARE:
        problems.append("it is clipped")
    path.parent.mkdir(exist_ok=True)
    audio.save(path)
    if problems:
        raise click.ClickException(f"{path.name}: {'; '.join(problems)}")


def report(path: Path, spoken: Spoken) -> None:
    """Duration, real-time factor and time per stage, to stdout."""
    duration = spoken.audio.duration
    click.echo(
        f"{path.relative_to(ROOT)}: {duration:.2f} s of audio in {spoken.seconds:.2f} s, "
        f"real-time factor {spoken.seconds / duration:.2f}"
    )
    for name, seconds in spoken.stages.items():
        click.echo(f"  {name:18} {1000 * seconds:8.0f} ms")


def say(text: str) -> None:
    """One line to stderr."""
    click.echo(text, err=True)


def _tell_ready(name: str, ready: int, models: int) -> None:
    say(f"  {name} is ready ({ready} of {models})")


def _stage_seconds(metrics_url: str) -> dict[str, float]:
    """Seconds that each stage has spent on requests so far.

    From the models' own metrics: Triton's statistics end when ``execute`` returns, which the stages
    with a running batch do at once.
    """
    with urllib.request.urlopen(metrics_url, timeout=10) as response:
        lines = response.read().decode()
    found = re.findall(r'^gsv_request_seconds_total\{model="(\w+)"\} (\S+)$', lines, re.MULTILINE)
    return {name: float(seconds) for name, seconds in found}


if __name__ == "__main__":
    main()
