"""How soon a long sentence is heard: its stream's first chunk beside its whole answer.

    .venv/bin/python tools/first_audio.py [--size full] [--dtype auto] [--seconds 15] [--steps 8]

Random weights, which don't know when to end: the sentence lasts as long as the limit of tokens
allows. Both are asked for from one server, one after the other, with a warm voice.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from demo_server import BUILD, SIZES, prepared, served, voice_of

from gsv.constants import TOKEN_RATE
from gsv.errors import GsvError
from gsv_client import Client, GsvClientError

SENTENCE = (
    "We walked along the river until the lights of the town were far behind us and then someone "
    "began to hum an old song and one after another we joined in softly at first but louder as the "
    "night went on"
)
LIMIT = 'key: "max_tokens" value: {{ string_value: "{}" }}'


@click.command()
@click.option("--size", type=click.Choice(SIZES), default="full", show_default=True)
@click.option("--dtype", default="auto", show_default=True, help="Of both generators.")
@click.option("--seconds", default=15.0, show_default=True, help="Length of the sentence.")
@click.option("--steps", default=8, show_default=True, help="Of flow matching.")
@click.option("--repeat", default=1, show_default=True, help="Times that both are measured.")
def main(size: str, dtype: str, seconds: float, steps: int, repeat: int) -> None:
    """Measure, and print both times and their ratio."""
    try:
        with (
            _limited(prepared(size, dtype), round(seconds * TOKEN_RATE)) as repository,
            served(repository) as server,
            Client(server.grpc_url, protocol="grpc", timeout=900) as client,
        ):
            # A repetition penalty makes the end token likely when all others have been drawn, and
            # the guard would draw a sentence again that lasts as long as it may.
            options = {
                "voice": voice_of(size), "language": "en", "split_method": "cut0", "top_k": 5,
                "temperature": 0.5, "repetition_penalty": 1.0, "pause_seconds": 0.0,
                "guard": 0,
            }  # fmt: skip
            client.say("Good morning.", seed=1, sample_steps=1, **options)
            for seed in range(repeat):
                started = time.monotonic()
                audio = client.say(SENTENCE, seed=seed, sample_steps=steps, **options)
                whole = time.monotonic() - started
                started = time.monotonic()
                stream = client.stream(SENTENCE, seed=seed, sample_steps=steps, **options)
                chunks = [(time.monotonic() - started, chunk.duration) for chunk in stream]
                first = chunks[0][0]
                click.echo(f"{audio.duration:.1f} s of audio: whole {whole:.2f} s")
                click.echo(f"streamed: first {first:.3f} s ({first / whole:.0%}), chunks (at, s):")
                click.echo("  " + ", ".join(f"{at:.2f} {length:.2f}" for at, length in chunks))
    except (GsvError, GsvClientError, OSError) as error:
        raise click.ClickException(str(error)) from error


@contextlib.contextmanager
def _limited(repository: Path, tokens: int) -> Iterator[Path]:
    """The repository with another limit of tokens, and its voices beside it."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        for part in (repository, repository.parent / "voices"):
            shutil.copytree(part, Path(folder) / part.name, copy_function=os.link)
        config = Path(folder) / repository.name / "semantic_gpt" / "config.pbtxt"
        text = config.read_text(encoding="utf-8")
        limited = text.replace(LIMIT.format(1500), LIMIT.format(tokens))
        if limited == text:
            raise click.ClickException(f"no max_tokens of 1500 in {config}")
        config.unlink()  # it is a link to the original
        config.write_text(limited, encoding="utf-8")
        yield Path(folder) / repository.name


if __name__ == "__main__":
    main()
