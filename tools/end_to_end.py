"""Concurrent requests through Triton, against plain float32 networks one request after the other.

    .venv/bin/python tools/end_to_end.py [--dtype auto] [--callers 8] [--steps 8]

Random weights of full size; all is measured in one run, because machines differ. The plain side is
what upstream's ``run`` computes for the same tokens and sentences: a cache that grows by
concatenation, and every sentence padded to a window of 1000 frames. Its prefill, text and reference
are left out, which is in its favour. The stages alone are the same requests in one process without
Triton.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial

import click
import torch
from demo_server import demo_server, prepared

from gsv.bench import acoustic, semantic
from gsv.constants import FLOW_WINDOW
from gsv.errors import GsvError
from gsv.offline import Offline
from gsv_client import Client, GsvClientError
from gsv_client.bench import metrics
from gsv_client.bench.load import Text, load_texts

VOICE = "sample"
GENERATORS = ("semantic_gpt", "sovits_v4")
# Random weights give sentences that the guard draws again, and the plain side has no guard.
GUARD = 0


@dataclasses.dataclass(frozen=True)
class Plain:
    """What the plain networks take on this machine now, in seconds."""

    token: float
    flow_step: float  # of a window of 1000 frames
    vocoder: float  # per second of audio

    @classmethod
    def measure(cls) -> Plain:
        threads = torch.get_num_threads()
        decode = semantic.measure("float32", 1, threads, steps=20)
        dit, vocoder = acoustic.measure([FLOW_WINDOW], [1], ["float32"])
        step = float(decode["plain_best_step_ms"]) / 1e3
        return cls(step, dit.plain_seconds, vocoder.plain_seconds)

    def seconds(self, tokens: float, sentences: int, steps: int, audio: float) -> float:
        """One request after the other."""
        return tokens * self.token + sentences * steps * self.flow_step + audio * self.vocoder


@click.command()
@click.option("--dtype", default="auto", show_default=True, help="Of both generators.")
@click.option("--callers", default=8, show_default=True, help="Requests at once.")
@click.option("--steps", default=8, show_default=True, help="Of flow matching.")
def main(dtype: str, callers: int, steps: int) -> None:
    """Measure, and print the two ratios."""
    texts = load_texts()[:callers]
    plain = Plain.measure()
    click.echo(f"plain networks: {dataclasses.asdict(plain)}")
    try:
        with demo_server("full", dtype) as server:
            client = Client(server.grpc_url, protocol="grpc", timeout=600)
            say = partial(_served, client, steps)
            say(texts[0], 0)
            analyses = [client.phones(text.text, language=text.language) for text in texts]
            before = metrics.scrape(server.metrics_url)
            served, audio = _all_at_once(say, texts)
            found = metrics.compare(before, metrics.scrape(server.metrics_url))["batches"]
            client.close()
        settings = {model: {"dtype": dtype} for model in GENERATORS}
        with Offline(prepared("full", dtype), settings=settings) as offline:
            say = partial(_alone, offline, steps)
            say(texts[0], 0)
            alone, _ = _all_at_once(say, texts)
    except (GsvError, GsvClientError, OSError) as error:
        raise click.ClickException(str(error)) from error
    sentences = sum(len(analysis.sentences) for analysis in analyses)
    gpt, flow = (found[model] for model in GENERATORS)
    tokens = gpt["steps"] * gpt["mean_rows"]
    expected = plain.seconds(tokens, sentences, steps, audio)
    click.echo(f"{len(texts)} requests, {sentences} sentences, {tokens:.0f} tokens, {audio:.1f} s")
    click.echo(f"mean rows of a step: GPT {gpt['mean_rows']:.1f}, flow {flow['mean_rows']:.1f}")
    click.echo(f"plain, one after the other: {expected:.1f} s; through Triton: {served:.1f} s")
    click.echo(f"ratio {expected / served:.1f}")
    click.echo(f"the stages alone: {alone:.1f} s, share {alone / served:.0%}")


def _served(client: Client, steps: int, text: Text, seed: int) -> float:
    return client.say(
        text.text, language=text.language, voice=VOICE, seed=seed, sample_steps=steps, guard=GUARD
    ).duration


def _alone(offline: Offline, steps: int, text: Text, seed: int) -> float:
    answer = offline.say(
        text=text.text, language=text.language, voice=VOICE, seed=seed, sample_steps=steps,
        guard=GUARD,
    )  # fmt: skip
    return len(answer.audio) / answer.sample_rate


def _all_at_once(say: Callable[[Text, int], float], texts: Sequence[Text]) -> tuple[float, float]:
    """Seconds that all took together, and seconds of audio."""
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
        audio = sum(pool.map(say, texts, range(len(texts))))
    return time.monotonic() - started, audio


if __name__ == "__main__":
    main()
