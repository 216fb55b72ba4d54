"""The demo behind `make demo`: serve random weights, speak, listen to the figures, stop.

    .venv/bin/python tools/demo.py [--size tiny|full]

Prepares build/demo/model_repository (once), starts the embedded server on free ports, speaks an
English and a Chinese text in the bundled sample voice, writes out/*.wav and prints duration,
real-time factor and time per stage. Exit code 0 only if all of it worked.
"""

from __future__ import annotations

import dataclasses
import re
import time
import urllib.request
from pathlib import Path

import click
import numpy as np
from demo_server import OUT, ROOT, demo_server, say

from gsv.errors import GsvError
from gsv_client import Audio, Client, GsvClientError

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
        with demo_server(size) as server, Client(server.http_url) as client:
            for name, (language, text) in TEXTS.items():
                spoken = speak(client, server.metrics_url, text, language)
                path = OUT / f"{name}.wav"
                save(spoken, path)
                report(path, spoken)
    except (GsvError, GsvClientError, OSError) as error:
        raise click.ClickException(str(error)) from error
    say("done; these weights are random: the waves are noise, not speech")


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
