"""Many clients for a while, with and without leaving: every answer is whole, nothing is left over.

GSV_SOAK_SECONDS makes it longer than continuous integration can afford: 300 for a real soak.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import random
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from gsv.serving.server import processes
from gsv.serving.server.launcher import EmbeddedServer
from gsv_client import Client

pytestmark = pytest.mark.server

SECONDS = float(os.environ.get("GSV_SOAK_SECONDS", "12"))
CLIENTS = 16
TEXTS = (
    "Short.",
    "A sentence of some length, and then a second one. The third ends it!",
    "今天天气真好，我们出去走走吧。",
)
SEEDS = range(4)
LEAVING = 1 / 3  # share of the streams that are given up
IDLE_SECONDS = 30.0  # until the last abandoned work must have ended
SPARE_THREADS = 16  # a pool may have grown while abandoned calls were ending


@dataclasses.dataclass
class Outcomes:
    """What the clients saw."""

    answers: Counter[str] = dataclasses.field(default_factory=Counter)
    lengths: dict[tuple[str, int], int] = dataclasses.field(default_factory=dict)
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def count(self, kind: str) -> None:
        with self.lock:
            self.answers[kind] += 1

    def whole(self, text: str, seed: int, samples: int) -> None:
        """A whole answer: as long as every other one to this text and seed."""
        with self.lock:
            self.answers["whole"] += 1
            assert self.lengths.setdefault((text, seed), samples) == samples, (text, seed)


@dataclasses.dataclass(frozen=True)
class Holdings:
    """What the server's processes hold."""

    threads: int
    regions: int

    @classmethod
    def of(cls, server: EmbeddedServer) -> Holdings:
        pids = [server.pid, *(stub.pid for stub in processes.living_stubs(server.pid))]
        return cls(
            threads=sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids),
            regions=len(list(processes.SHARED_MEMORY.glob(f"{server.region_prefix}*"))),
        )


def metrics(server: EmbeddedServer) -> dict[str, float]:
    """Every metric of ours by name and labels."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("gsv_"))
    return {name: float(value) for name, value in pairs}


def under_way(server: EmbeddedServer) -> dict[str, float]:
    """What is not zero of the gauges that must be zero when nobody asks."""
    names = ("gsv_batch_running", "gsv_batch_waiting", "gsv_requests_in_flight")
    return {k: v for k, v in metrics(server).items() if k.startswith(names) and v}


def wait_until_idle(server: EmbeddedServer, pause: float = 0.2) -> None:
    limit = time.monotonic() + IDLE_SECONDS
    while left := under_way(server):
        assert time.monotonic() < limit, f"still under way: {left}"
        time.sleep(pause)


def speak(server: EmbeddedServer, number: int, until: float, outcomes: Outcomes) -> None:
    """One caller of whole answers, over one protocol."""
    draw = random.Random(number)
    with client_number(server, number) as client:
        while time.monotonic() < until:
            text, seed = draw.choice(TEXTS), draw.choice(SEEDS)
            audio = client.say(text, seed=seed, sample_steps=2)
            outcomes.whole(text, seed, len(audio.samples))


def listen(server: EmbeddedServer, number: int, until: float, outcomes: Outcomes) -> None:
    """One caller of streams, who leaves some of them at a random moment."""
    draw = random.Random(number)
    while time.monotonic() < until:
        text, seed = draw.choice(TEXTS), draw.choice(SEEDS)
        leaves = draw.random() < LEAVING
        with client_number(server, number) as client:
            stream = client.stream(text, seed=seed, sample_steps=2)
            chunks = list(itertools.islice(stream, draw.randrange(3) if leaves else None))
            sentences = [chunk.sentence for chunk in chunks]
            assert sentences == sorted(sentences)
            if leaves:
                stream.close()
                outcomes.count("left")
            else:
                outcomes.whole(text, seed, sum(len(chunk.samples) for chunk in chunks))


def client_number(server: EmbeddedServer, number: int) -> Client:
    """Half of the callers speak HTTP, half gRPC."""
    return Client(server.http_url) if number % 2 else Client(server.grpc_url, protocol="grpc")


Caller = Callable[[EmbeddedServer, int, float, Outcomes], None]
CALLERS = [pytest.param(speak, id="unary"), pytest.param(listen, id="stream")]


@pytest.mark.parametrize("caller", CALLERS)
def test_many_clients_leave_nothing_behind(server: EmbeddedServer, caller: Caller) -> None:
    soak(server, caller)


def soak(server: EmbeddedServer, caller: Caller) -> None:
    """Many clients of one kind."""

    def run(seconds: float) -> Outcomes:
        outcomes = Outcomes()
        until = time.monotonic() + seconds
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            for done in [
                pool.submit(caller, server, number, until, outcomes) for number in range(CLIENTS)
            ]:
                done.result()
        wait_until_idle(server)
        return outcomes

    run(min(3.0, SECONDS))  # pools and regions grow to their size
    before, counted = Holdings.of(server), metrics(server)
    outcomes = run(SECONDS)
    after = Holdings.of(server)
    assert outcomes.answers["whole"] >= CLIENTS
    assert after.regions <= before.regions
    assert after.threads <= before.threads + SPARE_THREADS
    if caller is listen:
        assert outcomes.answers["left"] >= CLIENTS / 4
        cancelled = 'gsv_requests_total{model="gpt_sovits_v4_stream",outcome="cancelled"}'
        assert metrics(server)[cancelled] > counted[cancelled]
    failed = [name for name, value in metrics(server).items() if 'outcome="failed"' in name]
    assert [name for name in failed if metrics(server)[name] > counted[name]] == []
    print(caller, dict(outcomes.answers), before, after)  # noqa: T201
