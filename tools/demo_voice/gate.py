"""The quality gate behind `make gate`: is the demo voice understood, on every way to the listener?

    .venv/bin/python tools/demo_voice/gate.py

Speaks sentences that are in no training text through real servers: whole answers, streams, eight
callers at once, and in bfloat16; and long ones, whole. pocketsphinx transcribes the audio. Exit
code 0 only if whole answers reach the least accuracy, the other ways stay close to them, and long
sentences are understood too and end in time; else the waves are kept in out/gate.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
from everyday import EVERYDAY
from recognition import Heard, Recogniser, accuracy
from sentences import JUDGED

from gsv.errors import GsvError
from gsv_client import Audio, Client, GsvClientError, SpeechOptions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demo_server import OUT, demo_server, say, voice_of  # noqa: E402

LEAST = 0.80  # share of the words that whole answers must bring across
MOST_LOST = 0.03  # by which another way may fall behind them
LONG = tuple(text for text in EVERYDAY if len(text.split()) > 15)[:10]
LEAST_OF_LONG = 0.70
SECONDS_A_LETTER = 0.085  # as the teacher speaks; its sentences differ by a fifth at most
MOST_TIMES = 2.0  # the teacher's length
CALLERS = 8
WAVES = OUT / "gate"
Waves = Mapping[str, Audio]


def main_ways(client: Client) -> Iterator[tuple[str, Waves]]:
    """The sentences, spoken in each way that a float32 server offers."""
    options = SpeechOptions(language="en", voice=voice_of("voice"), seed=1)

    def whole(text: str) -> Audio:
        return client.say(text, options)

    def streamed(text: str) -> Audio:
        chunks = list(client.stream(text, options))
        return Audio(np.concatenate([chunk.samples for chunk in chunks]), chunks[0].rate)

    yield "whole answers", _spoken(whole, callers=1)
    yield "streamed", _spoken(streamed, callers=1)
    yield f"{CALLERS} callers", _spoken(whole, callers=CALLERS)


def long_sentences(client: Client) -> Waves:
    """Whole answers to the long sentences."""
    options = SpeechOptions(language="en", voice=voice_of("voice"), seed=1)
    return _spoken(lambda text: client.say(text, options), callers=1, texts=LONG)


def _spoken(speak: Callable[[str], Audio], callers: int, texts: Sequence[str] = JUDGED) -> Waves:
    with ThreadPoolExecutor(callers) as pool:
        return dict(zip(texts, pool.map(speak, texts), strict=True))


@functools.cache  # one for each process of the pool: it takes a second to load
def _recogniser() -> Recogniser:
    return Recogniser()


def _judge(text: str, audio: Audio) -> Heard:
    return _recogniser().judge(text, audio.samples, audio.rate)


def judge(ways: Mapping[str, Waves]) -> dict[str, list[Heard]]:
    """What is understood of each way's waves; equal waves are heard once."""
    jobs: dict[tuple[str, bytes], tuple[str, Audio]] = {}
    for waves in ways.values():
        for text, audio in waves.items():
            jobs.setdefault((text, audio.samples.tobytes()), (text, audio))
    with ProcessPoolExecutor(2) as pool:
        heard = dict(zip(jobs, pool.map(_judge, *zip(*jobs.values(), strict=True)), strict=True))
    return {
        way: [heard[text, audio.samples.tobytes()] for text, audio in waves.items()]
        for way, waves in ways.items()
    }


def failures(judged: Mapping[str, list[Heard]]) -> list[str]:
    """What is wrong, in words; the first way is the one that the others are held against."""
    shares = {way: accuracy(heard) for way, heard in judged.items()}
    first = next(iter(shares))
    wrong = []
    if shares[first] < LEAST:
        wrong.append(f"{first}: {shares[first]:.1%} of the words; at least {LEAST:.0%} is wanted")
    wrong += [
        f"{way}: {share:.1%} of the words, more than {MOST_LOST:.0%} below {first}"
        for way, share in shares.items()
        if share < shares[first] - MOST_LOST
    ]
    return wrong


def failures_of_long(heard: Sequence[Heard], waves: Waves) -> list[str]:
    """What is wrong with the long sentences, in words."""
    wrong = []
    if (share := accuracy(heard)) < LEAST_OF_LONG:
        wrong.append(f"long sentences: {share:.1%} of the words; {LEAST_OF_LONG:.0%} is wanted")
    for text, audio in waves.items():
        seconds = len(audio.samples) / audio.rate
        most = MOST_TIMES * SECONDS_A_LETTER * sum(letter.isalpha() for letter in text)
        if seconds > most:
            wrong.append(f"{text!r} takes {seconds:.1f} s; at most {most:.1f} s is wanted")
    return wrong


def keep(ways: Mapping[str, Waves], folder: Path) -> None:
    """Write all waves for somebody to listen to."""
    for way, waves in ways.items():
        place = folder / way.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        for number, audio in enumerate(waves.values(), start=1):
            audio.save(place / f"{number:02}.wav")


@click.command()
@click.option("--keep-waves", is_flag=True, help="Also when the gate is passed.")
def main(keep_waves: bool) -> None:
    """Judge the demo voice."""
    shutil.rmtree(WAVES, ignore_errors=True)
    ways: dict[str, Waves] = {}
    try:
        with demo_server("voice") as server, Client(f"grpc://{server.grpc_url}") as client:
            ways |= main_ways(client)
            lengthy = long_sentences(client)
        with (
            demo_server("voice", "bfloat16") as server,
            Client(f"grpc://{server.grpc_url}") as client,
        ):
            ways["bfloat16"] = next(main_ways(client))[1]
    except (GsvError, GsvClientError, OSError) as error:
        raise click.ClickException(str(error)) from error
    judged = judge(ways)
    heard_of_long = judge({"long": lengthy})["long"]
    for way, heard in [*judged.items(), ("long sentences", heard_of_long)]:
        click.echo(f"{way}: {accuracy(heard):.1%} of the words")
        for one in heard:
            click.echo(f"  {one}")
    wrong = [*failures(judged), *failures_of_long(heard_of_long, lengthy)]
    ways["long"] = lengthy
    if wrong or keep_waves:
        keep(ways, WAVES)
        say(f"the waves are in {WAVES}")
    if wrong:
        raise click.ClickException("; ".join(wrong))
    say("the gate is passed")


if __name__ == "__main__":
    main()
