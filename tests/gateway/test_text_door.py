"""The WebSocket: text comes while audio leaves."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from socket import create_connection
from typing import Any

import pytest
from gateway.running import Gateway, key_file, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gsv_client import AsyncClient, ServerUnavailable
from gsv_client.gateway.settings import Settings
from gsv_client.testing import FakeAsyncTransport, FakeTransport


def open_socket(gateway: Gateway, **options: Any) -> ClientConnection:
    url = f"{gateway.url.replace('http', 'ws')}/v1/speech/stream"
    return connect(url, proxy=None, **options)


def say(socket: ClientConnection, *messages: dict[str, object]) -> None:
    for message in messages:
        socket.send(json.dumps(message))


def rest(socket: ClientConnection) -> tuple[bytes, list[dict[str, Any]]]:
    """Everything until the socket closes."""
    audio, told = b"", []
    try:
        while True:
            message = socket.recv(timeout=10)
            if isinstance(message, bytes):
                audio += message
            else:
                told.append(json.loads(message))
    except ConnectionClosed:
        return audio, told


def text(piece: str) -> dict[str, object]:
    return {"type": "text", "text": piece}


@pytest.fixture
def socket(gateway: Gateway) -> Iterator[ClientConnection]:
    with open_socket(gateway) as socket:
        yield socket


def test_a_text_in_pieces(socket: ClientConnection, triton: FakeTransport) -> None:
    say(socket, {"type": "start", "voice": "demo", "seed": 3, "sample_rate": 8_000})
    started = json.loads(socket.recv(timeout=10))
    assert (started["type"], started["format"], started["sample_rate"]) == ("started", "pcm", 8_000)
    say(socket, text("Hello the"), text("re. Good d"))
    first = socket.recv(timeout=10)  # of the first sentence, before the text has ended
    assert isinstance(first, bytes)
    say(socket, text("ay."), {"type": "end"})
    audio, told = rest(socket)
    assert len(first + audio) == 2 * 8_000 * 21 // 10
    assert [message["type"] for message in told] == ["done"]
    assert told[0]["audio_seconds"] == 2.1
    assert socket.protocol.close_code == 1000
    assert [r.inputs["TEXT"].item() for r in triton.requests] == [b"Hello there.", b"Good day."]
    assert [r.request_id for r in triton.requests] == [
        f"{started['request_id']}/{n}" for n in range(2)
    ]


def test_flush_speaks_what_there_is(socket: ClientConnection, triton: FakeTransport) -> None:
    say(socket, {"type": "start"}, text("No full stop"), {"type": "flush"})
    socket.recv(timeout=10)
    assert isinstance(socket.recv(timeout=10), bytes)
    say(socket, {"type": "end"})
    _, told = rest(socket)
    assert told[-1]["type"] == "done"


@pytest.mark.parametrize("unit", ["\n", ". ", "! ", " "])
def test_a_text_of_nothing_but_marks_holds_up_nobody(socket: ClientConnection, unit: str) -> None:
    """It once took 50 s on the loop that carries everybody's audio."""
    say(socket, {"type": "start"}, text((unit * 10_000)[:10_000]), {"type": "end"})
    _, told = rest(socket)
    assert [message["type"] for message in told] == ["started", "done"]


def test_a_long_blank_run_is_not_spoken(socket: ClientConnection, triton: FakeTransport) -> None:
    say(socket, {"type": "start"}, text(f"Hello there.\n{' ' * 700}Good day."), {"type": "end"})
    _, told = rest(socket)
    assert told[-1]["type"] == "done"
    assert [r.inputs["TEXT"].item() for r in triton.requests] == [b"Hello there.", b"Good day."]


def test_one_file_for_all_sentences(socket: ClientConnection) -> None:
    say(socket, {"type": "start", "format": "wav"}, text("One two. Three four."), {"type": "end"})
    audio, _ = rest(socket)
    assert audio.count(b"RIFF") == 1
    assert len(audio) == 44 + 2 * (8 + 11) * 4_800


def test_times_run_through() -> None:
    transport = FakeAsyncTransport(FakeTransport(times=True))
    with running(AsyncClient(transport=transport)) as gateway, open_socket(gateway) as socket:
        say(socket, {"type": "start"}, text("One two. Three four."), {"type": "end"})
        _, told = rest(socket)
    words = [word for message in told if message["type"] == "words" for word in message["words"]]
    assert [(w["word"], w["start"], w["sentence"]) for w in words] == [
        ("One", 0.0, 0), ("two", 0.4, 0), ("Three", 0.8, 1), ("four", 1.4, 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([text("Hi")], "type of the first message: got 'text'; allowed: start"),
        ([{"type": "start", "format": "midi"}], "response_format: got 'midi'"),
        ([{"type": "start", "top_k": "many"}], "top_k"),
        ([{"type": "start"}, {"type": "stop"}], "got 'stop'; allowed: text, flush, end"),
        ([{"type": "start"}, {"type": "text"}], "text: got None; allowed: a string"),
        ([{"type": "start"}, text("x" * 10_001)], "more than 10000 characters"),
        ([{"type": "y" * 100_000}], "yyy'; allowed: start"),
        ([{"type": "start"}, {"type": "y" * 100_000}], "yyy'; allowed: text, flush, end"),
        ([{"type": "start"}, {"type": ["y" * 50] * 1_000}], "; allowed: text, flush, end"),
        ([{"type": "start"}, {"type": "text", "text": ["y"] * 50_000}], "; allowed: a string"),
        ([{"type": "start"}, {"type": "text", "text": ["y"] * 100_002}], "more than 100000 values"),
    ],
)
def test_mistakes_are_told_and_end_it(
    socket: ClientConnection, messages: list[dict[str, object]], words: str
) -> None:
    say(socket, *messages)
    _, told = rest(socket)
    assert told[-1]["type"] == "error"
    assert words in told[-1]["error"]["message"]
    assert len(told[-1]["error"]["message"]) < 400
    assert socket.protocol.close_code == 1008


@pytest.mark.parametrize("message", ["{nope", "[1]", '"x"', b"bytes", "[" * 100_000])
def test_what_is_no_message(socket: ClientConnection, message: str | bytes) -> None:
    socket.send(message)
    _, told = rest(socket)
    assert told[-1]["error"]["type"] == "invalid_request_error"


def test_a_server_that_fails() -> None:
    triton = FakeTransport(refuse=lambda request: ServerUnavailable("full; try again later"))
    with (
        running(AsyncClient(transport=FakeAsyncTransport(triton))) as gateway,
        open_socket(gateway) as socket,
    ):
        say(socket, {"type": "start"}, text("Hello there. "))
        _, told = rest(socket)
    assert told[-1]["error"]["code"] == "unavailable"
    assert socket.protocol.close_code == 1011


def test_leaving_cancels() -> None:
    triton = FakeTransport()
    transport = FakeAsyncTransport(triton, pace=0.05)
    with running(AsyncClient(transport=transport)) as gateway:
        idle = gateway.tasks()
        with open_socket(gateway) as socket:
            say(socket, {"type": "start"}, text("A sentence of great length, which takes long. "))
            socket.recv(timeout=10)
            socket.recv(timeout=10)
        deadline = time.monotonic() + 5
        while (not triton.closed or gateway.tasks() > idle) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert triton.closed == 1
        assert gateway.tasks() <= idle


def test_who_says_nothing_is_sent_away() -> None:
    client = AsyncClient(transport=FakeAsyncTransport())
    with running(client, Settings(local=True, stall_seconds=0.3)) as gateway:
        for messages in ([], [{"type": "start"}], [{"type": "start"}, text("Hm")]):
            with open_socket(gateway) as socket:
                say(socket, *messages)
                _, told = rest(socket)
            assert "silent for 0.3 s" in told[-1]["error"]["message"]


def test_who_listens_is_not_sent_away_for_saying_nothing() -> None:
    client = AsyncClient(transport=FakeAsyncTransport(pace=0.1))
    with (
        running(client, Settings(local=True, stall_seconds=0.5)) as gateway,
        open_socket(gateway) as socket,
    ):
        say(socket, {"type": "start", "sample_rate": 8_000}, text("A" * 100), {"type": "flush"})
        audio, told = rest(socket)
        assert len(audio) == 2 * 8_000 * 10  # 2 s of chunks, of a caller who said no more
        assert "silent for 0.5 s" in told[-1]["error"]["message"]


def test_text_that_comes_faster_than_it_is_spoken_is_read_at_once() -> None:
    """That the caller has left comes behind it."""
    triton = FakeTransport()
    client = AsyncClient(transport=FakeAsyncTransport(triton, pace=0.3))
    with running(client, Settings(local=True)) as gateway:
        with open_socket(gateway) as socket:
            say(socket, {"type": "start"})
            say(socket, *[text("Many words. ") for _ in range(300)])
            say(socket, *[{"type": "flush"} for _ in range(300)])
            assert socket.ping().wait(5)
        deadline = time.monotonic() + 5
        while gateway.metrics.in_flight and time.monotonic() < deadline:
            time.sleep(0.05)
        assert gateway.metrics.in_flight == 0
    assert len(triton.requests) < 20


UPGRADE = (
    b"Host: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2l4dGVlbiBieXRlcyAhIQ==\r\n"
)


@pytest.mark.parametrize(
    "more",
    [
        b"Cookie: " + b"c" * 9_000 + b"\r\n\r\n",
        b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n",
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["long header", "many headers", "body", "chunks"],
)
def test_a_handshake_that_is_none_is_answered(gateway: Gateway, more: bytes) -> None:
    """One parser takes it, the other one does not."""
    before = gateway.metrics.connections
    with create_connection(("127.0.0.1", gateway.port), timeout=10) as asking:
        asking.sendall(b"GET /v1/speech/stream HTTP/1.1\r\n" + UPGRADE + more)
        assert asking.recv(4_096).startswith(b"HTTP/1.1 400 ")
        while asking.recv(4_096):
            pass
    deadline = time.monotonic() + 5
    while gateway.metrics.connections > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gateway.metrics.connections <= before


def test_a_message_that_is_too_large() -> None:
    client = AsyncClient(transport=FakeAsyncTransport())
    with running(client, Settings(local=True, most_body=10_000)) as gateway:
        with open_socket(gateway) as socket:
            say(socket, {"type": "start"}, text("x" * 10_001))
            rest(socket)
        assert socket.protocol.close_code == 1009


def test_who_takes_nothing_is_sent_away(caplog: pytest.LogCaptureFixture) -> None:
    """Its request is cancelled too."""
    triton = FakeTransport()
    client = AsyncClient(transport=FakeAsyncTransport(triton))
    with (
        caplog.at_level(logging.INFO, "gsv_client.gateway"),
        running(client, Settings(local=True, stall_seconds=0.5)) as gateway,
    ):
        idle = gateway.tasks()
        with open_socket(gateway, max_queue=1, close_timeout=0.2) as socket:
            say(socket, {"type": "start", "sample_rate": 48_000})
            say(socket, *[text("A long sentence. " * 50) for _ in range(10)], {"type": "end"})
            deadline = time.monotonic() + 10
            while gateway.metrics.in_flight and time.monotonic() < deadline:
                time.sleep(0.05)
            assert gateway.metrics.in_flight == 0
            assert gateway.metrics.connections == 0
        assert gateway.tasks() <= idle
    assert "127.0.0.1 took 0 bytes in 0.5 s and was cut off" in caplog.text


def test_keys_and_origins(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file, keys = key_file(tmp_path, "alice")
    client = AsyncClient(transport=FakeAsyncTransport())
    with running(client, Settings(keys=file)) as gateway:
        for status, options in (
            (401, {}),
            (401, {"additional_headers": {"Authorization": "Bearer wrong"}}),
            (403, {"origin": "http://evil.example",
             "additional_headers": {"Authorization": f"Bearer {keys['alice']}"}}),
        ):  # fmt: skip
            with pytest.raises(InvalidStatus) as refused:
                open_socket(gateway, **options).close()  # type: ignore[arg-type]
            assert refused.value.response.status_code == status
            assert json.loads(refused.value.response.body)["error"]["message"]
            assert "X-Request-Id" in refused.value.response.headers
        with open_socket(
            gateway, additional_headers={"Authorization": f"Bearer {keys['alice']}"}
        ) as socket:
            say(socket, {"type": "start"}, {"type": "end"})
            assert rest(socket)[1][-1]["type"] == "done"
        # A browser's WebSocket has no headers.
        url = f"{gateway.url.replace('http', 'ws')}/v1/speech/stream?api_key={keys['alice']}"
        with connect(url, proxy=None) as socket:
            say(socket, {"type": "start"}, {"type": "end"})
            assert rest(socket)[1][-1]["type"] == "done"
