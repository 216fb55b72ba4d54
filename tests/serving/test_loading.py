"""A load over gRPC: what comes of it, and which connection is ours meanwhile."""

from __future__ import annotations

import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gsv.serving.server.loading import load_model


class Triton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Loads models as ``load`` says."""

    def __init__(self) -> None:
        self.load: Callable[[Any, Any], None] = lambda request, context: None
        self.address, self.caller = "", 0
        self.keys: dict[str, Any] = {}

    def ServerLive(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        self.caller = int(context.peer().rpartition(":")[2])
        self.keys = {key: value for key, value in context.invocation_metadata() if "key" in key}
        self.load(request, context)
        return service_pb2.RepositoryModelLoadResponse()


@pytest.fixture
def triton() -> Iterator[Triton]:
    with contextlib.ExitStack() as stack:
        triton = Triton()
        threads = stack.enter_context(concurrent.futures.ThreadPoolExecutor())
        server = grpc.server(threads)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
        triton.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        yield triton


def load(
    address: str,
    config: str | None = None,
    timeout: float = 20.0,
    give_up: Callable[[], bool] = lambda: False,
    own: set[int] | None = None,
    keys: dict[str, str] | None = None,
) -> tuple[bool | None, str]:
    own = set() if own is None else own
    found = load_model(
        address, "m", config, headers=keys or {}, timeout=timeout, give_up=give_up, own=own
    )
    assert not own
    return found


def test_what_triton_gets(triton: Triton) -> None:
    asked = []
    triton.load = lambda request, context: asked.append(
        (request.model_name, request.parameters["config"].string_param)
    )
    assert load(triton.address, "{}", keys={"a-key": "s3cret"}) == (True, "")
    assert asked == [("m", "{}")]
    assert triton.keys == {"triton-grpc-protocol-a-key": "s3cret"}


def test_a_refusal_in_one_line(triton: Triton) -> None:
    def refuse(request: Any, context: Any) -> None:
        context.abort(grpc.StatusCode.INTERNAL, "failed to\nload 'm'\n\nAt:\n  model.py(3): x")

    triton.load = refuse
    assert load(triton.address) == (False, "failed to load 'm'")


def test_its_connection_is_known(triton: Triton) -> None:
    own: set[int] = set()
    seen = []
    triton.load = lambda request, context: seen.append(set(own))
    assert load(triton.address, own=own) == (True, "")
    assert seen == [{triton.caller}]


def test_a_key_that_is_asked_for(triton: Triton) -> None:
    """Triton refuses those who have none with UNAVAILABLE; over HTTP it may be another key."""
    triton.load = lambda request, context: context.abort(
        grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'k'"
    )
    with pytest.raises(ConnectionError, match="is restricted"):
        load(triton.address)


@pytest.mark.parametrize("way", ["time", "give up"])
def test_the_waiting_ends(triton: Triton, way: str) -> None:
    over, begun = threading.Event(), threading.Event()

    def wait(request: Any, context: Any) -> None:
        begun.set()
        over.wait(20)

    triton.load = wait
    try:
        if way == "time":
            loaded, why = load(triton.address, timeout=1.0)
            assert "Deadline" in why
        else:
            loaded, why = load(triton.address, give_up=begun.is_set)
        assert loaded is None
        assert not over.is_set()
    finally:
        over.set()


def test_where_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert load(address, timeout=0.5)[0] is None
        started = time.monotonic()
        assert load(address, give_up=lambda: time.monotonic() > started + 0.5)[0] is None
    with pytest.raises(ConnectionError):
        load(address)
