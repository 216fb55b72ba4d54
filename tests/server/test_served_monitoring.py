"""A real Prometheus scrapes a loaded server: what board, alerts and adapter ask for is there."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import torch
import yaml
from deploy.promtool import program
from deploy.queries import (
    GPU_METRICS,
    Query,
    adapter_queries,
    alert_queries,
    board_queries,
    selectors,
)
from gateway.running import Gateway, running
from voices.voice_files import make_voice, write_wave
from voices.weights_files import gpt_file, lora_file

from gsv.checkpoints.voice_editing import NewVoice, Shapes, add_voice, remove_voice
from gsv.serving.server.launcher import EmbeddedServer
from gsv_client import AsyncClient, Client
from gsv_client.errors import InvalidRequest, ServerUnavailable
from gsv_client.gateway.settings import Settings

pytestmark = pytest.mark.server

DOCS = Path(__file__).parent.parent.parent / "docs"
SCRAPE_SECONDS = 1
LOAD_SECONDS = float(os.environ.get("GSV_SOAK_SECONDS", "12"))
INTERVAL = "10s"  # in place of Grafana's $__rate_interval
TEXT = "A sentence of some length, and then a second one. The third ends it!"
OPTIONS = {"seed": 5, "sample_steps": 2}
TORN = {"torn-gpt": "gpt", "torn-sovits": "sovits"}  # voices, and which file of theirs is cut short
STREAM = 'model="gpt_sovits_v4_stream"'


class Prometheus:
    """A Prometheus on a loopback port."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer of its HTTP API; HTTPError when it refuses."""
        address = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.load(answer)["data"]

    def series(self, query: str) -> list[Any]:
        """The series that a query has had since the load began."""
        end = time.time()
        found = self.get(
            "query_range", query=query, start=str(end - LOAD_SECONDS), end=str(end), step="1"
        )["result"]
        assert isinstance(found, list)
        return found


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer) -> Iterator[Gateway]:
    with running(AsyncClient(server.grpc_url), Settings(local=True)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def prometheus(
    server: EmbeddedServer,
    gateway: Gateway,
    demo_repository: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Prometheus]:
    """Prometheus after it has watched server and gateway under a load of every kind."""
    folder = tmp_path_factory.mktemp("prometheus")
    # As the chart's monitors label what they find.
    labels = {"namespace": "speech", "release": "speech", "pod": "pod-0", "instance": "pod-0"}
    addresses = {
        "triton": server.metrics_url.removeprefix("http://").removesuffix("/metrics"),
        "gateway": gateway.url.removeprefix("http://"),
    }
    jobs = [
        {"job_name": name, "static_configs": [{"targets": [address], "labels": labels}]}
        for name, address in addresses.items()
    ]
    seconds = f"{SCRAPE_SECONDS}s"
    config = {"global": {"scrape_interval": seconds}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            prometheus = Prometheus(f"http://{address}")
            _await_targets(prometheus, len(jobs), folder / "log")
            _load(server, gateway, demo_repository, folder)
            time.sleep(2 * SCRAPE_SECONDS)
            yield prometheus
        finally:
            process.terminate()
            process.wait(timeout=30)


def _await_targets(prometheus: Prometheus, jobs: int, log: Path) -> None:
    limit = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            if len(prometheus.get("query", query="up == 1")["result"]) == jobs:
                return
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.3)


def _load(server: EmbeddedServer, gateway: Gateway, repository: Path, scratch: Path) -> None:
    """Whole answers, streams, the gateway's answers, voices of their own, requests that fail."""
    voices = repository.parent / "voices"
    tuned = NewVoice(
        "tuned", write_wave(scratch / "a.wav"), "Words.", "en",
        gpt_file(scratch / "g.ckpt"), lora_file(scratch / "l.pth"),
    )  # fmt: skip
    add_voice(voices, tuned, Shapes.of(repository))
    for name, part in TORN.items():
        (make_voice(voices / name, **{part: "own.ckpt"}) / "own.ckpt").write_bytes(b"nothing")
    until = time.monotonic() + LOAD_SECONDS
    try:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            callers = [
                pool.submit(call, server, gateway, until) for call in (_whole, _streams, _speech)
            ]
            for caller in callers:
                caller.result()
    finally:
        remove_voice(voices, "tuned")
        for name in TORN:
            shutil.rmtree(voices / name)


def _whole(server: EmbeddedServer, gateway: Gateway, until: float) -> None:
    with Client(server.http_url) as client:
        while time.monotonic() < until:
            client.say(TEXT, voice="tuned", **OPTIONS)
            for name in TORN:
                with pytest.raises(ServerUnavailable, match=f"voice {name}: own.ckpt"):
                    client.say(TEXT, voice=name, **OPTIONS)


def _streams(server: EmbeddedServer, gateway: Gateway, until: float) -> None:
    with Client(server.grpc_url, protocol="grpc") as client:
        while time.monotonic() < until:
            list(client.stream(TEXT, **OPTIONS))
            with pytest.raises(InvalidRequest):
                client.say(TEXT, voice="nobody", **OPTIONS)


def _speech(server: EmbeddedServer, gateway: Gateway, until: float) -> None:
    with httpx.Client(base_url=gateway.url, timeout=60) as client:
        while time.monotonic() < until:
            answer = client.post("/v1/audio/speech", json={"input": TEXT, **OPTIONS})
            assert answer.status_code == 200


def test_every_query_of_the_board_has_data(prometheus: Prometheus) -> None:
    silent = [
        f"{query.place}: {query.text}"
        for query in board_queries(INTERVAL)
        if not query.metrics() & _nowhere() and not prometheus.series(query.text)
    ]
    assert silent == []


def _nowhere() -> set[str]:
    """Metrics that this machine cannot have."""
    return set() if torch.cuda.is_available() else GPU_METRICS


def _pieces(query: Query) -> list[str]:
    """The selectors of a query, one by one: in good times an alert itself has no data."""
    return [s.prettify() for s in selectors(promql_parser.parse(query.text))]


@pytest.mark.parametrize(
    "query", [*alert_queries(), *adapter_queries('namespace="speech"')], ids=lambda q: q.place
)
def test_what_alerts_and_the_adapter_look_at_is_there(prometheus: Prometheus, query: Query) -> None:
    if query.metrics() <= _nowhere():
        pytest.skip("NOT RUN: no GPU")
    for piece in _pieces(query):
        # The one label that says "something went wrong" need not have happened in the gateway.
        assert prometheus.series(re.sub(r',?\s*status=~"5\.\."', "", piece)), piece


def test_the_adapters_answers(prometheus: Prometheus) -> None:
    in_flight, first_audio = adapter_queries('namespace="speech",release="speech"')
    values = [float(v) for s in prometheus.series(in_flight.text) for _, v in s["values"]]
    assert max(values) >= 1
    values = [float(v) for s in prometheus.series(first_audio.text) for _, v in s["values"]]
    assert 0 < max(values) < 60


def _now(prometheus: Prometheus, query: str) -> dict[str, float]:
    """The last value of each series of a query, by its label ``model``."""
    found = prometheus.series(query)
    return {s["metric"].get("model", ""): float(s["values"][-1][1]) for s in found}


def test_histograms_agree_with_the_counters(prometheus: Prometheus) -> None:
    answered = _now(prometheus, 'sum by (model) (gsv_requests_total{outcome="answered"})')
    assert answered == _now(prometheus, "sum by (model) (gsv_request_seconds_count)")
    for name in ("gsv_request_seconds", "gsv_queue_seconds", "gsv_first_audio_seconds"):
        whole = _now(prometheus, f'sum by (model) ({name}_bucket{{le="+Inf"}})')
        assert whole == _now(prometheus, f"sum by (model) ({name}_count)")
    streams = answered["gpt_sovits_v4_stream"]
    # Streams that were left after it have had their first audio as well.
    assert _now(prometheus, "sum(gsv_first_audio_seconds_count)")[""] >= streams
    # A chunk of every sentence, all but the first of an answer.
    assert _now(prometheus, "sum(gsv_chunk_late_seconds_count)")[""] >= 2 * streams


def test_first_audio_comes_before_the_whole_answer(prometheus: Prometheus) -> None:
    means = {
        name: _now(prometheus, f"{name}_sum{{{STREAM}}} / {name}_count{{{STREAM}}}")[STREAM[7:-1]]
        for name in ("gsv_queue_seconds", "gsv_first_audio_seconds", "gsv_request_seconds")
    }
    assert 0 < means["gsv_queue_seconds"] < means["gsv_first_audio_seconds"]
    assert means["gsv_first_audio_seconds"] < means["gsv_request_seconds"] < 60


def test_every_histogram_names_its_instance(prometheus: Prometheus) -> None:
    unnamed = prometheus.series('{__name__=~"gsv_.+_seconds_count",model!="",model_instance=""}')
    assert unnamed == []
    named = prometheus.series('gsv_queue_seconds_count{model_instance!=""}')
    assert {s["metric"]["model"] for s in named} == {
        "gpt_sovits_v4", "gpt_sovits_v4_stream", "text_frontend", "semantic_gpt", "sovits_v4",
        "vocoder",
    }  # fmt: skip


def test_torn_files_of_voices_are_counted(prometheus: Prometheus) -> None:
    failures = prometheus.series("gsv_voice_load_failures_total")
    counted = {(s["metric"]["voice"], s["metric"]["model"]) for s in failures}
    assert counted == {("torn-gpt", "semantic_gpt"), ("torn-sovits", "reference_encoder")}


def test_every_metric_that_we_export_is_documented(prometheus: Prometheus) -> None:
    exported = {name for name in prometheus.get("label/__name__/values") if name.startswith("gsv_")}
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported}
    assert len(families) > 15
    pages = "".join(path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))
    assert families - set(re.findall(r"`(gsv_\w+)`", pages)) == set()
