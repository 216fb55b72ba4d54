"""The stream through a real tritonserver: order, completeness, and callers that leave."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import random
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from server.test_soak import metrics, wait_until_idle

from gsv.offline import Offline
from gsv_client import Client
from gsv_client.errors import InvalidRequest

pytestmark = pytest.mark.server

TEXT = "A first sentence, then a second one. And at the end a third, which is the longest of all!"
OPTIONS: dict[str, Any] = {"seed": 21, "sample_steps": 4}
HUNG_UP = 60  # callers; with 100 steps of flow matching their first chunks take far longer than 2 s


def gauge(server: Any, name: str) -> float:
    """A metric of the server, summed over its labels."""
    url = f"http://{server.metrics_url.removeprefix('http://')}"
    url = url if url.endswith("/metrics") else f"{url}/metrics"
    with urllib.request.urlopen(url, timeout=10) as response:
        lines = response.read().decode().splitlines()
    values = [line.rsplit(" ", 1)[1] for line in lines if line.startswith((name + "{", name + " "))]
    assert values, f"no metric {name}"
    return sum(map(float, values))


def client_for(server: Any, protocol: str) -> Client:
    return Client(server.grpc_url if protocol == "grpc" else server.http_url, protocol=protocol)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_chunks_come_in_order_and_add_up_to_the_unary_answer(server: Any, protocol: str) -> None:
    with client_for(server, protocol) as client:
        whole = client.say(TEXT, **OPTIONS)
        chunks = list(client.stream(TEXT, **OPTIONS))
    assert len(chunks) > len({chunk.sentence for chunk in chunks}) > 1
    sentences = [chunk.sentence for chunk in chunks]
    assert sentences == sorted(sentences)
    assert {chunk.rate for chunk in chunks} == {48_000}
    assert sum(len(chunk.samples) for chunk in chunks) == len(whole.samples)
    joined = np.concatenate([chunk.samples for chunk in chunks])
    assert np.isfinite(joined).all()
    assert 0.001 < np.abs(joined).max() <= 1.0


def test_a_bad_request_fails_the_stream_before_any_audio(server: Any) -> None:
    for protocol in ("grpc", "http"):
        with client_for(server, protocol) as client:
            with pytest.raises(InvalidRequest, match="VOICE"):
                list(client.stream(TEXT, voice="nobody"))
            with pytest.raises(InvalidRequest, match="TOP_K"):
                list(client.stream(TEXT, top_k=0))


def test_streams_in_company_are_the_streams_alone(server: Any) -> None:
    def hear(seed: int) -> np.ndarray:
        with client_for(server, "grpc") as client:
            chunks = client.stream("One sentence that is alone.", seed=seed, sample_steps=4)
            return np.concatenate([chunk.samples for chunk in chunks])

    seeds = range(31, 37)
    alone = [len(hear(seed)) for seed in seeds]
    with concurrent.futures.ThreadPoolExecutor(len(seeds)) as pool:
        together = [len(samples) for samples in pool.map(hear, seeds)]
    assert together == alone


def test_listeners_that_leave_free_their_places(server: Any) -> None:
    draw = random.Random(5)

    def leave_early(seed: int) -> None:
        with client_for(server, draw.choice(["grpc", "http"])) as client:
            stream = client.stream(TEXT * 3, seed=seed, sample_steps=4)
            for _ in range(draw.randrange(1, 3)):
                next(stream)
            stream.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(leave_early, range(8)))
    deadline = time.monotonic() + 20
    while gauge(server, "gsv_batch_running") > 0:
        assert time.monotonic() < deadline, "abandoned sequences still run"
        time.sleep(0.2)
    with client_for(server, "grpc") as client:
        assert client.say("Still there.", **OPTIONS).duration > 0.3


def test_http_callers_that_hang_up_before_the_first_audio_are_noticed(server: Any) -> None:
    """Triton doesn't look at a connection before the first response is sent on it."""
    counted = 'gsv_requests_total{model="gpt_sovits_v4_stream",outcome="cancelled"}'
    before = metrics(server)[counted]
    body = json.dumps({"TEXT": TEXT, "SAMPLE_STEPS": 100})
    with contextlib.ExitStack() as connections:
        for _ in range(HUNG_UP):
            connection = http.client.HTTPConnection(server.http_url, timeout=10)
            connections.enter_context(contextlib.closing(connection))
            connection.request("POST", "/v2/models/gpt_sovits_v4_stream/generate_stream", body)
        time.sleep(0.5)  # until they are in the server
    began = time.monotonic()
    wait_until_idle(server)
    took = time.monotonic() - began
    assert metrics(server)[counted] - before >= 0.8 * HUNG_UP, f"idle after {took:.1f} s"


def test_offline_equals_the_server_and_whole_sentences_equal_the_unary_answer(
    server: Any, demo_repository: Path
) -> None:
    with client_for(server, "grpc") as client:
        served = client.say(TEXT, **OPTIONS).samples
    whole_sentences = {"gpt_sovits_v4_stream": {"first_chunk_seconds": "0"}}
    with Offline(demo_repository, settings=whole_sentences) as offline:
        unary = offline.say(text=TEXT, **OPTIONS).audio
        chunks = list(offline.stream(text=TEXT, **OPTIONS))
    np.testing.assert_allclose(served, unary, atol=2e-4)
    assert [chunk.sentence_index for chunk in chunks] == list(range(len(chunks)))
    np.testing.assert_allclose(np.concatenate([chunk.audio for chunk in chunks]), unary, atol=1e-4)
