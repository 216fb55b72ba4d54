"""The load test: loops, starvation, metrics, report, plots, command."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from gsv_client import Client, InvalidRequest, ServerError, ServerUnavailable, SpeechOptions
from gsv_client.bench import metrics, plots
from gsv_client.bench.load import (
    Outcome,
    Text,
    closed_loop,
    load_texts,
    open_loop,
    poisson_arrivals,
    speaker,
    would_starve,
)
from gsv_client.bench.report import HEADER, Run, percentiles, row
from gsv_client.cli import main
from gsv_client.testing import FakeTransport

TEXTS = [Text("a", "en", "One."), Text("b", "zh", "二。")]


def test_the_kept_texts_are_of_mixed_lengths_and_languages() -> None:
    texts = load_texts()
    assert len({text.id for text in texts}) == len(texts) >= 12
    assert {text.language for text in texts} == {"en", "zh"}
    lengths = [len(text.text) for text in texts if text.language == "en"]
    assert max(lengths) > 10 * min(lengths)


@pytest.mark.parametrize("content", ["[]", "{", '[{"id": "x"}]', '["x"]', "3"])
def test_texts_of_another_form(tmp_path: Path, content: str) -> None:
    (tmp_path / "texts.json").write_text(content)
    with pytest.raises(InvalidRequest, match=r"texts\.json"):
        load_texts(tmp_path / "texts.json")


def test_a_closed_loop_keeps_so_many_callers_busy() -> None:
    lock, busy, most, spoken = threading.Lock(), 0, 0, []

    def speak(text: Text, index: int) -> Iterable[float]:
        nonlocal busy, most
        with lock:
            busy, spoken[:] = busy + 1, [*spoken, (index, text.id)]
            most = max(most, busy)
        time.sleep(0.01)
        with lock:
            busy -= 1
        yield 1.0

    outcomes, seconds = closed_loop(speak, TEXTS, concurrency=3, requests=10)
    assert most == 3
    assert sorted(spoken) == [(i, "ab"[i % 2]) for i in range(10)]
    assert len(outcomes) == 10
    assert all(outcome.latency >= 0.01 and outcome.audio == 1.0 for outcome in outcomes)
    assert seconds >= 0.03


def test_an_open_loop_does_not_wait_and_counts_from_when_it_was_due() -> None:
    def speak(text: Text, index: int) -> Iterable[float]:
        with turn:  # one at a time: the later ones queue
            time.sleep(0.05)
        yield 1.0

    turn = threading.Lock()
    outcomes, _ = open_loop(speak, TEXTS, rate=1000.0, requests=5)
    latencies = sorted(outcome.latency for outcome in outcomes)
    assert latencies[-1] > 0.2


def test_arrivals_are_poisson_and_repeatable() -> None:
    arrivals = poisson_arrivals(4.0, 4_000, seed=1)
    assert arrivals == poisson_arrivals(4.0, 4_000, seed=1)
    waits = np.diff(arrivals)
    assert abs(waits.mean() - 0.25) < 0.02
    assert abs(waits.std() - 0.25) < 0.02  # of an exponential, the mean


def test_failures_are_counted_not_raised() -> None:
    def speak(text: Text, index: int) -> Iterable[float]:
        if index == 0:
            raise ServerError("broken")
        if index == 1:
            yield 0.5
            raise ServerError("broken later")
        return

    outcomes, _ = closed_loop(speak, TEXTS, concurrency=1, requests=3)
    assert [outcome.error for outcome in outcomes] == [
        "ServerError: broken", "ServerError: broken later", "ended without audio",
    ]  # fmt: skip
    assert (outcomes[0].first_audio, outcomes[1].audio) == (None, 0.5)


@pytest.mark.parametrize(
    ("arrivals", "seconds", "starves"),
    [
        ([3.0], [1.0], False),
        ([3.0, 3.9], [1.0, 1.0], False),
        ([3.0, 4.1], [1.0, 1.0], True),
        ([0.0, 0.1, 1.9], [1.0, 1.0, 1.0], False),
        ([0.0, 0.1, 2.1], [1.0, 1.0, 1.0], True),
    ],
)
def test_starvation(arrivals: list[float], seconds: list[float], starves: bool) -> None:
    assert would_starve(arrivals, seconds) is starves


def test_requests_of_a_run_can_be_repeated(transport: FakeTransport, fake: Client) -> None:
    speak = speaker(fake, SpeechOptions(voice="demo"), stream=True)
    assert list(speak(TEXTS[1], 5)) == [0.2]
    request = transport.requests[0]
    assert request.model == "gpt_sovits_v4_stream"
    assert request.inputs["SEED"].item() == 5
    assert request.inputs["LANGUAGE"].item() == b"zh"
    list(speaker(fake, SpeechOptions(seed=3, language="auto"), stream=False)(TEXTS[1], 5))
    request = transport.requests[1]
    assert (request.model, request.inputs["SEED"].item()) == ("gpt_sovits_v4", 3)
    assert request.inputs["LANGUAGE"].item() == b"auto"


BEFORE = """# HELP nv_inference_count x
nv_inference_count{model="vocoder",version="1"} 2
nv_inference_exec_count{model="vocoder",version="1"} 2
nv_inference_request_success{model="vocoder",version="1"} 2
gsv_steps_sum 10
gsv_steps_count 5
gsv_batch_steps{model="sovits_v4"} 100
gsv_batch_rows{model="sovits_v4"} 150
"""
AFTER = """nv_inference_count{model="vocoder",version="1"} 18
nv_inference_exec_count{model="vocoder",version="1"} 6
nv_inference_request_success{model="vocoder",version="1"} 18
nv_inference_request_failure{model="vocoder",reason="OTHER",version="1"} 1
nv_inference_request_failure{model="vocoder",reason="BACKEND",version="1"} 2
nv_inference_queue_duration_us{model="vocoder",version="1"} 32000
nv_inference_count{model="idle",version="1"} 0
nv_cpu_memory_used_bytes 1e9
gsv_steps_bucket{le="1"} 3
gsv_steps_sum 40
gsv_steps_count 15
gsv_active{model="a b"} 3 1700000000
gsv_batch_steps{model="sovits_v4"} 108
gsv_batch_rows{model="sovits_v4"} 178
gsv_batch_steps{model="semantic_gpt"} 0
gsv_batch_rows{model="semantic_gpt"} 0
"""


def test_metrics_before_and_after() -> None:
    found = metrics.compare(metrics.parse(BEFORE), metrics.parse(AFTER))
    assert set(found["models"]) == {"vocoder"}
    assert found["batches"] == {"sovits_v4": {"steps": 8, "mean_rows": 3.5}}
    vocoder = found["models"]["vocoder"]
    assert (vocoder["requests"], vocoder["failures"], vocoder["executions"]) == (16, 3, 4)
    assert (vocoder["mean_batch"], vocoder["queue_ms"]) == (4.0, 2.0)
    assert found["gsv"]["gsv_steps_sum"] == {"gained": 30, "now": 40, "mean": 3.0}
    assert found["gsv"]['gsv_active{model="a b"}']["now"] == 3
    assert not any("bucket" in series for series in found["gsv"])
    assert found["memory_bytes"] == {"nv_cpu_memory_used_bytes": 1e9}


def test_scraping(http_address: str) -> None:
    assert metrics.scrape(f"{http_address}/metrics")["gsv_audio_seconds_total"] == 2.5
    with pytest.raises(ServerUnavailable, match="no server answers"):
        metrics.scrape("http://127.0.0.1:1/metrics")


def outcome(latency: float, **values: object) -> Outcome:
    defaults = {"audio": 2.0, "first_audio": latency / 2, "gap": 0.1, "starved": False}
    return Outcome("a", 0.0, latency, **{**defaults, **values})  # type: ignore[arg-type]


OUTCOMES = [
    outcome(1.0), outcome(2.0, starved=True, gap=0.7), outcome(3.0),
    Outcome("a", 0.0, 9.0, error="ServerError: x"),
]  # fmt: skip


def test_figures_of_a_stream() -> None:
    figures = Run("http://h", "stream", "closed", 2, OUTCOMES, 4.0).figures()
    assert figures["requests"] == 4
    assert figures["errors"] == {"ServerError: x": 1}
    assert figures["audio_seconds_per_second"] == 6.0 / 4.0
    assert figures["first_audio"]["p50"] == 1.0
    assert figures["latency"]["p50"] == 2.0
    assert figures["real_time_factor"]["mean"] == 1.0
    assert figures["largest_gap"] == 0.7
    assert figures["never_starved"] == 2 / 3


def test_a_whole_answer_has_no_gaps() -> None:
    figures = Run("http://h", "unary", "closed", 2, OUTCOMES, 4.0).figures()
    assert (figures["largest_gap"], figures["never_starved"]) == (None, None)


def test_a_run_without_any_answer() -> None:
    run = Run("http://h", "stream", "open", 0.5, OUTCOMES[3:], 4.0)
    assert run.figures()["latency"] is None
    assert len(row(run)) == len(HEADER)
    assert row(run)[2] == "0.5/s"
    assert percentiles([]) is None


def test_rows_are_in_milliseconds() -> None:
    cells = dict(zip(HEADER, row(Run("h", "stream", "closed", 2, OUTCOMES, 4.0)), strict=False))
    assert cells["FIRST p50"] == "1000"
    assert cells["STEADY"] == "67%"
    assert cells["LOAD"] == "2 at once"
    assert cells["FLOW ROWS"] == "-"


def test_mean_batches_stand_in_the_row() -> None:
    server = metrics.compare(metrics.parse(BEFORE), metrics.parse(AFTER))
    run = Run("h", "stream", "closed", 2, OUTCOMES, 4.0, server)
    cells = dict(zip(HEADER, row(run), strict=True))
    assert (cells["GPT ROWS"], cells["FLOW ROWS"]) == ("-", "3.5")


def test_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [
        Run("http://h", mode, loop, load, OUTCOMES, 4.0)
        for mode in ("unary", "stream")
        for loop, load in (("closed", 1.0), ("closed", 4.0), ("open", 0.5))
    ]
    for path in plots.draw(runs, tmp_path / "plots"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_command(http_address: str, tmp_path: Path) -> None:
    arguments = [
        "bench", "--url", http_address, "--unary", "--stream", "-c", "1,2", "--rate", "50",
        "-n", "3", "--metrics-url", f"{http_address}/metrics", "-o", str(tmp_path / "b" / "b.json"),
    ]  # fmt: skip
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:3] == ["SERVER", "MODE", "LOAD"]
    assert len(lines) == 1 + 2 * 3
    report = json.loads((tmp_path / "b" / "b.json").read_text())
    assert (report["format"], report["triton"]) == (1, "2.51.0")
    first = report["runs"][0]
    assert (first["mode"], first["loop"], first["load"]) == ("unary", "closed", 1.0)
    assert first["figures"]["requests"] == len(first["outcomes"]) == 3
    assert first["server"]["gsv"]["gsv_audio_seconds_total"]["now"] == 2.5
    result = CliRunner().invoke(
        main, ["bench", "--url", http_address, "-n", "1", "-c", "1", "--json"]
    )
    assert json.loads(result.stdout)["runs"][0]["server"] is None
    assert "without the server's own figures" in result.stderr


def test_failed_requests_fail_the_command(http_address: str) -> None:
    arguments = ["bench", "--url", http_address, "--voice", "nobody", "-n", "2", "-c", "1"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "Error: 2 requests failed, the first with: InvalidRequest: VOICE" in result.stderr


@pytest.mark.parametrize("value", ["0", "1,x", "-1"])
def test_lists_of_numbers(value: str) -> None:
    result = CliRunner().invoke(main, ["bench", "-c", value])
    assert (result.exit_code, "--concurrency" in result.stderr) == (2, True)
