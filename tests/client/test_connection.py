"""The HTTP transport against servers and proxies that are slow, broken or somebody else's."""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gsv_client import (
    AccessDenied,
    Audio,
    Client,
    GsvClientError,
    InvalidRequest,
    NotFound,
    ServerError,
    ServerUnavailable,
    Timeout,
)
from gsv_client.transport import Endpoint, Request, connection, open_transport

Answers = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(answer: Answers) -> Iterator[str]:
    """Takes one connection after another and lets `answer` treat each; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    taken, _ = listening.accept()
                except OSError:
                    return
                with taken, contextlib.suppress(OSError):
                    answer(taken)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    thread.join()


def bytes_of(answer: bytes) -> Answers:
    """The same for every request."""

    def send(taken: socket.socket) -> None:
        taken.recv(65_536)
        taken.sendall(answer)
        # Closing with something unread would reset the connection, answer and all.
        taken.shutdown(socket.SHUT_WR)
        taken.settimeout(1.0)
        while taken.recv(65_536):
            pass

    return send


def status(line: str, *headers: str, body: bytes = b"") -> Answers:
    """An answer with this status."""
    lines = [f"HTTP/1.1 {line}", f"Content-Length: {len(body)}", *headers, "", ""]
    return bytes_of("\r\n".join(lines).encode() + body)


def trickling(begin: bytes, more: bytes) -> Answers:
    """An answer that never ends: a byte now and then."""

    def send(taken: socket.socket) -> None:
        taken.recv(65_536)
        taken.sendall(begin)
        while True:
            taken.sendall(more)
            time.sleep(0.05)

    return send


STREAMED = b" 200 OK\r\nContent-Type: text/event-stream\r\n"
TRICKLING = {
    "body": trickling(b"HTTP/1.1" + STREAMED + b"Content-Length: 100000\r\n\r\n", b" "),
    # Without a length http.client lets go of the connection.
    "body to the end": trickling(b"HTTP/1.0" + STREAMED + b"\r\n", b" "),
    "headers": trickling(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
}
ASKS = {"whole": lambda c: c.say("Hello."), "stream": lambda c: list(c.stream("Hello."))}


@pytest.fixture(params=sorted(ASKS))
def ask(request: pytest.FixtureRequest) -> Callable[[Client], Any]:
    """A whole answer, or a stream."""
    return ASKS[request.param]


@pytest.mark.parametrize("answer", TRICKLING.values(), ids=TRICKLING)
def test_a_byte_now_and_then_keeps_no_call_alive(
    answer: Answers, ask: Callable[[Client], Any]
) -> None:
    with server(answer) as url, Client(url, timeout=0.5) as client:
        began = time.monotonic()
        with pytest.raises(Timeout, match=r"no answer within 0\.5 s"):
            ask(client)
        assert time.monotonic() - began < 3


def test_an_upload_that_does_not_end_in_time() -> None:
    def deaf(taken: socket.socket) -> None:
        taken.recv(1)
        time.sleep(2)

    tensors = {"X": np.zeros((1, 4_000_000), np.float32)}
    with (
        server(deaf) as url,
        contextlib.closing(open_transport(Endpoint.parse(url))) as transport,
        pytest.raises(Timeout, match=r"no answer within 0\.5 s"),
    ):
        transport.infer(Request("m", tensors, ("Y",), timeout=0.5))


def test_a_slow_upload_has_the_whole_time(
    http_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To connect may take less; urllib3 would give the body no more than that."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.5)
    limits = []
    send = http.client.HTTPConnection.send

    def noting(sending: Any, data: Any) -> None:
        if sending.sock is not None:
            limits.append(sending.sock.gettimeout())
        send(sending, data)

    monkeypatch.setattr(http.client.HTTPConnection, "send", noting)
    with Client(http_address, timeout=10) as client:
        client.say("Hello.")
    assert limits
    assert set(limits) == {10}


def test_who_forks_off_has_connections_of_its_own(http_address: str) -> None:
    """Two processes on one connection hear each other's answers."""
    with Client(http_address, timeout=10) as client:
        client.say("Hello.")
        kept: Any = client.transport._connections  # type: ignore[attr-defined]
        mine = kept.take()
        assert mine.usable
        kept.keep(mine)
        kept._process = 0  # as after a fork
        assert not kept.take().usable
        mine.close()
        client.say("Hello.")


def test_connections_are_kept_until_the_server_closes_them(http_address: str) -> None:
    with Client(http_address, timeout=10) as client:
        kept: Any = client.transport._connections  # type: ignore[attr-defined]
        client.say("Hello.")
        client.voices()
        assert len(kept._kept) == 1
    assert len(kept._kept) == 0
    closing = status("200 OK", "Connection: close", body=b'{"version": "1"}')
    with server(closing) as url, contextlib.closing(open_transport(Endpoint.parse(url))) as other:
        for _ in range(3):
            assert other.server_version(5) == "1"


def addresses(*ports: int) -> list[Any]:
    kind, protocol = socket.SOCK_STREAM, socket.IPPROTO_TCP
    return [(socket.AF_INET, kind, protocol, "", ("127.0.0.1", port)) for port in ports]


def test_all_addresses_of_a_name_share_the_time(
    http_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        with contextlib.ExitStack() as stack:
            for _ in range(2):  # which fill the line of those who want to connect
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.1", port))
            time.sleep(0.1)
            there = int(http_address.rpartition(":")[2])
            found = addresses(port, port, there)
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
            with Client("speech:1", timeout=1.5) as client:
                began = time.monotonic()
                assert client.say("Hello.")
                assert time.monotonic() - began < 1.5
            found = addresses(port, port, port)
            with Client("speech:1", timeout=0.6) as client:
                began = time.monotonic()
                with pytest.raises(ServerUnavailable, match="does not take the connection"):
                    client.say("Hello.")
                assert time.monotonic() - began < 1.2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            bytes_of(b"\0\0\x18\x04\0\0\0\0\0\0\x04\0\x3f\0\x01\0\x05\0\x3f\xff\xff"),
            "looks like a gRPC port.*grpc://",
        ),
        (
            status("405 Method Not Allowed", body=b"Method Not Allowed"),
            "looks like the port for metrics",
        ),
    ],
    ids=["gRPC", "metrics"],
)
def test_another_port_of_the_server(answer: Answers, message: str) -> None:
    with (
        server(answer) as url,
        Client(url) as client,
        pytest.raises(ServerUnavailable, match=message),
    ):
        client.say("Hello.")


PAGE = b"<html><body><h1>nginx</h1></body></html>"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (status("502 Bad Gateway", body=PAGE), ServerUnavailable, r"HTTP status 502 \(Bad Gateway"),
        (status("401 Unauthorized", body=b"no token"), AccessDenied, "no token"),
        (status("404 Not Found", body=PAGE), NotFound, r"HTTP status 404 \(Not Found\)"),
        (
            status("301 Moved", "Location: https://speech.example.org/"),
            ServerUnavailable,
            "sends callers to 'https://speech.example.org/'.*--url",
        ),
        (status("200 OK", body=b"hello"), ServerError, "not JSON|no stream of events"),
    ],
    ids=["502", "401", "404", "301", "200"],
)
def test_what_others_answer(
    answer: Answers, error: type[GsvClientError], message: str, ask: Callable[[Client], Any]
) -> None:
    with server(answer) as url, Client(url, timeout=5) as client:
        with pytest.raises(error, match=message) as caught:
            ask(client)
        assert "<" not in str(caught.value)
        health = client.health()
        assert not health.ready
        assert health.message


def test_a_request_that_a_proxy_finds_too_large(ask: Callable[[Client], Any]) -> None:
    """It answers and closes before it has read what is sent."""

    def refusing(taken: socket.socket) -> None:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        taken.recv(1024)
        taken.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        taken.shutdown(socket.SHUT_WR)
        # Long enough for the answer to be read; then what is unread resets the connection.
        time.sleep(0.3)

    long = Audio(np.linspace(-1, 1, 500_000), 48_000)
    with server(refusing) as url, Client(url, timeout=5) as client:
        say, stream = client.say, client.stream
        client.say = lambda text: say(text, reference=long, reference_text="x")  # type: ignore[method-assign,assignment,misc]
        client.stream = lambda text: stream(text, reference=long, reference_text="x")  # type: ignore[method-assign,assignment,misc]
        with pytest.raises(InvalidRequest, match="larger than the server, or a proxy before it"):
            ask(client)


LATER = email.utils.formatdate(time.time() + 3600, usegmt=True)


@pytest.mark.parametrize(
    ("header", "shortest", "longest"),
    [("7", 7, 7), (LATER, 3000, 3600), ("soon", None, None), ("", None, None)],
)
def test_the_wait_that_a_proxy_names(
    header: str, shortest: float | None, longest: float | None, ask: Callable[[Client], Any]
) -> None:
    answer = status("503 Service Unavailable", *([f"Retry-After: {header}"] if header else []))
    with server(answer) as url, Client(url, timeout=5) as client:
        with pytest.raises(ServerUnavailable) as caught:
            ask(client)
        wait = caught.value.wait
        if shortest is None or longest is None:
            assert wait is None
        else:
            assert wait is not None
            assert shortest <= wait <= longest
