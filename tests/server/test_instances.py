"""Several instances of every model, as on several GPUs: pinned sentences, cancellation, a death.

GSV_INSTANCES says how many (default 2), GSV_CROWD how many whole answers and how many streams
(default 16 of each; 200 for a real run).
"""

from __future__ import annotations

import concurrent.futures
import datetime
import os
import queue
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from server.test_soak import CALLERS, Caller, metrics, soak, wait_until_idle
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
UNEVEN = 0.25  # of an even share of the sentences, by which an instance's may be more or less
# What GSV_LOG_REQUESTS has a model write, after Triton's own stamp, in UTC.
CANCELLED = re.compile(r"I(\d{4} [\d:.]+) .*?(\w+): request id='([^']*)' cancelled after")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the server."""
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def several(demo_repository: Path, folder: Path) -> Iterator[EmbeddedServer]:
    """A server with several instances of each model that KIND_AUTO puts on every GPU."""
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
    with (
        pytest.MonkeyPatch.context() as patch,
        (folder / "triton.log").open("w", encoding="utf-8") as file,
    ):
        patch.setenv("GSV_LOG_REQUESTS", "1")
        with EmbeddedServer(
            folder / demo_repository.name,
            ServerOptions(ready_timeout=240),
            on_line=lambda line, important: print(line, file=file, flush=True),  # noqa: T201
        ) as running:
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


def begun(server: EmbeddedServer, model: str = "semantic_gpt") -> dict[str, float]:
    """Sentences that each instance of a model has begun to work on."""
    labels = rf'\{{model="{model}",model_instance="([^"]+)"\}}'
    pattern = re.compile(f"gsv_queue_seconds_count{labels}")
    return {
        m[1]: value for name, value in metrics(server).items() if (m := pattern.fullmatch(name))
    }


def check_spread(server: EmbeddedServer, before: dict[str, float]) -> None:
    wait_until_idle(server)
    assert len(before) == INSTANCES
    spread = {name: count - before[name] for name, count in begun(server).items()}
    even = sum(spread.values()) / INSTANCES
    print("sentences of each instance:", sorted(spread.values()))  # noqa: T201
    assert all(abs(count - even) <= UNEVEN * even for count in spread.values()), spread


def test_a_crowd_is_answered_whichever_instance_works(several: EmbeddedServer) -> None:
    draw = random.Random(1)
    seeds = [draw.randrange(4) for _ in range(CROWD)]
    alone = {seed: whole(several, seed) for seed in set(seeds)}
    before = begun(several)
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
    check_spread(several, before)


def test_whole_answers_are_spread_beside_a_stream(several: EmbeddedServer) -> None:
    """Each has a place at its instance, so that not all of them go where the stream isn't."""
    with Client(several.grpc_url, protocol="grpc") as client:
        listened = client.stream(TEXT * 20, seed=1, **OPTIONS)
        next(listened)
        before = begun(several)
        at_once = 4 * INSTANCES - 1
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda seed: whole(several, seed % 4), range(3 * at_once)))
        listened.close()
    check_spread(several, before)


def test_decisions_and_times_are_the_same_whichever_instance_works(several: EmbeddedServer) -> None:
    asked: dict[str, Any] = {**OPTIONS, "guard": 1, "seed": 0, "times": True, "report": True}

    def told(streamed: bool) -> Audio:
        with Client(several.grpc_url, protocol="grpc") as client:
            if streamed:
                return Audio.join(client.stream(TEXT, **asked))
            return client.say(TEXT, **asked)

    before = begun(several)
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
    after = begun(several)
    assert all(after[name] > before[name] for name in before), "every instance has had a share"
    retries = {n: v for n, v in metrics(several).items() if n.startswith("gsv_guard_retries_total")}
    assert sum(retries.values()) >= len(answers)
    assert all('cause="too_short"' in name and 'language="en"' in name for name in retries)


def leave_a_grpc_stream(server: EmbeddedServer, seed: int, name: str) -> float:
    with Client(server.grpc_url, protocol="grpc") as client:
        return leave_a_stream(client, seed, name)


def leave_an_http_stream(server: EmbeddedServer, seed: int, name: str) -> float:
    with Client(server.http_url) as client:
        return leave_a_stream(client, seed, name)


def leave_a_stream(client: Client, seed: int, name: str) -> float:
    asked = {"seed": seed, "sample_steps": 32, "language": "en", "request_id": name}
    given = client.stream(TEXT * 20, **asked)  # type: ignore[arg-type]
    next(given)
    next(given)
    left = time.time()
    given.close()
    return left


def leave_a_grpc_answer(server: EmbeddedServer, seed: int, name: str) -> float:
    """A call of a whole answer that is called off while one of the stages works on it."""
    given = SpeechOptions(seed=seed, sample_steps=64, language="en").tensors(TEXT * 4)
    inputs = []
    for tensor, array in given.items():
        kind = np_to_triton_dtype(array.dtype)
        inputs.append(grpc.InferInput(tensor, list(array.shape), kind).set_data_from_numpy(array))
    done: queue.SimpleQueue[object] = queue.SimpleQueue()
    with grpc.InferenceServerClient(server.grpc_url) as client:
        call = client.async_infer(
            "gpt_sovits_v4",
            inputs,
            lambda result, error: done.put(error),
            request_id=name,
        )
        time.sleep(0.1 + 0.2 * (seed % 5))
        left = time.time()
        call.cancel()
        assert done.get(timeout=30) is not None
        return left


@pytest.mark.parametrize(
    "leave",
    [leave_a_grpc_stream, leave_an_http_stream, leave_a_grpc_answer],
    ids=["gRPC stream", "HTTP stream", "gRPC answer"],
)
def test_whoever_leaves_is_noticed_by_every_stage(
    several: EmbeddedServer, folder: Path, leave: Callable[[EmbeddedServer, int, str], float]
) -> None:
    left: dict[str, float] = {}
    for seed in range(LEAVERS):
        name = f"{leave.__name__}-{seed}"
        left[name] = leave(several, seed, name)
        wait_until_idle(several, pause=0.02)
    took = seconds_until_cancelled(folder / "triton.log", left)
    public = "gpt_sovits_v4" if leave is leave_a_grpc_answer else "gpt_sovits_v4_stream"
    assert len(took[public]) == LEAVERS
    assert len(took) > 1, "no stage was at work"
    for model, seconds in took.items():
        told = ", ".join(f"{np.quantile(seconds, q):.3f}" for q in (0.5, 0.95, 1.0))
        print(f"{model}: {len(seconds)} cancelled, p50, p95, most: {told} s")  # noqa: T201
        # A stage looks fifty times a second, and ends the step that it is at.
        assert np.median(seconds) < 0.2, (model, seconds)
        assert max(seconds) < 2.0, (model, seconds)


def seconds_until_cancelled(log: Path, left: dict[str, float]) -> dict[str, list[float]]:
    """By model, what passed until its last request of each caller was cancelled.

    Args:
        log: of the server.
        left: when the caller with this request id left, in seconds since 1970.
    """
    time.sleep(0.2)  # lines come through a pipe
    ends: dict[str, dict[str, float]] = {}
    year = datetime.datetime.now(datetime.timezone.utc).year
    for stamp, model, name in CANCELLED.findall(log.read_text(encoding="utf-8")):
        if name in left:
            at = datetime.datetime.strptime(f"{year}{stamp} +0000", "%Y%m%d %H:%M:%S.%f %z")
            ends.setdefault(model, {})[name] = at.timestamp() - left[name]
    return {model: list(seconds.values()) for model, seconds in ends.items()}


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


@pytest.mark.parametrize("caller", CALLERS)
def test_many_clients_leave_nothing_behind(several: EmbeddedServer, caller: Caller) -> None:
    soak(several, caller)


_TRITON_ENDS = 3  # tries; in one of about thirty, Triton ends while it unloads and loads a model


def all_go_on(several: EmbeddedServer, model: str, alone: dict[int, np.ndarray]) -> bool:
    """Kill an instance among callers, and load the model anew; false if Triton ended meanwhile."""
    stubs = [s for s in processes.living_stubs(several.pid) if s.model == model]
    assert len(stubs) == INSTANCES
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        streams = [pool.submit(stream, several, number % 4) for number in range(16)]
        answers = [pool.submit(whole, several, number % 4) for number in range(8)]
        time.sleep(0.5)
        os.kill(stubs[0].pid, signal.SIGKILL)
        path = f"/v2/repository/models/{model}/"
        seconds = {"unload": 60, "load": 120}
        told = [several.request("POST", path + what, {}, most) for what, most in seconds.items()]
        if told != [200, 200]:
            limit = time.monotonic() + 10.0
            while not several.ended() and time.monotonic() < limit:
                time.sleep(0.1)
            assert several.ended(), told
            concurrent.futures.wait([*streams, *answers])
            return False
        for number, one in enumerate([*streams, *answers]):
            assert len(one.result()) == len(alone[number % 4])
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(answer.result(), alone[number % 4], atol=2e-4)
    return True


@pytest.mark.parametrize("model", ["semantic_gpt", "sovits_v4"])
def test_answers_go_on_when_an_instance_dies(several: EmbeddedServer, model: str) -> None:
    """A sentence goes on elsewhere, from its tokens so far; a whole answer is made again."""
    alone = {seed: whole(several, seed) for seed in range(4)}
    for _ in range(_TRITON_ENDS):
        if all_go_on(several, model, alone):
            break
        several.restart()  # as `gsv serve` does
    else:
        pytest.fail(f"tritonserver ended in each of {_TRITON_ENDS} tries")
    wait_until_idle(several)
