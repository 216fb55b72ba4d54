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


@pytest.fixture
def triton() -> FakeTransport:
    return FakeTransport()


@pytest.fixture
def gateway(triton: FakeTransport) -> Iterator[Gateway]:
    client = AsyncClient(transport=FakeAsyncTransport(triton))
    with running(client) as gateway:
        yield gateway


@pytest.fixture
def http(gateway: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=20) as client:
        yield client
