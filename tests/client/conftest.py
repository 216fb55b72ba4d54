"""Two real local servers with fake models, and a client of a fake transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from kserve_grpc import serve_grpc
from kserve_http import serve_http
from kserve_models import Models

from gsv_client import Client
from gsv_client.testing import FakeTransport

SERVERS = {"http": serve_http, "grpc": serve_grpc}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has set must not reach the tests."""
    monkeypatch.delenv("GSV_URL", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test starts in this package must have ended."""
    yield
    deadline = time.monotonic() + 3
    while (left := _own_threads()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, left


def _own_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("gsv-")]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture(params=sorted(SERVERS))
def address(request: pytest.FixtureRequest, models: Models) -> Iterator[str]:
    """A running server, once over HTTP and once over gRPC."""
    with SERVERS[request.param](models) as url:
        yield url


@pytest.fixture
def http_address(models: Models) -> Iterator[str]:
    with serve_http(models) as url:
        yield url


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address, timeout=10) as client:
        yield client


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def fake(transport: FakeTransport) -> Client:
    return Client(transport=transport)
