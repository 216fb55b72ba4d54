"""`gsv probe`: does a server speak?"""

from __future__ import annotations

import time

import numpy as np
import pytest
from click.testing import CliRunner, Result
from kserve_models import Models

from gsv_client.cli import main


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
