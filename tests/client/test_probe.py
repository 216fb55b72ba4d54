"""`gsv probe`: does a server speak?"""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from click.testing import CliRunner, Result
from kserve_models import Models

from gsv_client.cli import main
from gsv_client.errors import ServerError, ServerUnavailable
from gsv_client.probe import NoVoice, answered_requests


def probe(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["probe", *arguments])


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_a_server_that_speaks(address: str, models: Models, stream: list[str]) -> None:
    result = probe("--url", address, *stream)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "speaks: " in result.stderr
    _, inputs, _, _ = models.seen[-1]
    assert int(np.ravel(inputs["SAMPLE_STEPS"])[0]) == 1
    assert probe("--url", address, "--quiet", *stream).output == ""


def test_nobody_there() -> None:
    started = time.monotonic()
    result = probe("--url", "127.0.0.1:1", "--protocol", "http", "--timeout", "2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert time.monotonic() - started < 5


def test_a_full_server_is_well_and_a_broken_one_is_not(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsv_client.probe.TEXT", "busy")
    result = probe("--url", address)
    assert result.exit_code == 0
    assert "busy: " in result.stderr
    monkeypatch.setattr("gsv_client.probe.TEXT", "bug")
    assert probe("--url", address).exit_code == 1
    monkeypatch.setattr("gsv_client.probe.TEXT", "Hi.")
    result = probe("--url", address, "--voice", "nobody")
    assert result.exit_code == 1
    assert "allowed: demo" in result.stderr


def test_a_server_that_does_not_answer(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsv_client.probe.TEXT", "sleep 3")
    started = time.monotonic()
    assert probe("--url", address, "--timeout", "0.5").exit_code == 1
    assert time.monotonic() - started < 2


def test_samples_that_are_no_numbers(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(self: Models, *_: object) -> dict[str, np.ndarray]:
        rate = np.array([[8_000]], np.int32)
        return {"AUDIO": np.full((1, 10), np.nan, np.float32), "SAMPLE_RATE": rate}

    monkeypatch.setattr(Models, "infer", infer)
    result = probe("--url", address)
    assert result.exit_code == 1
    assert "not speech" in result.stderr


# `--liveness`


class Metrics(http.server.BaseHTTPRequestHandler):
    """A metrics endpoint: how many requests have been answered, and how many more at each look."""

    answered = 0
    more = 0

    def do_GET(self) -> None:
        lines = [
            f'gsv_requests_total{{model="gpt_sovits_v4",outcome="answered"}} {Metrics.answered}',
            'gsv_requests_total{model="gpt_sovits_v4",outcome="failed"} 7',
            f'gsv_requests_total{{model="vocoder",outcome="answered"}} {9 * Metrics.answered}',
        ]
        Metrics.answered += Metrics.more
        body = "\n".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def metrics() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Metrics.answered = Metrics.more = 0
    yield f"http://127.0.0.1:{server.server_address[1]}/metrics"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_answers_others_is_alive(
    address: str, metrics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsv_client.probe.TEXT", "sleep 3")
    arguments = ("--url", address, "--timeout", "0.5", "--liveness", metrics)
    assert probe(*arguments).exit_code == 1
    Metrics.more = 1
    result = probe(*arguments)
    assert (result.exit_code, "busy: it answers others" in result.stderr) == (0, True)
    assert answered_requests(metrics, 2.0) == Metrics.answered - 1  # of the public models alone


def test_what_no_restart_would_mend_is_alive(
    address: str, metrics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speak(message: str, kind: type[Exception]) -> Result:
        def infer(*_: object) -> None:
            raise kind(message)

        monkeypatch.setattr("gsv_client.probe._speak", infer)
        return probe("--url", address, "--liveness", metrics)

    assert speak("has no voice to speak with; add one", NoVoice).exit_code == 0
    assert speak("voice al: g.ckpt: is cut short", ServerUnavailable).exit_code == 0
    assert speak("vocoder: Stub process is not healthy.", ServerUnavailable).exit_code == 1
    assert speak("what came back is not speech", ServerError).exit_code == 1


def test_without_metrics_nothing_is_known(address: str) -> None:
    result = probe("--url", address, "--liveness", "http://127.0.0.1:1/metrics")
    assert result.exit_code == 1
    refused = probe("--url", address, "--liveness", "http://127.0.0.1:1/", "--voice", "demo")
    assert refused.exit_code == 2
