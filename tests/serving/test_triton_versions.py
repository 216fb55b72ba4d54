"""Releases of Triton: what we know of them, and servers that answer as they do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_triton import FakeTriton, Launched

from gsv.errors import ConfigurationError
from gsv.serving import processes
from gsv.serving.supervisor import RecoveryPolicy, Supervisor
from gsv.serving.triton_versions import (
    Release,
    facts,
    lost_its_process,
    oldest_glibc,
    unreachable_models,
)

RELEASES = ["24.10", "25.11", "25.12", "26.04"]
NOTICING = ["25.12", "26.04"]


def test_releases_are_in_order() -> None:
    assert [str(Release.parse(text)) for text in RELEASES] == RELEASES
    assert Release.parse("24.10") < Release.parse("24.11") < Release.parse("25.01")
    for wrong in ("2.51", "24.13", "24.1", "latest"):
        with pytest.raises(ConfigurationError, match="year and month, such as 24.10"):
            Release.parse(wrong)


@pytest.mark.parametrize(
    ("release", "python", "numpy_2", "activate", "ready", "health"),
    [
        ("24.10", "3.10", False, True, True, False),
        ("24.11", "3.12", True, True, True, False),
        ("25.08", "3.12", True, False, True, False),
        ("25.12", "3.12", True, False, False, False),
        ("26.04", "3.12", True, False, False, True),
    ],
)
def test_what_changed_when(
    release: str, python: str, numpy_2: bool, activate: bool, ready: bool, health: bool
) -> None:
    known = facts(Release.parse(release))
    assert known.python == python
    assert known.reads_numpy_2 is numpy_2
    assert known.runs_activate is activate
    assert known.ready_without_process is ready
    assert known.reaps_processes is not ready
    assert known.health_sees_models is health


def test_the_c_library_of_images() -> None:
    assert [oldest_glibc(python) for python in ("3.10", "3.11", "3.12")] == [35, None, 39]


@pytest.fixture(params=RELEASES)
def fake(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeTriton]:
    with FakeTriton(request.param, ["vocoder", "voices"], tmp_path) as running:
        yield running


@pytest.fixture
def server(fake: FakeTriton) -> Iterator[Launched]:
    launched = Launched(fake, os.getpid())
    yield launched
    launched.stop()


def test_a_dead_process_is_seen_whatever_the_server_says(
    fake: FakeTriton, server: Launched
) -> None:
    events: list[str] = []
    supervisor = Supervisor(server, RecoveryPolicy(grace=0.2), events.append)
    assert supervisor.look() == []
    assert {stub.model for stub in processes.living_stubs(server.pid)} == {"vocoder", "voices"}
    fake.kill("vocoder")
    ready = server.request("GET", "/v2/models/vocoder/ready")
    assert ready == (200 if fake.facts.ready_without_process else 400)
    assert bool(processes.dead_children(server.pid)) is not fake.facts.reaps_processes
    assert lost_its_process(server.ask, "vocoder")
    assert supervisor.look() == ["vocoder"]
    supervisor._recover("vocoder")
    assert [e for e in events if "ready again" in e]
    assert supervisor.look() == []
    assert "POST /v2/repository/models/vocoder/load" in fake.asked


def test_a_model_that_somebody_unloads_is_left_alone(fake: FakeTriton, server: Launched) -> None:
    supervisor = Supervisor(server)
    assert supervisor.look() == []
    fake.unload("voices")
    assert not lost_its_process(server.ask, "voices")
    assert supervisor.look() == []


def test_what_the_server_itself_calls_unreachable(fake: FakeTriton, server: Launched) -> None:
    assert unreachable_models(server.ask) == []
    fake.unload("voices")
    fake.kill("vocoder")
    expected = [] if fake.facts.ready_without_process else ["vocoder"]
    assert unreachable_models(server.ask) == expected
    healthy = server.request("GET", "/v2/health/ready")
    assert healthy == (400 if fake.facts.health_sees_models else 200)


def test_a_server_that_does_not_answer() -> None:
    silent = lambda method, path, body: (0, "")  # noqa: E731
    assert not lost_its_process(silent, "vocoder")
    assert unreachable_models(silent) == []
