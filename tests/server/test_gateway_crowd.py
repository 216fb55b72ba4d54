"""A crowd at the gateway before a real Triton: OpenAI's own package, a third of the calls given up.

GSV_SOAK_SECONDS makes it longer than continuous integration can afford; two minutes:

    GSV_SOAK_SECONDS=120 .venv/bin/python -m pytest -s -m server tests/server/test_gateway_crowd.py
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import openai
import pytest
from gateway.running import Gateway, running
from server.test_gateway import FORMS, decoded
from server.test_soak import (
    CLIENTS,
    LEAVING,
    SEEDS,
    SPARE_THREADS,
    TEXTS,
    Holdings,
    Outcomes,
    metrics,
    wait_until_idle,
)

from gsv.serving.server.launcher import EmbeddedServer
from gsv_client import AsyncClient
from gsv_client.gateway.settings import Settings

pytestmark = pytest.mark.server

SECONDS = float(os.environ.get("GSV_SOAK_SECONDS", "10"))
WARM_UP_SECONDS = min(4.0, SECONDS)
END_SECONDS = 10.0  # until the gateway has noticed the last caller who left
IMPATIENT_SECONDS = 0.05  # of a caller who gives up before the first audio


@dataclasses.dataclass(frozen=True)
class Left:
    """What the gateway holds. It runs in this process, whose clients have closed their sockets."""

    tasks: int
    in_flight: int
    connections: int
    threads: int
    sockets: int

    @classmethod
    def of(cls, gateway: Gateway) -> Left:
        return cls(
            gateway.tasks(), gateway.metrics.in_flight, gateway.metrics.connections,
            threading.active_count(), open_sockets(),
        )  # fmt: skip


def open_sockets() -> int:
    """Sockets of this process."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            count += os.readlink(entry).startswith("socket:")
    return count


def speak(url: str, number: int, until: float, outcomes: Outcomes) -> None:
    """One caller, with a connection pool as the package keeps it, and no second try."""
    draw = random.Random(number)
    with openai.OpenAI(api_key="none", base_url=f"{url}/v1", max_retries=0, timeout=120) as client:
        while time.monotonic() < until:
            text, seed, form = draw.choice(TEXTS), draw.choice(SEEDS), draw.choice(FORMS)
            leaves = draw.random() < LEAVING
            # Before the first audio, with it, or after a few pieces.
            pieces = draw.randrange(-1, 3) if leaves else None
            data = call(client, text, seed, form, pieces)
            if pieces is None:
                outcomes.whole(f"{form}: {text}", seed, len(decoded(data, form)[0]))
            else:
                outcomes.count("left")


def call(client: openai.OpenAI, text: str, seed: int, form: str, pieces: int | None) -> bytes:
    """The answer, or as many pieces of it; -1: the caller's patience ends before the first."""
    patience = IMPATIENT_SECONDS if pieces == -1 else openai.NOT_GIVEN
    data = []
    try:
        with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=text, response_format=form,  # type: ignore[arg-type]
            extra_body={"seed": seed, "sample_steps": 2}, timeout=patience,  # type: ignore[arg-type]
        ) as answer:  # fmt: skip
            # Pieces as they come: with a size, httpx would wait until it is full.
            for piece in answer.iter_bytes():
                data.append(piece)
                if pieces is not None and len(data) > pieces:
                    break
    except openai.APITimeoutError:
        assert pieces == -1
    return b"".join(data)


def settled(now: Callable[[], Left], before: Left) -> Left:
    """What is held when it is no more than before, or when the time for that is over."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        held = now()
        if (
            held.tasks <= before.tasks
            and held.in_flight <= before.in_flight
            and held.connections <= before.connections
            and held.sockets <= before.sockets
        ) or time.monotonic() > deadline:
            return held
        time.sleep(0.1)


def test_a_crowd_of_whom_a_third_leave(server: EmbeddedServer) -> None:
    """No error, every answer whole, nothing left over in the gateway or in Triton."""
    with running(AsyncClient(server.grpc_url), Settings(local=True)) as gateway:

        def run(seconds: float) -> Outcomes:
            until, outcomes = time.monotonic() + seconds, Outcomes()
            with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
                for done in [
                    pool.submit(speak, gateway.url, number, until, outcomes)
                    for number in range(CLIENTS)
                ]:
                    done.result()
            wait_until_idle(server)
            return outcomes

        run(WARM_UP_SECONDS)  # pools, regions and the channel to Triton grow to their size
        idle = Left(gateway.tasks(), 0, 0, threading.active_count(), open_sockets())
        before = settled(lambda: Left.of(gateway), idle)
        held, counted = Holdings.of(server), metrics(server)
        outcomes = run(SECONDS)
        after = settled(lambda: Left.of(gateway), before)
        remains = Holdings.of(server)
        print(dict(outcomes.answers), before, after, held, remains, sep="\n")  # noqa: T201
        assert outcomes.answers["whole"] >= CLIENTS
        assert outcomes.answers["left"] >= CLIENTS / 4
        assert (after.in_flight, after.connections) == (0, 0)
        assert after.tasks <= before.tasks
        assert after.sockets <= before.sockets
        assert after.threads <= before.threads + SPARE_THREADS
        assert remains.regions <= held.regions
        assert remains.threads <= held.threads + SPARE_THREADS
        assert failures(metrics(server), counted) == {}
        gateway_failures = [
            line for line in gateway.metrics.text().splitlines()
            if 'status="5' in line and not line.endswith(" 0")
        ]  # fmt: skip
        assert gateway_failures == []


def failures(now: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    """Triton's counters of failed requests that have grown."""
    return {
        name: value
        for name, value in now.items()
        if 'outcome="failed"' in name and value > before.get(name, 0)
    }
