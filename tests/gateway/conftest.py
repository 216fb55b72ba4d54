"""A gateway before a fake Triton, on a real socket."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from gateway.running import Gateway, running

from gsv_client import AsyncClient
from gsv_client.testing import FakeAsyncTransport, FakeTransport


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has set must not reach the tests."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture(scope="session")
def shared() -> Iterator[tuple[Gateway, FakeTransport]]:
    """One for all tests that change nothing of it."""
    triton = FakeTransport()
    with running(AsyncClient(transport=FakeAsyncTransport(triton))) as gateway:
        yield gateway, triton


@pytest.fixture
def triton(shared: tuple[Gateway, FakeTransport]) -> FakeTransport:
    """What the gateway speaks to; `requests` holds those of this test."""
    shared[1].requests.clear()
    return shared[1]


@pytest.fixture
def gateway(shared: tuple[Gateway, FakeTransport]) -> Gateway:
    return shared[0]


@pytest.fixture
def http(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=20) as client:
        yield client
