"""The demo behind `make demo`: serve a small voice, speak, print figures, stop.

    .venv/bin/python tools/demo.py [--size voice|tiny|full]

Prepares a model repository in build/ (once), starts the embedded server on free ports, speaks,
writes out/*.wav and prints duration, real-time factor and time per stage. ``voice`` speaks English
sentences that it never learned; the random weights of ``tiny`` and ``full`` make noise of an
English and a Chinese text. Exit code 0 only if every step worked.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import click
import numpy as np
from demo_server import OUT, ROOT, SIZES, demo_server, say, voice_of

from gsv.errors import GsvError
from gsv_client import Audio, Client, GsvClientError

sys.path.insert(0, str(Path(__file__).resolve().parent / "demo_voice"))

from sentences import SPOKEN_BY_DEMO  # noqa: E402

NOISE = {
    "english": ("en", "Hello there. This wave went through four models on a real Triton server."),
    "chinese": ("zh", "你好。这段声音经过了四个模型，全部运行在服务器上。"),
}
SPEECH = {f"voice_{n}": ("en", text) for n, text in enumerate(SPOKEN_BY_DEMO, start=1)}
REAL_ONE = (
    "to hear the real model, run `gsv prepare --download` (README: Serve the official weights)"
)
CLOSING = {
    "voice": "done; this is the project's own small voice, English, trained on a "
    f"synthesizer's speech (tools/demo_voice); {REAL_ONE}",
    "tiny": f"done; these weights are random: the waves are noise, not speech; {REAL_ONE}",
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
@click.option("--size", type=click.Choice(SIZES), default="voice", show_default=True)
def main(size: str) -> None:
    """Serve demo weights and speak with them."""
    try:
        with demo_server(size) as server, Client(server.http_url) as client:
            for name, (language, text) in (SPEECH if size == "voice" else NOISE).items():
                spoken = speak(client, server.metrics_url, text, language, voice_of(size))
                path = OUT / f"{name}.wav"
                save(spoken, path)
                report(path, text, spoken)
    except (GsvError, GsvClientError, OSError) as error:
        raise click.ClickException(str(error)) from error
    say(CLOSING.get(size, CLOSING["tiny"]))


def speak(client: Client, metrics_url: str, text: str, language: str, voice: str) -> Spoken:
    """Speak one text and take the times."""
    before = _stage_seconds(metrics_url)
    started = time.monotonic()
    audio = client.say(text, language=language, voice=voice, seed=1)
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
        problems.append("it holds values that are not numbers")
    if float(np.sqrt(np.mean(np.square(audio.samples)))) < SILENT_RMS:
        problems.append("it is silent")
    if float(np.mean(np.abs(audio.samples) >= 1.0)) > CLIPPED_SHARE:
        problems.append("it is clipped")
    path.parent.mkdir(exist_ok=True)
    audio.save(path)
    if problems:
        raise click.ClickException(f"{path.name}: {'; '.join(problems)}")


def report(path: Path, text: str, spoken: Spoken) -> None:
    """Text, duration, real-time factor and time per stage, to stdout."""
    duration = spoken.audio.duration
    click.echo(
        f"{path.relative_to(ROOT)}: {text}\n  {duration:.2f} s of audio in {spoken.seconds:.2f} s, "
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
    pattern = r'^gsv_request_seconds_sum\{model="(\w+)",.*\} (\S+)$'
    seconds: Counter[str] = Counter()  # of all instances of a model
    for name, value in re.findall(pattern, lines, re.MULTILINE):
        seconds[name] += float(value)
    return dict(seconds)


if __name__ == "__main__":
    main()
