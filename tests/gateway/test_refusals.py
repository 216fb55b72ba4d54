"""Whatever is refused, each door tells it in the form that its clients read; the log has it too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway.running import Gateway, key_file, running
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from gsv_client import AsyncClient, InvalidRequest
from gsv_client.gateway.problems import MOST_MESSAGE
from gsv_client.gateway.settings import Settings
from gsv_client.testing import FakeAsyncTransport, FakeTransport
from gsv_client.transport import Request

MOST_BODY = 100_000
MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}
FILE = b'--x\r\nContent-Disposition: form-data; name="ref_audio"; filename="a"\r\n\r\nabc\r\n'
# A POST of each door, and of the guard before them.
PATHS = ("/v1/audio/speech", "/v1/speech", "/v1/speech/captions", "/v1/speech/recording", "/tts")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[httpx.Client, Gateway]]:
    """A gateway that asks for keys, and a caller who has one."""
    file, keys = key_file(tmp_path_factory.mktemp("keys"), "alice")
    settings = Settings(keys=file, most_body=MOST_BODY, body_seconds=0.5)
    with (
        running(AsyncClient(transport=FakeAsyncTransport()), settings) as gateway,
        httpx.Client(
            base_url=gateway.url, timeout=20, headers={"Authorization": f"Bearer {keys['alice']}"}
        ) as http,
    ):
        yield http, gateway


def told(answer: httpx.Response) -> str:
    """The words of an error; it must have the form of its door."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    if answer.request.url.path == "/tts":
        assert set(body) == {"message", "Exception"}
        assert body["message"] == "tts failed"
        return str(body["Exception"])
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return str(body["error"]["message"])


def slowly() -> Iterator[bytes]:
    for _ in range(12):
        yield b"{"
        time.sleep(0.1)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("status", "words", "request_"),
    [
        (401, "API key is not known", {"headers": {"Authorization": "Bearer wrong"}}),
        (403, "pages of http://evil.example may not call",
         {"headers": {"Origin": "http://evil.example"}}),
        (413, "allowed: 100000 bytes", {"content": bytes(MOST_BODY + 1)}),
        (408, "not there after 0.5 s", {"content": slowly}),
    ],
    ids=["key", "origin", "size", "pace"],
)  # fmt: skip
def test_what_the_guard_refuses(
    locked: tuple[httpx.Client, Gateway],
    caplog: pytest.LogCaptureFixture,
    path: str,
    status: int,
    words: str,
    request_: dict[str, Any],
) -> None:
    given = {
        name: value() if isinstance(value, Callable) else value  # type: ignore[arg-type]
        for name, value in request_.items()
    }
    with caplog.at_level(logging.INFO, "gsv_client.gateway"):
        answer = locked[0].post(path, **given)
        assert answer.status_code == status
        assert words in told(answer)
        deadline = time.monotonic() + 5
        while f"POST {path} {status}" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.02)
    assert f"POST {path} {status}" in caplog.text
    assert words in caplog.text


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "multipart/form-data"}, FILE + b"--x--\r\n"),
        (MULTIPART, FILE + FILE + b"--x--\r\n"),
        (MULTIPART, b"no boundary here"),
        (MULTIPART, b"--x\r\n\r\n\r\n--x--\r\n"),
        (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="text"\r\n\r\n'
         + b"a" * 90_000 + b"\r\n--x--\r\n"),
    ],
    ids=["no boundary", "two files", "not multipart", "a part without a name", "long text"],
)  # fmt: skip
def test_a_broken_form(
    locked: tuple[httpx.Client, Gateway], headers: dict[str, str], body: bytes
) -> None:
    answer = locked[0].post("/tts", content=body, headers=headers)
    assert answer.status_code == 400
    assert isinstance(answer.json()["message"], str), answer.text
    assert "detail" not in answer.json()


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/v1/audio/speech", 405), ("DELETE", "/v1/audio/voices", 405),
        ("PUT", "/v1/speech", 405), ("GET", "/v1/nothing", 404), ("GET", "/nothing", 404),
        ("POST", "/health", 405), ("POST", "/", 405), ("GET", "/tts/", 404),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_in_words(
    locked: tuple[httpx.Client, Gateway], verb: str, path: str, status: int
) -> None:
    answer = locked[0].request(verb, path)
    assert answer.status_code == status
    assert path in told(answer)
    assert "GET /openapi.json" in told(answer)
    assert ("allow" in answer.headers) == (status == 405)


def test_a_wrong_method_of_api_v2_is_told_as_upstream_does(
    locked: tuple[httpx.Client, Gateway],
) -> None:
    for verb, path in (("PUT", "/tts"), ("POST", "/control"), ("POST", "/set_gpt_weights")):
        answer = locked[0].request(verb, path)
        assert (answer.status_code, answer.json()) == (405, {"detail": "Method Not Allowed"})
        assert "GET" in answer.headers["allow"]


def test_a_mistake_of_ours_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """In the form of the door, without its insides; the log has those."""

    def fail(request: Request) -> None:
        raise ZeroDivisionError("a secret of the insides")

    client = AsyncClient(transport=FakeAsyncTransport(FakeTransport(refuse=fail)))
    fields = {"text": "Hi.", "text_lang": "en", "ref_audio_path": "demo", "prompt_lang": "en"}
    with (
        running(client, Settings(local=True)) as gateway,
        httpx.Client(base_url=gateway.url) as http,
    ):
        for path, body in (
            ("/v1/audio/speech", {"input": "Hi.", "stream": True}),
            ("/v1/audio/speech", {"input": "Hi.", "stream": False}),
            ("/v1/speech", {"text": "Hi."}),
            ("/tts", {**fields, "streaming_mode": 0}),
            ("/tts", {**fields, "streaming_mode": 2}),
        ):
            answer = http.post(path, json=body)
            assert answer.status_code == 500
            assert "under this request id" in told(answer)
            assert answer.headers["x-request-id"]
            assert "secret" not in answer.text
    assert "ZeroDivisionError: a secret of the insides" in caplog.text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/audio/speech", {"input": "x", "response_format": "y" * 50_000}),
        ("/v1/audio/speech", {"input": "x", "voice": {"name": "y" * 50_000}}),
        ("/v1/audio/speech", {"input": "x", "voice": {"y" * 30_000: [["y" * 30_000]]}}),
        ("/v1/audio/speech", {"input": "x", "sample_rate": 10**4_000}),
        ("/v1/audio/speech", {"input": "x", "top_k": 10**4_000}),
        ("/v1/audio/speech", {"input": "x", "top_p": 10**4_000}),
        ("/v1/audio/speech", {"input": "x", "top_p": 10**400}),
        ("/v1/audio/speech", {"input": "x", "stream_format": "y" * 50_000}),
        ("/v1/audio/speech", {"input": "x", "reference": "data:" + "y" * 50_000}),
        ("/v1/speech", {"text": "x", "format": "y" * 50_000}),
        ("/v1/speech/captions", {"text": "x", "format": "y" * 50_000}),
        ("/tts", {"ref_audio_path": "y" * 50_000, "text": "x", "text_lang": "en",
                  "prompt_lang": "en"}),
    ],
    ids=range(12),
)  # fmt: skip
def test_no_message_repeats_a_long_value_in_full(
    locked: tuple[httpx.Client, Gateway], path: str, body: dict[str, Any]
) -> None:
    answer = locked[0].post(path, json=body)
    assert answer.status_code == 400
    # `top_k` goes to the client as it is, so the client refuses it.
    assert len(told(answer)) <= (MOST_MESSAGE if "top_k" in body else 500)


def test_what_triton_repeats_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """For the caller and in the log; the begin names the field, the end what is allowed."""
    words = f"LANGUAGE: got {'y' * 1_000_000!r}; allowed: auto, zh"
    triton = FakeTransport(refuse=lambda request: InvalidRequest(words))
    client = AsyncClient(transport=FakeAsyncTransport(triton))
    with (
        caplog.at_level(logging.INFO, "gsv_client.gateway"),
        running(client, Settings(local=True)) as gateway,
    ):
        answer = httpx.post(f"{gateway.url}/v1/speech", json={"text": "Hi.", "language": "y"})
    assert answer.status_code == 400
    assert told(answer).startswith("LANGUAGE: got 'yyy")
    assert told(answer).endswith("yyy'; allowed: auto, zh")
    assert answer.json()["error"]["param"] == "language"
    assert len(told(answer)) <= MOST_MESSAGE
    assert max(len(record.message) for record in caplog.records) <= MOST_MESSAGE + 500


def test_sockets_where_there_is_none(locked: tuple[httpx.Client, Gateway]) -> None:
    http, gateway = locked
    headers = {"Authorization": http.headers["authorization"]}
    for path in ("/", "/nothing", "/tts", "/v1/audio/speech"):
        with pytest.raises(InvalidStatus) as refused:
            connect(
                gateway.url.replace("http", "ws") + path, proxy=None, additional_headers=headers
            )
        assert refused.value.response.status_code == 403
    answer = http.get("/v1/speech/stream")
    assert answer.status_code == 400
    assert "this is a WebSocket" in told(answer)


def test_a_key_file_that_breaks_while_serving(tmp_path: Path) -> None:
    """Whoever had a key still has it; nobody sees a failure of ours."""
    file, keys = key_file(tmp_path, "alice")
    client = AsyncClient(transport=FakeAsyncTransport())
    with running(client, Settings(keys=file)) as gateway:
        file.write_text("alice secret")
        time.sleep(1.1)  # it looks at the file once a second
        for key, status in ((keys["alice"], 200), ("wrong", 401)):
            answer = httpx.get(
                f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {key}"}
            )
            assert answer.status_code == status
