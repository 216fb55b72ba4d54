"""Callers that mean no good, or are only broken: refused, bounded, logged."""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway.running import Gateway, key_file, running

from gsv_client import AsyncClient
from gsv_client.gateway.settings import Settings
from gsv_client.testing import FakeAsyncTransport, FakeTransport

PROTECTED = [
    ("POST", "/v1/audio/speech"), ("GET", "/v1/audio/voices"), ("POST", "/v1/audio/voices"),
    ("GET", "/v1/models"), ("GET", "/v1/audio/models"), ("GET", "/tts"), ("POST", "/tts"),
    ("GET", "/set_gpt_weights"),
    ("GET", "/control"), ("POST", "/v1/speech"), ("POST", "/v1/speech/captions"),
    ("POST", "/v1/speech/recording"), ("GET", "/v1/speech/options"), ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]  # fmt: skip
LONG = "A sentence of great length which takes a long while to be spoken by anybody at all."
BODY = {"input": LONG, "response_format": "wav"}


@contextlib.contextmanager
def gateway_with(
    pace: float = 0.0, triton: FakeTransport | None = None, **settings: Any
) -> Iterator[tuple[Gateway, httpx.Client]]:
    client = AsyncClient(transport=FakeAsyncTransport(triton or FakeTransport(), pace=pace))
    with (
        running(client, Settings(**{"local": True, **settings})) as gateway,
        httpx.Client(base_url=gateway.url, timeout=20) as http,
    ):
        yield gateway, http


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


@pytest.fixture(scope="module")
def locked(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Gateway, httpx.Client, dict[str, str]]]:
    file, keys = key_file(tmp_path_factory.mktemp("keys"), "alice", "bob")
    with gateway_with(keys=file) as (gateway, http):
        yield gateway, http, keys


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(("verb", "path"), PROTECTED)
def test_nothing_without_a_key(
    locked: tuple[Gateway, httpx.Client, dict[str, str]], verb: str, path: str
) -> None:
    _, http, keys = locked
    for headers in (
        {},
        {"Authorization": "Bearer"},
        bearer("wrong"),
        bearer(keys["alice"][:-1]),
        bearer("ä"),
    ):
        raw = {name: value.encode() for name, value in headers.items()}
        answer = http.request(verb, path, headers=raw)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "API key" in answer.text
    if path != "/control":
        answer = http.request(verb, path, headers=bearer(keys["bob"]))
        assert answer.status_code not in (401, 404, 405)


def test_a_key_where_headers_can_not_be_sent(
    locked: tuple[Gateway, httpx.Client, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    _, http, keys = locked
    with caplog.at_level(logging.INFO, "gsv_client.gateway"):
        assert http.get("/v1/models", params={"api_key": keys["alice"]}).is_success
        assert http.get("/v1/models", headers={"X-API-Key": keys["alice"]}).is_success
        wait_for(lambda: caplog.text.count("caller alice") == 2)
    assert keys["alice"] not in caplog.text


def test_open_without_a_key(locked: tuple[Gateway, httpx.Client, dict[str, str]]) -> None:
    for path in ("/", "/app.js", "/health", "/ready"):
        assert locked[1].get(path).status_code == 200


def test_the_metrics_are_there_when_there_is_too_much() -> None:
    with gateway_with(pace=0.1, concurrency=1) as (gateway, http):
        with http.stream("POST", "/v1/audio/speech", json=BODY) as answer:
            pieces = answer.iter_raw()
            next(pieces)
            assert httpx.get(f"{gateway.url}/v1/models").status_code == 503
            assert "requests_in_flight 2" in httpx.get(f"{gateway.url}/metrics").text
            assert httpx.get(f"{gateway.url}/").status_code == 200
        wait_for(lambda: http.get("/v1/models").status_code == 200)


def test_a_keys_requests_at_once(tmp_path: Path) -> None:
    file, keys = key_file(tmp_path, "alice", "bob")
    with gateway_with(pace=0.1, keys=file, per_key=2) as (gateway, http):

        def ask(name: str) -> httpx.Response:
            return http.post("/v1/audio/speech", json=BODY, headers=bearer(keys[name]))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = [pool.submit(ask, "alice") for _ in range(2)]
            wait_for(lambda: gateway.metrics.in_flight == 2)
            refused = ask("alice")
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["type"] == "rate_limit_error"
            assert ask("bob").status_code == 200
            assert [future.result().status_code for future in first] == [200, 200]
        assert ask("alice").status_code == 200  # what ended counts no more


def test_all_requests_at_once() -> None:
    with (
        gateway_with(pace=0.1, concurrency=1) as (gateway, http),
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(http.post, "/v1/audio/speech", json=BODY)
        wait_for(lambda: gateway.metrics.in_flight == 1)
        refused = http.post("/v1/audio/speech", json=BODY)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert first.result().status_code == 200


@pytest.mark.parametrize("path", ["/v1/audio/speech", "/tts", "/v1/speech/recording"])
def test_too_large_a_body(path: str) -> None:
    with gateway_with(most_body=10_000) as (gateway, http):
        declared = http.post(path, content=b"x" * 10_001)
        assert declared.status_code == 413
        assert "10000 bytes" in declared.text

        def endless() -> Iterator[bytes]:
            for _ in range(1_000):
                yield b"x" * 1_000

        with contextlib.suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
            assert http.post(path, content=endless()).status_code == 413
        wait_for(lambda: gateway.metrics.in_flight == 0)
        assert http.get("/health").is_success


@pytest.mark.parametrize("length", ["9" * 5_000, "\xb2", "-1", "1e3", "0x10"])
def test_a_length_that_is_no_number(length: str) -> None:
    with gateway_with() as (gateway, http):
        head = f"POST /tts HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        with connect(gateway, head.encode("latin-1")) as made:
            made.shutdown(socket.SHUT_WR)
            assert made.recv(4_096).split()[1] in (b"400", b"413")
        assert 'status="500"' not in http.get("/metrics").text


def told_while_sending(gateway: Gateway, size: int, *headers: str) -> bytes:
    """What a caller reads who first sends the whole of its body."""
    lines = ("POST /tts HTTP/1.1", "Host: localhost", f"Content-Length: {size}", *headers, "", "")
    with connect(gateway, "\r\n".join(lines).encode()) as made:
        made.sendall(b"x" * size)
        time.sleep(0.1)
        answer = b""
        while data := made.recv(65_536):
            answer += data
        return answer


def test_who_is_still_sending_gets_the_answer_and_no_reset(
    locked: tuple[Gateway, httpx.Client, dict[str, str]],
) -> None:
    with gateway_with(most_body=5_000_000) as (gateway, _):
        answer = told_while_sending(gateway, 16_000_000)
        assert b" 413 " in answer
        assert b"5000000 bytes" in answer
    answer = told_while_sending(locked[0], 16_000_000, "Authorization: Bearer wrong")
    assert b" 401 " in answer
    assert b"not known here" in answer


def test_the_rest_of_a_refused_body_is_not_waited_for_long(
    locked: tuple[Gateway, httpx.Client, dict[str, str]],
) -> None:
    head = b"POST /tts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999\r\n"
    for more in (b"\r\n", b"Expect: 100-continue\r\n\r\n"):
        begin = time.monotonic()
        with connect(locked[0], head + more) as quiet:
            assert quiet.recv(4_096).startswith(b"HTTP/1.1 401")
        assert time.monotonic() - begin < 3


@pytest.mark.parametrize("more", [b"zz\r\n", b"5\r\nhello\r\n"], ids=["no chunk", "left"])
def test_a_body_that_breaks_off_is_no_failure_of_ours(
    more: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = (
        b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with caplog.at_level(logging.INFO), gateway_with() as (gateway, http):
        with connect(gateway, head) as broken:
            wait_for(lambda: gateway.metrics.in_flight == 1)
            broken.sendall(more)
            broken.shutdown(socket.SHUT_WR)
            wait_for(lambda: gateway.metrics.in_flight == 0)
        assert 'status="5' not in http.get("/metrics").text
    assert "Traceback" not in caplog.text
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert "; left" in caplog.text


def connect(gateway: Gateway, data: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", gateway.port))
    made.settimeout(10)
    made.sendall(data)
    return made


def test_a_body_that_comes_a_byte_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
    with (
        caplog.at_level(logging.INFO, "gsv_client.gateway"),
        gateway_with(body_seconds=0.5) as (gateway, _),
        connect(gateway, head) as slow,
    ):
        begin = time.monotonic()
        with contextlib.suppress(OSError):
            for _ in range(100):
                slow.sendall(b"{")
                time.sleep(0.05)
                if time.monotonic() - begin > 1.5:
                    break
        answer = b""
        with contextlib.suppress(OSError):
            answer = slow.recv(4_096)
        assert not answer or b" 408 " in answer
        wait_for(lambda: gateway.metrics.in_flight == 0)
    assert "not there after 0.5 s" in caplog.text


def test_headers_that_come_a_byte_at_a_time() -> None:
    with gateway_with(head_seconds=0.5) as (gateway, http), connect(gateway) as slow:
        begin = time.monotonic()
        sent = 0
        with contextlib.suppress(OSError):
            for letter in b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"y" * 200:
                sent += slow.send(bytes([letter]))
                time.sleep(0.02)
        assert sent < 100
        assert time.monotonic() - begin < 3
        assert http.get("/health").is_success


def test_headers_of_the_next_request_too() -> None:
    whole = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with gateway_with(head_seconds=0.5) as (gateway, _), connect(gateway, whole) as slow:
        answer = b""
        while not answer.endswith(b"}"):
            answer += slow.recv(4_096)
        assert b"200 OK" in answer
        slow.sendall(b"GET /hea")
        begin = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert slow.recv(1) == b""
        assert 0.3 < time.monotonic() - begin < 3


def test_five_hundred_idle_sockets(caplog: pytest.LogCaptureFixture) -> None:
    """They cost nothing but themselves, others are served meanwhile, and they go."""
    with gateway_with(head_seconds=1.5) as (gateway, http):
        idle = [connect(gateway) for _ in range(500)]
        try:
            wait_for(lambda: gateway.metrics.connections >= 500)
            begin = time.perf_counter()
            assert http.post("/v1/audio/speech", json=BODY).is_success
            assert time.perf_counter() - begin < 1
            wait_for(lambda: gateway.metrics.connections <= 1, 10)
            assert "gsv_gateway_connections_refused_total 500" in http.get("/metrics").text
        finally:
            for one in idle:
                one.close()
    assert "a connection from 127.0.0.1 was closed: no whole request after 1.5 s" in caplog.text


def test_too_many_sockets() -> None:
    with gateway_with(connections=5) as (gateway, _):
        idle = [connect(gateway) for _ in range(8)]
        try:
            wait_for(lambda: gateway.metrics.connections == 5)
            gone = 0
            for one in idle:
                one.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    try:
                        gone += one.recv(1) == b""
                    except ConnectionResetError:
                        gone += 1
            assert gone == 3
        finally:
            for one in idle:
                one.close()


def test_a_caller_who_leaves_is_not_worked_for() -> None:
    triton = FakeTransport()
    with gateway_with(pace=0.05, triton=triton) as (gateway, http):
        http.get("/ready")
        idle = gateway.tasks()
        for body in ({**BODY, "stream": True}, BODY):
            with http.stream("POST", "/v1/audio/speech", json=body) as answer:
                next(answer.iter_raw())
        wait_for(lambda: triton.closed == 2)
        wait_for(lambda: gateway.tasks() <= idle)
        wait_for(lambda: "gsv_gateway_left_total 2" in http.get("/metrics").text)


def test_a_caller_who_leaves_before_the_first_audio() -> None:
    with gateway_with(pace=3) as (gateway, http):
        for body in (BODY, {**BODY, "stream": False}):
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/audio/speech", json=body, timeout=0.3)
        wait_for(lambda: gateway.metrics.in_flight == 0, 2)


def test_a_caller_who_takes_nothing() -> None:
    """The connection is cut after a while, and until then it costs no more than its buffers."""
    triton = FakeTransport()
    body = b'{"text": "' + b"Long. " * 1_500 + b'", "sample_rate": 48000}'
    head = (
        f"POST /v1/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with gateway_with(triton=triton, stall_seconds=0.5) as (gateway, _):
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            lazy.connect(("127.0.0.1", gateway.port))
            lazy.sendall(head + body)
            wait_for(lambda: gateway.metrics.in_flight == 1)
            wait_for(lambda: gateway.metrics.in_flight == 0, 10)
        assert triton.closed == 1


def test_a_caller_who_takes_a_whole_answer_slowly() -> None:
    """It is one write, and may take longer than a reader may do nothing."""
    body = b'{"input": "' + b"Long. " * 300 + b'", "stream": false, "response_format": "wav"}'
    head = (
        "POST /v1/audio/speech HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    with gateway_with(stall_seconds=1.0) as (gateway, _), socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.connect(("127.0.0.1", gateway.port))
        slow.settimeout(10)
        slow.sendall(head + body)
        taken, began = b"", time.monotonic()
        while more := slow.recv(300_000):
            taken += more
            time.sleep(0.03)
        assert time.monotonic() - began > 2.0
    length = int(taken.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(taken.partition(b"\r\n\r\n")[2]) == length


def test_a_little_that_nobody_takes_ends_too() -> None:
    """Less than asyncio's own mark, on a connection that is to be closed."""
    with gateway_with(stall_seconds=0.5) as (gateway, _), socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
        lazy.connect(("127.0.0.1", gateway.port))
        ask = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        lazy.sendall(200 * ask)
        wait_for(lambda: gateway.metrics.connections == 1)
        wait_for(lambda: gateway.metrics.connections == 0, 15)


def test_a_body_of_nothing_but_marks(http: httpx.Client) -> None:
    """Nothing else runs while JSON is parsed."""
    body = b'{"input": "x", "junk": [' + b"[]," * 60_000 + b"[]]}"
    answer = http.post("/v1/audio/speech", content=body)
    assert answer.status_code == 400
    assert "more than 100000 values" in answer.text


def test_pages_of_others_may_not_call(http: httpx.Client, gateway: Gateway) -> None:
    for path in ("/v1/audio/speech", "/tts", "/v1/audio/voices"):
        answer = http.post(path, json=BODY, headers={"Origin": "http://evil.example"})
        assert answer.status_code == 403
        assert "evil.example may not call" in answer.text
    own = http.post("/v1/audio/speech", json=BODY, headers={"Origin": gateway.url})
    assert own.is_success
    preflight = http.options(
        "/v1/audio/speech",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert "access-control-allow-origin" not in preflight.headers


def test_a_name_that_was_made_to_point_here(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"Host": "evil.example"})
    assert answer.status_code == 403
    assert "this machine only" in answer.json()["error"]["message"]
    for host in ("localhost:9880", "127.0.0.1", "[::1]:9880"):
        assert http.get("/v1/models", headers={"Host": host}).is_success


@pytest.mark.parametrize("header", ["Host", "Origin"])
@pytest.mark.parametrize("value", ["[::1", "http://[", "http://[evil]", ""])
def test_names_that_are_none(http: httpx.Client, header: str, value: str) -> None:
    answer = http.get("/v1/models", headers={header: value})
    assert answer.status_code == 403, answer.text


def test_pages_that_are_let_in() -> None:
    with gateway_with(cors=("https://chat.example",)) as (_, http):
        origin = {"Origin": "https://chat.example"}
        preflight = http.options(
            "/v1/audio/speech",
            headers={**origin, "Access-Control-Request-Method": "POST",
                     "Access-Control-Request-Headers": "authorization,content-type"},
        )  # fmt: skip
        assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
        answer = http.post("/v1/audio/speech", json=BODY, headers=origin)
        assert answer.headers["access-control-allow-origin"] == "https://chat.example"
        assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
        assert http.get("/v1/models", headers={"Origin": "https://other.example"}).is_error


def test_trash_instead_of_http(gateway: Gateway, http: httpx.Client) -> None:
    for data in (b"\x16\x03\x01\x02\x00" + bytes(100), b"GET\r\n\r\n", b"A" * 100_000):
        with connect(gateway, data) as made, contextlib.suppress(ConnectionResetError):
            assert b"200" not in made.recv(4_096)
    assert http.get("/health").is_success


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/vocoder/infer", "/v2/models/gpt_sovits_v4/generate", "/v2/repository/index",
        "/v2/health/ready", "/v1/models/semantic_gpt", "/inference.GRPCInferenceService/x",
        "/../../etc/passwd", "/%2e%2e/%2e%2e/settings.py", "/..%2fsettings.py", "/page/app.js",
        "/__init__.py", "//etc/passwd",
    ],
)  # fmt: skip
def test_nothing_behind_the_doors_is_reached(
    http: httpx.Client, triton: FakeTransport, path: str
) -> None:
    for verb in ("GET", "POST"):
        answer = http.request(verb, path, json={"model": "vocoder"})
        assert answer.status_code in (404, 405)
    assert triton.requests == []


def test_a_model_can_not_be_chosen(http: httpx.Client, triton: FakeTransport) -> None:
    assert http.post("/v1/audio/speech", json={**BODY, "model": "vocoder"}).is_success
    assert {request.model for request in triton.requests} == {"gpt_sovits_v4_stream"}


def test_the_log_has_a_line_for_each_request(
    http: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "gsv_client.gateway"):
        http.post("/v1/audio/speech", json=BODY, headers={"X-Request-Id": "seen-7"})
        http.get("/tts", params={"text": "a secret text", "ref_audio_path": "/etc/passwd"})
        http.get("/nothing%0Ahere%1b[31m")
        http.get("/health", headers={"Origin": b"http://x\x9b31m"})  # type: ignore[dict-item]
        wait_for(lambda: len(caplog.records) >= 4)
    assert "POST /v1/audio/speech 200; in " in caplog.text
    assert "id seen-7" in caplog.text
    assert "s of audio" in caplog.text
    assert "secret" not in caplog.text
    assert "/nothing?here?[31m 404" in caplog.text
    assert "\x1b" not in caplog.text
    assert "\x9b" not in caplog.text


def test_ready_asks_triton() -> None:
    with gateway_with(triton=FakeTransport(models=["gpt_sovits_v4"])) as (_, http):
        assert http.get("/health").json()["status"] == "ok"
        answer = http.get("/ready")
        assert (answer.status_code, answer.json()) == (503, {"status": "not ready"})
    with running(AsyncClient("127.0.0.1:9", timeout=5)) as gateway:
        assert httpx.get(f"{gateway.url}/ready").status_code == 503
        answer = httpx.post(f"{gateway.url}/v1/audio/speech", json=BODY)
        assert answer.status_code == 503
        assert "127.0.0.1:9" not in answer.text


def test_many_at_once_and_a_third_of_them_leave() -> None:
    triton = FakeTransport()
    with gateway_with(pace=0.01, triton=triton) as (gateway, http):
        http.get("/ready")
        idle, threads = gateway.tasks(), threading.active_count()

        def call(number: int) -> int:
            with http.stream("POST", "/v1/audio/speech", json=BODY) as answer:
                if number % 3 == 0:
                    next(answer.iter_raw())
                    return 0
                return len(answer.read())

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            sizes = list(pool.map(call, range(60)))
        whole = {size for number, size in enumerate(sizes) if number % 3}
        assert whole == {44 + 2 * 4_800 * len(LONG)}
        wait_for(lambda: gateway.metrics.in_flight == 0)
        wait_for(lambda: gateway.tasks() <= idle)
        assert threading.active_count() <= threads + 16  # those of encoders are kept
