"""Several instances of every model, as on several GPUs: pinned sentences, cancellation, a death.

GSV_INSTANCES says how many (default 2), GSV_CROWD how many whole answers and how many streams
(default 16 of each; 200 for a real run).
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from server.test_soak import metrics, under_way, wait_until_idle
from tritonclient.utils import np_to_triton_dtype

from gsv.engine.gpt.judge import Bounds, BoundsTable
from gsv.serving.server import processes
from gsv.serving.server.launcher import EmbeddedServer, ServerOptions
from gsv_client import Audio, Client, SpeechOptions

pytestmark = pytest.mark.server

INSTANCES = int(os.environ.get("GSV_INSTANCES", "2"))
CROWD = int(os.environ.get("GSV_CROWD", "16"))
TEXT = "The first sentence is here. A second one follows it. And the third one ends it."
STREAMS = 64  # `concurrency` of the model that streams
LEAVERS = 50 if CROWD >= 200 else 5  # in each way
IN_FLIGHT = re.compile(r'gsv_requests_in_flight\{model="gpt_sovits_v4_stream"')
OPTIONS = {"sample_steps": 4, "language": "en", "guard": 0}


@pytest.fixture(scope="module")
def several(
    demo_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedServer]:
    """A server with several instances of each model that KIND_AUTO puts on every GPU."""
    folder = tmp_path_factory.mktemp("several")
    for part in (demo_repository, demo_repository.parent / "voices"):
        shutil.copytree(part, folder / part.name)
    # Random weights end where they like: by these bounds some sentences end too early.
    bounds = BoundsTable({"other": Bounds(2.5, 4, 1000, run=1500, loop=1500, silence=1500)})
    bounds.save(folder / demo_repository.name / "semantic_gpt" / "1")
    changed = 0
    for config in (folder / demo_repository.name).glob("*/config.pbtxt"):
        text = config.read_text(encoding="utf-8")
        kinds = text.replace("count: 1 kind: KIND_AUTO", f"count: {INSTANCES} kind: KIND_CPU")
        changed += kinds != text
        config.write_text(kinds, encoding="utf-8")
    assert changed == 5, "text, reference, GPT, flow, vocoder"
    log = folder / "triton.log"
    with (
        log.open("w", encoding="utf-8") as file,
        EmbeddedServer(
            folder / demo_repository.name,
            ServerOptions(ready_timeout=240),
            on_line=lambda line, important: print(line, file=file, flush=True),  # noqa: T201
        ) as running,
    ):
        yield running


def whole(server: EmbeddedServer, seed: int) -> np.ndarray:
    with Client(server.grpc_url, protocol="grpc") as client:
        return client.say(TEXT, seed=seed, **OPTIONS).samples


def stream(server: EmbeddedServer, seed: int, chunks: int | None = None) -> np.ndarray:
    """All samples of a stream, or of its first ``chunks``, after which the listener leaves."""
    with Client(server.grpc_url, protocol="grpc") as client:
        parts, given = [], client.stream(TEXT, seed=seed, **OPTIONS)
        for count, chunk in enumerate(given, start=1):
            parts.append(chunk.samples)
            if count == chunks:
                given.close()
                break
        return np.concatenate(parts)


def rows(server: EmbeddedServer, model: str) -> dict[str, float]:
    """Rows that each instance of a model has computed."""
    pattern = re.compile(rf'gsv_batch_rows\{{model="{model}",model_instance="([^"]+)"\}}')
    return {
        m[1]: value for name, value in metrics(server).items() if (m := pattern.fullmatch(name))
    }


def test_a_crowd_is_answered_whichever_instance_works(several: EmbeddedServer) -> None:
    draw = random.Random(1)
    seeds = [draw.randrange(4) for _ in range(CROWD)]
    alone = {seed: whole(several, seed) for seed in set(seeds)}
    before = rows(several, "semantic_gpt")
    assert len(before) == INSTANCES
    leaving = {number: draw.randrange(1, 4) for number in range(0, CROWD, 3)}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        streams = [
            pool.submit(stream, several, seed, leaving.get(number))
            for number, seed in enumerate(seeds)
        ]
        answers = [pool.submit(whole, several, seed) for seed in seeds]
        for seed, answer in zip(seeds, answers, strict=True):
            np.testing.assert_allclose(answer.result(), alone[seed], atol=2e-4)
        for number, (seed, one) in enumerate(zip(seeds, streams, strict=True)):
            samples = one.result()
            if number not in leaving:
                assert len(samples) == len(alone[seed]), f"stream {number}"
    wait_until_idle(several)
    spread = {name: count - before[name] for name, count in rows(several, "semantic_gpt").items()}
    even = sum(spread.values()) / INSTANCES
    # Sentences have different lengths; of a small crowd a few more may fall on one instance.
    allowed = 0.25 if CROWD >= 200 else 0.75
    assert all(abs(count - even) <= allowed * even for count in spread.values()), spread


def test_decisions_and_times_are_the_same_whichever_instance_works(several: EmbeddedServer) -> None:
    asked: dict[str, Any] = {**OPTIONS, "guard": 1, "seed": 0, "times": True, "report": True}

    def told(streamed: bool) -> Audio:
        with Client(several.grpc_url, protocol="grpc") as client:
            if streamed:
                return Audio.join(client.stream(TEXT, **asked))
            return client.say(TEXT, **asked)

    before = rows(several, "semantic_gpt")
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(told, [False, True] * 6))
    # What has left of a stream stays: a sentence that goes bad has another end there.
    for alike in (answers[::2], answers[1::2]):
        first = alike[0]
        assert len(first.times) == 16
        assert any(sentence.retries for sentence in first.report), "some were drawn again"
        for answer in alike[1:]:
            assert answer.report == first.report
            assert [time.word for time in answer.times] == [time.word for time in first.times]
            for one, other in zip(answer.times, first.times, strict=True):
                assert one.start == pytest.approx(other.start, abs=0.002)
    after = rows(several, "semantic_gpt")
    assert all(after[name] > before[name] for name in before), "every instance has had a share"
    retries = {n: v for n, v in metrics(several).items() if n.startswith("gsv_guard_retries_total")}
    assert sum(retries.values()) >= len(answers)
    assert all('cause="too_short"' in name and 'language="en"' in name for name in retries)


def leave_a_stream(server: EmbeddedServer, url: str, protocol: str, seed: int) -> None:
    with Client(url, protocol=protocol) as client:  # type: ignore[arg-type]
        given = client.stream(TEXT * 20, seed=seed, sample_steps=32, language="en")
        next(given)
        next(given)
        given.close()


def leave_an_answer(server: EmbeddedServer, seed: int) -> None:
    """A gRPC call of a whole answer that is called off while the flow works on it."""
    given = SpeechOptions(seed=seed, sample_steps=64, language="en").tensors(TEXT * 4)
    inputs = []
    for name, array in given.items():
        kind = np_to_triton_dtype(array.dtype)
        inputs.append(grpc.InferInput(name, list(array.shape), kind).set_data_from_numpy(array))
    done: queue.SimpleQueue[object] = queue.SimpleQueue()
    with grpc.InferenceServerClient(server.grpc_url) as client:
        call = client.async_infer("gpt_sovits_v4", inputs, lambda result, error: done.put(error))
        time.sleep(0.3)
        call.cancel()
        assert done.get(timeout=30) is not None


@pytest.mark.parametrize("way", ["gRPC stream", "HTTP stream", "gRPC answer"])
def test_whoever_leaves_is_noticed_by_every_stage(several: EmbeddedServer, way: str) -> None:
    took = []
    for seed in range(LEAVERS):
        if way == "gRPC answer":
            leave_an_answer(several, seed)
        elif way == "HTTP stream":
            leave_a_stream(several, several.http_url, "http", seed)
        else:
            leave_a_stream(several, several.grpc_url, "grpc", seed)
        left = time.monotonic()
        while under_way(several):
            assert time.monotonic() - left < 20.0
            time.sleep(0.01)
        took.append(time.monotonic() - left)
    # Gauges are told twenty times a second, which is part of what is measured.
    assert np.median(took) < 1.0, took


def test_somebody_elses_id_cancels_nothing(several: EmbeddedServer) -> None:
    with Client(several.grpc_url, protocol="grpc") as client:
        given = client.stream(TEXT * 4, seed=1, request_id="mine", **OPTIONS)
        next(given)
        with Client(several.grpc_url, protocol="grpc") as other:
            stolen = other.stream(TEXT * 4, seed=1, request_id="mine", **OPTIONS)
            next(stolen)
            stolen.close()
        assert sum(len(chunk.samples) for chunk in given) > 48_000


def test_as_many_streams_as_are_allowed_are_under_way_at_once(several: EmbeddedServer) -> None:
    most = 0.0
    with concurrent.futures.ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream, several, seed % 4) for seed in range(STREAMS)]
        while not all(one.done() for one in streams):
            told = metrics(several)
            most = max(most, sum(v for n, v in told.items() if IN_FLIGHT.match(n)))
            time.sleep(0.05)
        lengths = {seed: len(one.result()) for seed, one in enumerate(streams)}
    assert most == STREAMS
    assert all(lengths[seed] == lengths[seed % 4] for seed in lengths)
    wait_until_idle(several)


@pytest.mark.parametrize("model", ["semantic_gpt", "sovits_v4"])
def test_answers_go_on_when_an_instance_dies(several: EmbeddedServer, model: str) -> None:
    """A sentence goes on elsewhere, from its tokens so far; a whole answer is made again."""
    alone = {seed: whole(several, seed) for seed in range(4)}
    stubs = [s for s in processes.living_stubs(several.pid) if s.model == model]
    assert len(stubs) == INSTANCES
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        streams = [pool.submit(stream, several, number % 4) for number in range(16)]
        answers = [pool.submit(whole, several, number % 4) for number in range(8)]
        time.sleep(0.5)
        os.kill(stubs[0].pid, signal.SIGKILL)
        path = f"/v2/repository/models/{model}/"
        assert several.request("POST", path + "unload", {}, 60) == 200
        assert several.request("POST", path + "load", {}, 120) == 200
        for number, one in enumerate([*streams, *answers]):
            assert len(one.result()) == len(alone[number % 4])
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(answer.result(), alone[number % 4], atol=2e-4)
    wait_until_idle(several)
