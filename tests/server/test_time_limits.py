"""Triton's request timeout: an answer in time, and nothing that runs on for nobody."""

from __future__ import annotations

import time
from typing import Any

import pytest
from server.test_soak import wait_until_idle

from gsv.serving.server.launcher import EmbeddedServer

pytestmark = pytest.mark.server

TEXT = "A sentence that takes a while to be spoken is here once more. " * 60
SECONDS = 0.5


def inputs() -> list[dict[str, Any]]:
    return [
        {"name": "TEXT", "shape": [1, 1], "datatype": "BYTES", "data": [TEXT]},
        {"name": "LANGUAGE", "shape": [1, 1], "datatype": "BYTES", "data": ["en"]},
        {"name": "SAMPLE_STEPS", "shape": [1, 1], "datatype": "INT32", "data": [64]},
    ]


@pytest.mark.parametrize("door", ["infer", "generate", "generate_stream"])
def test_a_request_whose_time_is_over_stops_everywhere(server: EmbeddedServer, door: str) -> None:
    limit = {"timeout": int(SECONDS * 1e6)}
    body: dict[str, Any]
    if door == "infer":
        body = {"inputs": inputs(), "parameters": limit}
    else:
        body = {"TEXT": TEXT, "LANGUAGE": "en", "SAMPLE_STEPS": 64, **limit}
    model = "gpt_sovits_v4_stream" if door == "generate_stream" else "gpt_sovits_v4"
    began = time.monotonic()
    _, answer = server.ask("POST", f"/v2/models/{model}/{door}", body, timeout=60)
    took = time.monotonic() - began
    assert "timeout: the request's 0.5 s are over" in answer
    assert took < SECONDS + 2.0
    wait_until_idle(server)
    assert time.monotonic() - began < SECONDS + 5.0, "nothing ran on"


def test_a_timeout_that_is_long_enough_changes_nothing(server: EmbeddedServer) -> None:
    body = {"TEXT": "Hello there.", "LANGUAGE": "en", "SEED": 1}
    path = "/v2/models/gpt_sovits_v4/generate"
    plain = server.ask("POST", path, body, timeout=60)
    assert server.ask("POST", path, {**body, "timeout": 60_000_000}, timeout=60) == plain
