"""The load: a closed loop (callers ask again when answered) or an open one (at random times)."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path

from gsv_client.client import Client
from gsv_client.errors import GsvClientError, InvalidRequest
from gsv_client.options import SpeechOptions

# Speaks the n-th text; yields the seconds of audio of each part as it arrives.
Speak = Callable[["Text", int], Iterable[float]]


@dataclasses.dataclass(frozen=True)
class Text:
    """A text to speak in a load test."""

    id: str
    language: str
    text: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one request. Times in seconds, from the moment the request was due.

    `gap` is the longest wait between two chunks. `starved` says whether a player that began with
    the first chunk would have run dry. Without any audio both are None, and so is `first_audio`.
    """

    text: str
    due: float  # since the beginning of the run
    latency: float
    audio: float = 0.0
    first_audio: float | None = None
    gap: float | None = None
    starved: bool | None = None
    error: str | None = None


def load_texts(path: Path | None = None) -> list[Text]:
    """The bundled set of texts of mixed lengths, or another file of the same form.

    Raises:
        InvalidRequest: not a JSON list of objects with id, language and text.
    """
    source = path or resources.files("gsv_client.bench") / "texts.json"
    try:
        texts = [Text(**values) for values in json.loads(source.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise InvalidRequest(
            f"{source}: {error}; allowed: a JSON list of {{id, language, text}}"
        ) from error
    if not texts:
        raise InvalidRequest(f"{source}: holds no texts")
    return texts


def speaker(client: Client, options: SpeechOptions, *, stream: bool) -> Speak:
    """Requests as a user of `client` makes them; a fixed seed for each makes runs repeatable."""

    def speak(text: Text, index: int) -> Iterable[float]:
        chosen = dataclasses.replace(
            options,
            language=options.language or text.language,
            seed=index if options.seed is None else options.seed,
        )
        if stream:
            for chunk in client.stream(text.text, chosen, request_id=f"bench-{index}"):
                yield chunk.duration
        else:
            yield client.say(text.text, chosen, request_id=f"bench-{index}").duration

    return speak


def closed_loop(
    speak: Speak, texts: Sequence[Text], concurrency: int, requests: int
) -> tuple[list[Outcome], float]:
    """`concurrency` callers, each asking again as soon as it is served.

    Returns the outcomes and the seconds that all took.
    """
    numbers, outcomes, lock = itertools.count(), [], threading.Lock()
    begin = time.perf_counter()

    def call_again_and_again() -> None:
        while True:
            with lock:
                index = next(numbers)
            if index >= requests:
                return
            due = time.perf_counter() - begin
            outcome = _measure(speak, texts[index % len(texts)], index, due, begin)
            with lock:
                outcomes.append(outcome)

    _run_all([threading.Thread(target=call_again_and_again) for _ in range(concurrency)])
    return outcomes, time.perf_counter() - begin


def open_loop(
    speak: Speak, texts: Sequence[Text], rate: float, requests: int, seed: int = 0
) -> tuple[list[Outcome], float]:
    """Requests that arrive as a Poisson process of `rate` per second, whatever the server does.

    Times count from when a request was due, so a server that falls behind can't hide it.
    """
    arrivals = poisson_arrivals(rate, requests, seed)
    outcomes, lock = [], threading.Lock()
    begin = time.perf_counter()

    def call_once(index: int, due: float) -> None:
        time.sleep(max(0.0, begin + due - time.perf_counter()))
        outcome = _measure(speak, texts[index % len(texts)], index, due, begin)
        with lock:
            outcomes.append(outcome)

    _run_all([threading.Thread(target=call_once, args=pair) for pair in enumerate(arrivals)])
    return outcomes, time.perf_counter() - begin


def poisson_arrivals(rate: float, count: int, seed: int) -> list[float]:
    """Seconds at which `count` requests arrive at `rate` per second on average."""
    generator = random.Random(seed)
    return list(itertools.accumulate(generator.expovariate(rate) for _ in range(count)))


def would_starve(arrivals: Sequence[float], seconds: Sequence[float]) -> bool:
    """Whether a player that begins at the first arrival runs dry before the last.

    Args:
        arrivals: when each chunk came.
        seconds: how long each chunk sounds.

    >>> would_starve([0.0, 0.4], [0.5, 0.5]), would_starve([0.0, 0.6], [0.5, 0.5])
    (False, True)
    """
    sounding_until = [arrivals[0] + heard for heard in itertools.accumulate(seconds)]
    return any(late > end for late, end in zip(arrivals[1:], sounding_until, strict=False))


def _measure(speak: Speak, text: Text, index: int, due: float, begin: float) -> Outcome:
    arrivals: list[float] = []
    seconds: list[float] = []
    error = None
    try:
        for duration in speak(text, index):
            arrivals.append(time.perf_counter() - begin - due)
            seconds.append(duration)
        if not arrivals:
            error = "ended without audio"
    except GsvClientError as failure:
        error = f"{type(failure).__name__}: {failure}"
    latency = time.perf_counter() - begin - due
    if not arrivals:
        return Outcome(text.id, due, latency, error=error)
    gaps = [after - before for before, after in itertools.pairwise(arrivals)]
    return Outcome(
        text.id, due, latency, sum(seconds), arrivals[0], max(gaps, default=0.0),
        would_starve(arrivals, seconds), error,
    )  # fmt: skip


def _run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.daemon = True  # so that Ctrl-C need not wait for answers
        thread.start()
    for thread in threads:
        thread.join()
