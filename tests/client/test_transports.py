"""Both transports over the wire, against a real local server."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
from kserve_grpc import serve_grpc
from kserve_models import CHUNK, Models

from gsv_client import (
    AccessDenied,
    AsyncClient,
    Audio,
    Cancelled,
    Client,
    GsvClientError,
    InvalidRequest,
    NotFound,
    ServerError,
    ServerUnavailable,
    Timeout,
)
from gsv_client.transport import Endpoint, ModelIO, ModelState, Request, connection, open_transport
from gsv_client.transport.base import is_loopback
from gsv_client.transport.over_grpc import channel_options

REFERENCE = Audio(np.linspace(-1, 1, 3 * 8_000), 8_000)


def test_all_tensors_arrive_as_they_were_set(client: Client, models: Models) -> None:
    audio = client.say(
        "Grüße, 你好 🎙", language="zh", voice="demo", reference=REFERENCE, reference_text="文字",
        reference_language="all_zh", top_k=5, top_p=0.5, temperature=0.75, repetition_penalty=1.25,
        seed=2**63 - 1, speed=1.5, sample_steps=8, split_method="cut1", pause_seconds=0.25,
        sample_rate=24_000, request_id="request 7",
    )  # fmt: skip
    model, inputs, request_id, _ = models.seen[0]
    assert (model, request_id) == ("gpt_sovits_v4", "request 7")
    assert len(inputs) == 17
    assert inputs["TEXT"][0, 0].decode() == "Grüße, 你好 🎙"
    assert inputs["SEED"].dtype == np.int64
    assert inputs["SEED"].item() == 2**63 - 1
    assert inputs["SPEED"].dtype == np.float32
    assert inputs["REFERENCE_SAMPLE_RATE"].item() == 8_000
    assert all(array.shape == (1, 1) for name, array in inputs.items() if name != "REFERENCE_AUDIO")
    np.testing.assert_array_equal(inputs["REFERENCE_AUDIO"], REFERENCE.samples[None])
    # The server sends the reference back: the way home is exact too.
    np.testing.assert_array_equal(audio.samples, REFERENCE.samples)
    assert audio.rate == 24_000


def test_a_stream_carries_the_same_request(client: Client, models: Models) -> None:
    options = {"voice": "demo", "seed": 2**63 - 1, "speed": 1.5, "sample_steps": 8}
    chunks = list(
        client.stream("你好。", reference=REFERENCE, reference_text="x", request_id="r", **options)
    )
    model, inputs, request_id, _ = models.seen[0]
    assert (model, request_id) == ("gpt_sovits_v4_stream", "r")
    assert inputs["TEXT"][0, 0].decode() == "你好。"
    assert inputs["SEED"].item() == 2**63 - 1
    np.testing.assert_array_equal(
        inputs["REFERENCE_AUDIO"].astype(np.float32), REFERENCE.samples[None]
    )
    assert [chunk.sentence for chunk in chunks] == [0, 0, 1]
    assert [chunk.rate for chunk in chunks] == [48_000] * 3
    expected = [np.full(CHUNK, 0.25 * part / 3, np.float32) for part in (1, 2, 3)]
    for chunk, samples in zip(chunks, expected, strict=True):
        assert chunk.samples.dtype == np.float32
        np.testing.assert_array_equal(chunk.samples, samples)


def test_answers_may_be_changed_in_place(client: Client) -> None:
    audio = client.say("x")
    audio.samples[:] = 0
    assert not audio.samples.any()


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("x", {"voice": "nobody"}, InvalidRequest, "VOICE: got 'nobody'; allowed: demo"),
        ("bug", {}, ServerError, "Failed to process: At: model.py(19): execute"),
        ("busy", {}, ServerUnavailable, "64 requests are waiting; try again later"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
def test_the_servers_errors_arrive_as_ours(
    client: Client, stream: bool, text: str, options: dict, error: type, message: str
) -> None:
    with pytest.raises(error) as caught:
        list(client.stream(text, **options)) if stream else client.say(text, **options)
    assert type(caught.value) is error
    assert str(caught.value).endswith(message)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None or stream or "http" in client.transport.address


def test_streams_do_not_ask_for_codes_that_crash_servers(client: Client, models: Models) -> None:
    list(client.stream("x"))
    assert "triton_grpc_error" not in models.seen[-1][3]


def test_a_missing_model_is_not_found(address: str) -> None:
    transport = open_transport(Endpoint.parse(address))
    request = Request("none", {"TEXT": np.array([[b"x"]], np.object_)}, ("AUDIO",), timeout=5)
    with pytest.raises(NotFound, match="'none' is not found"):
        transport.infer(request)
    with pytest.raises(NotFound, match="'none' is not found"):
        next(transport.stream(request))
    with pytest.raises(NotFound, match="'none' is not found"):
        transport.model_io("none", 5)
    transport.close()


def test_a_stream_that_breaks_raises_after_what_it_gave(client: Client) -> None:
    stream, received = client.stream("breaks"), []
    with pytest.raises(ServerError, match="it broke in the middle"):
        received.extend(stream)
    assert len(received) == 2


def test_a_stream_whose_server_dies_never_looks_complete(client: Client) -> None:
    stream, received = client.stream("dies"), []
    with pytest.raises(ServerUnavailable):
        received.extend(stream)
    assert len(received) == 2


@pytest.mark.parametrize("timeout", [0, -1, math.nan, math.inf, 1e10, None, "5", True])
def test_a_timeout_that_is_none(timeout: Any) -> None:
    with pytest.raises(InvalidRequest, match="timeout: got .* seconds above 0"):
        Client(timeout=timeout)


def test_grpc_comes_back_soon_and_gives_up_what_is_dead() -> None:
    options = dict(channel_options(Endpoint.parse("grpc://127.0.0.1:1")))
    assert options["grpc.max_reconnect_backoff_ms"] == 2_000
    assert options["grpc.keepalive_timeout_ms"] == 20_000
    assert options["grpc.keepalive_time_ms"] > 300_000, "Triton takes more pings for an attack"


def test_no_answer_in_time(address: str) -> None:
    with Client(address, timeout=0.2) as client:
        with pytest.raises(Timeout, match=r"no answer within 0.2 s; raise timeout"):
            client.say("sleep 1")
        begin = time.monotonic()
        with pytest.raises(Timeout, match=r"no answer within 0.2 s"):
            next(client.stream("wait 5"))
        assert time.monotonic() - begin < 2


def test_the_timeout_of_a_stream_is_for_each_chunk(address: str) -> None:
    with Client(address, timeout=1.0) as client:
        assert len(list(client.stream("count 75"))) == 75  # 1.5 s in all


def test_the_first_chunk_may_take_longer_than_a_connection(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.2)
    with Client(address, timeout=10) as client:
        assert next(client.stream("wait 1")) is not None


def test_leaving_the_loop_cancels(client: Client, models: Models) -> None:
    for _ in client.stream("count 1000"):
        break
    assert models.cancelled.wait(2)


def test_a_with_block_cancels(client: Client, models: Models) -> None:
    with client.stream("count 1000") as stream:
        next(stream)
        assert not models.cancelled.is_set()
    assert models.cancelled.wait(2)
    with pytest.raises(Cancelled, match="closed"):
        next(stream)


def test_closing_the_client_cancels(address: str, models: Models) -> None:
    with Client(address) as client:
        stream = client.stream("count 1000")
        next(stream)
    assert models.cancelled.wait(2)
    with pytest.raises(Cancelled):
        next(stream)


def test_another_thread_can_close_a_stream_that_waits(client: Client) -> None:
    stream = client.stream("wait 5")
    closer = threading.Timer(0.1, stream.close)
    closer.start()
    begin = time.monotonic()
    with pytest.raises(Cancelled, match="closed"):
        next(stream)
    assert time.monotonic() - begin < 2
    closer.join()


def test_a_stream_closed_before_its_start_sends_nothing(client: Client, models: Models) -> None:
    stream = client.stream("count 3")
    stream.close()
    with pytest.raises(Cancelled):
        next(stream)
    assert not models.seen


def test_one_client_serves_many_threads(client: Client) -> None:
    lengths: list[int] = []

    def work() -> None:
        for _ in range(5):
            lengths.append(len(client.say("x").samples))
            lengths.append(sum(len(chunk.samples) for chunk in client.stream("count 2")) // 2)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lengths == [CHUNK] * 60


@pytest.mark.parametrize("scheme", ["http", "grpc"])
@pytest.mark.parametrize("host", ["127.0.0.1:1", "no-such-host.invalid:80"])
def test_no_server(scheme: str, host: str) -> None:
    with Client(f"{scheme}://{host}", timeout=5) as client:
        for call in (lambda: client.say("x"), lambda: next(client.stream("x"))):
            with pytest.raises(ServerUnavailable) as caught:
                call()
            assert str(caught.value).startswith(f"no server answers at {scheme}://{host} (")
            assert "gsv serve" in str(caught.value)
            assert "Errno" not in str(caught.value)


def test_health_index_and_metadata(client: Client, models: Models) -> None:
    health = client.health()
    assert (health.live, health.ready, health.version) == (True, True, "2.51.0")
    assert client.models()[1] == ModelState("vocoder", "1", "UNAVAILABLE", "no weights")
    assert client.model_io("gpt_sovits_v4") == ModelIO(
        {"TEXT": "BYTES", "SEED": "INT64"}, {"AUDIO": "FP32", "SAMPLE_RATE": "INT32"}
    )
    models.ready = False
    health = client.health()
    assert (health.live, health.ready) == (True, False)
    assert "still loading" in health.message


def test_analysis_and_voices(client: Client) -> None:
    analysis = client.phones("你", "zh")
    segment = analysis.sentences[0].segments[0]
    assert (segment.phonemes, segment.ids, segment.word2ph) == (("n", "i3"), (227, 168), (2,))
    assert client.voices()[0].name == "爱丽丝"


def test_headers_go_with_every_request(address: str, models: Models) -> None:
    with Client(address, headers={"X-Token": "secret"}) as client:
        client.say("x")
        list(client.stream("x"))
    for *_, headers in models.seen:
        assert {name.lower(): value for name, value in headers.items()}["x-token"] == "secret"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"x token": "a"}, "headers: name: got 'x token'; allowed: letters, digits and -"),
        ({"": "a"}, "headers: name: got ''"),
        ({1: "a"}, "headers: name: got 1"),
        ({"x-token": "a\r\nx-other: b"}, "headers: x-token: allowed: a string of printable ASCII"),
        ({"x-token": "ü"}, "headers: x-token: allowed"),
        ({"x-token": None}, "headers: x-token: allowed"),
    ],
)
def test_headers_that_cannot_be_sent(address: str, headers: Any, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Client(address, headers=headers)
    assert str(caught.value).startswith(message)
    with Client(address) as client:
        for ask in (client.say, client.stream):
            with pytest.raises(InvalidRequest, match="headers: "):
                ask("x", headers=headers)


@pytest.mark.parametrize("name", ["x-token-bin", "x~token"])
def test_headers_that_grpc_cannot_carry(name: str) -> None:
    with pytest.raises(InvalidRequest, match="headers: name: .* over gRPC"):
        Client("grpc://127.0.0.1:9", headers={name: "a"})


def test_headers_of_one_request(address: str, models: Models) -> None:
    with Client(address, headers={"X-Token": "secret"}) as client:
        client.say("x", headers={"traceparent": "a"})
        list(client.stream("x", headers={"traceparent": "b"}))
        list(client.stream_text(["x"], headers={"traceparent": "c"}))
        client.say("x")
        list(client.stream("x"))
    seen = [{name.lower(): value for name, value in headers.items()} for *_, headers in models.seen]
    assert [headers.get("traceparent") for headers in seen] == ["a", "b", "c", None, None]
    assert {headers["x-token"] for headers in seen} == {"secret"}


def test_a_restricted_list_of_models(address: str, models: Models) -> None:
    models.key = "secret"
    with Client(address) as client, pytest.raises(AccessDenied, match="expecting header 'x-key'"):
        client.models()
    with Client(address, headers={"x-key": "secret"}) as client:
        assert client.models()


def test_a_path_before_the_routes_is_for_http_only() -> None:
    assert Endpoint.parse("https://h/base/").path == "/base"
    with pytest.raises(InvalidRequest, match="without a path"):
        Client("grpc://h/base")


def test_a_program_that_leaves_a_stream_open_ends(address: str) -> None:
    program = (
        "import sys; from gsv_client import Client\n"
        "stream = Client(sys.argv[1]).stream('count 1000'); next(stream); print('leaving')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, address],
        capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\n", "")


def test_every_error_is_one_of_ours() -> None:
    for error in (NotFound, InvalidRequest, ServerUnavailable, Timeout, Cancelled, ServerError):
        assert issubclass(error, GsvClientError)


def test_a_proxy_is_not_in_the_way_of_this_machine(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Client(address) as client:
        assert client.health().ready


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("[::1]", True), ("10.0.0.1", False)],
)
def test_this_machine(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


class Counting(Models):
    """A server that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def infer(self, *arguments: Any, **keywords: Any) -> Any:
        self.asked += 1
        return super().infer(*arguments, **keywords)


@pytest.mark.parametrize(("query", "share"), [("", (0, 12)), ("?balance=round_robin", (4, 8))])
def test_calls_are_spread_over_all_addresses_of_a_name(
    query: str, share: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers; what a headless service's name would be resolved to stands in its place."""
    servers = [Counting(), Counting()]
    with serve_grpc(servers[0]) as one, serve_grpc(servers[1]) as two:
        both = ",".join(url.removeprefix("grpc://") for url in (one, two))
        monkeypatch.setattr(Endpoint, "authority", f"ipv4:{both}")
        with Client(f"grpc://speech{query}", timeout=10) as client:
            until = time.monotonic() + 10
            # Connections are opened at the first call; count from when they are there.
            while not all(s.asked for s in servers) and query and time.monotonic() < until:
                client.say("Hello.")
            for server in servers:
                server.asked = 0
            for _ in range(12):
                client.say("Hello.")
    counts = sorted(server.asked for server in servers)
    assert sum(counts) == 12
    assert counts[0] >= share[0]
    assert counts[1] <= share[1]
    assert query or counts == [0, 12]


def test_turns_are_also_taken_on_an_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [Counting(), Counting()]

    async def speak() -> None:
        async with AsyncClient("grpc://speech?balance=round_robin", timeout=10) as client:
            until = time.monotonic() + 10
            while not all(s.asked for s in servers) and time.monotonic() < until:
                await client.say("Hello.")

    with serve_grpc(servers[0]) as one, serve_grpc(servers[1]) as two:
        both = ",".join(url.removeprefix("grpc://") for url in (one, two))
        monkeypatch.setattr(Endpoint, "authority", f"ipv4:{both}")
        asyncio.run(speak())
    assert all(server.asked for server in servers)
