"""A traced server: one tree a request, request ids and models' names in the log."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateway.running import running
from serving.collector import Collector, Seen, collecting

from gsv.serving.backend.tracing import EXPORT_SECONDS
from gsv.serving.server.launcher import EmbeddedServer, ServerOptions
from gsv_client import AsyncClient, Client
from gsv_client.errors import InvalidRequest
from gsv_client.gateway.settings import Settings

pytestmark = pytest.mark.server

TEXT = "A sentence of some length, and then a second one."
OPTIONS = {"seed": 5, "sample_steps": 2}
STAGES = {"text_frontend", "reference_encoder", "semantic_gpt", "sovits_v4", "vocoder"}
PUBLIC = ("gpt_sovits_v4", "gpt_sovits_v4_stream")
WAIT = 20  # seconds; only a failing test waits that long


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "triton.log"


@pytest.fixture(scope="module")
def traced(
    demo_repository: Path,
    collector: Collector,
    log: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[EmbeddedServer]:
    """A server that traces everything, on a machine without a C compiler."""
    programs = tmp_path_factory.mktemp("bin")
    bash = shutil.which("bash")
    assert bash is not None
    (programs / "bash").symlink_to(bash)  # by which Triton starts models
    trace = [
        "mode=opentelemetry", "rate=1", "level=TIMESTAMPS", f"opentelemetry,url={collector.url}",
        "opentelemetry,bsp_schedule_delay=200",
    ]  # fmt: skip
    options = ServerOptions(
        ready_timeout=180, extra=tuple(f"--trace-config={setting}" for setting in trace)
    )
    changed = {"PATH": str(programs), "GSV_LOG_REQUESTS": "1"}
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in changed.items():
            patch.setenv(name, value)
        file = stack.enter_context(log.open("w", encoding="utf-8"))

        def note(line: str, important: bool) -> None:
            file.write(line + "\n")
            file.flush()

        yield stack.enter_context(EmbeddedServer(demo_repository, options, on_line=note))


def of_request(collector: Collector, request_id: str, model: str) -> list[Seen]:
    """All spans of the trace that a request with this id of its own belongs to."""

    def trace() -> str:
        found = [
            s.trace
            for s in collector.spans
            if s.name == model and s.attributes.get("gsv.request_id") == request_id
        ]
        return found[0] if found else ""

    def complete() -> bool:
        own = [s for s in collector.spans if s.trace == trace()]
        ids = {s.id for s in own}
        # All but the first are below others that are there, Triton's among them.
        one_root = len([s for s in own if s.parent not in ids]) == 1
        return one_root and {s.name for s in own} >= STAGES | {model, "InferRequest"}

    with collector.arrived:
        assert collector.arrived.wait_for(complete, WAIT), collector.spans
        # A process sends its spans once a second: the last of a stage may come with the next.
        collector.arrived.wait_for(lambda: False, 1.5 * EXPORT_SECONDS)
        return [s for s in collector.spans if s.trace == trace()]


def root_of(spans: list[Seen]) -> Seen:
    ids = {s.id for s in spans}
    (root,) = [s for s in spans if s.parent not in ids]
    return root


def check_tree(collector: Collector, spans: list[Seen], public: str, request_id: str) -> list[str]:
    """One tree: Triton's request, its public model, ours, the stages; the names of the last."""
    tree = collector.tree(root_of(spans))
    assert len(tree) == len(spans), "every span hangs in the one tree"
    ours = [s for s in spans if s.service == "gpt-sovits-triton"]
    (answer,) = [s for s in ours if s.name == public]
    parents = {s.id: s for s in spans}
    assert parents[answer.parent].name == public, "Triton's own span of the model"
    assert parents[answer.parent].service != answer.service
    stages = [s for s in ours if s is not answer]
    assert {s.parent for s in stages} == {answer.id}
    assert {s.attributes["gsv.request_id"] for s in ours} == {request_id}
    assert all(s.attributes["gsv.model_instance"] == f"{s.name}_0_0" for s in ours)
    assert all(s.seconds <= answer.seconds for s in stages if s.name != "semantic_gpt")
    return [s.name for s in stages]


def test_a_whole_answer_is_one_tree(traced: EmbeddedServer, collector: Collector) -> None:
    with Client(traced.http_url) as client:
        client.say(TEXT, request_id="whole!1", **OPTIONS)
    spans = of_request(collector, "whole!1", "gpt_sovits_v4")
    names = check_tree(collector, spans, "gpt_sovits_v4", "whole!1")
    # Each stage once, through the ensemble; and then the end of the answer's sequence.
    assert sorted(names) == sorted([*STAGES, "semantic_gpt"])
    assert not any(s.failed for s in spans)


def test_a_stream_is_one_tree(traced: EmbeddedServer, collector: Collector) -> None:
    with Client(traced.grpc_url, protocol="grpc") as client:
        chunks = list(client.stream(TEXT, request_id="stream-1", **OPTIONS))
    spans = of_request(collector, "stream-1", "gpt_sovits_v4_stream")
    names = check_tree(collector, spans, "gpt_sovits_v4_stream", "stream-1")
    assert set(names) == STAGES
    assert names.count("text_frontend") == names.count("reference_encoder") == 1
    # A call of the vocoder for each chunk, but for those too short to make samples of.
    assert names.count("vocoder") >= len(chunks)
    assert names.count("semantic_gpt") >= 2


def test_the_tree_hangs_below_the_callers_span(
    traced: EmbeddedServer, collector: Collector
) -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with Client(traced.http_url, headers={"traceparent": f"00-{trace}-{span}-01"}) as client:
        client.say(TEXT, request_id="below", **OPTIONS)
    spans = of_request(collector, "below", "gpt_sovits_v4")
    assert root_of(spans).parent == span
    assert {s.trace for s in spans} == {trace}


@pytest.mark.parametrize("streamed", [True, False])
def test_the_tree_hangs_below_the_span_of_the_gateways_caller(
    traced: EmbeddedServer, collector: Collector, streamed: bool
) -> None:
    # Triton 2.51 drops the header of some requests over gRPC (8 of 30), which then have a trace of
    # their own: each is one tree, and of eight not all are dropped.
    with running(AsyncClient(traced.grpc_url), Settings(local=True)) as gateway:
        for attempt in range(8):
            trace, span = secrets.token_hex(16), secrets.token_hex(8)
            own = f"gateway-{streamed}-{attempt}"
            headers = {"traceparent": f"00-{trace}-{span}-01", "X-Request-Id": own}
            body = {"input": TEXT, "response_format": "pcm", "stream": streamed, **OPTIONS}
            answer = httpx.post(
                f"{gateway.url}/v1/audio/speech", json=body, headers=headers, timeout=60
            )
            assert answer.status_code == 200
            public = PUBLIC[streamed]
            spans = of_request(collector, own, public)
            assert set(check_tree(collector, spans, public, own)) == STAGES
            if root_of(spans).parent:
                break
    assert root_of(spans).parent == span
    assert {s.trace for s in spans} == {trace}


def test_a_failure_is_seen_where_it_happened(traced: EmbeddedServer, collector: Collector) -> None:
    with (
        Client(traced.http_url) as client,
        pytest.raises(InvalidRequest, match="VOICE: got 'nobody'"),
    ):
        client.say(TEXT, voice="nobody", request_id="bad", **OPTIONS)
    with collector.arrived:
        assert collector.arrived.wait_for(
            lambda: any(s.attributes.get("gsv.request_id") == "bad" for s in collector.spans), WAIT
        )
    (span,) = [s for s in collector.spans if s.attributes.get("gsv.request_id") == "bad"]
    assert span.failed
    assert span.attributes["gsv.outcome"] == "refused"


@pytest.mark.parametrize("public", PUBLIC)
def test_every_stage_logs_the_callers_id(traced: EmbeddedServer, log: Path, public: str) -> None:
    own = f"order-{public}"
    if public == PUBLIC[0]:
        with Client(traced.http_url) as client:
            client.say(TEXT, request_id=own, **OPTIONS)
    else:
        with Client(traced.grpc_url, protocol="grpc") as client:
            list(client.stream(TEXT, request_id=own, **OPTIONS))
    line = re.compile(rf"(\w+): request id='{own}' answered after \d+\.\d+ s")
    until, models = time.monotonic() + WAIT, set[str]()
    while models != STAGES | {public} and time.monotonic() < until:
        time.sleep(0.05)  # the last ones log while the answer is on its way
        models = {m[1] for m in line.finditer(log.read_text(encoding="utf-8"))}
    assert models == STAGES | {public}


def test_what_stubs_log_arrives_with_the_models_name(traced: EmbeddedServer, log: Path) -> None:
    text = log.read_text(encoding="utf-8")
    # Triton's level, time and process before it.
    lines = re.findall(r'^I\d{4} [\d:.]+ \d+ \w+\.py:\d+\] "(\w+): (.*)"$', text, re.MULTILINE)
    told = {(model, message.partition(":")[0]) for model, message in lines}
    assert ("semantic_gpt", "no C compiler found") in told
    assert ("sovits_v4", "sovits_v4 on cpu") in told
    assert {model for model, _ in lines} >= {"semantic_gpt", "sovits_v4", "voices"}
