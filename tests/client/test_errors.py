"""Foreign errors become ours in one place, and messages stay one line."""

from __future__ import annotations

import socket
import ssl
import threading

import pytest
import soundfile
import urllib3
from urllib3.connection import HTTPConnection

from gsv_client import Client, errors
from gsv_client.errors import (
    AccessDenied,
    AudioError,
    Cancelled,
    GsvClientError,
    InvalidRequest,
    NotFound,
    ServerError,
    ServerUnavailable,
    Timeout,
    audio_errors,
    from_generate,
    from_status,
    http_errors,
)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequest),
        (401, AccessDenied),
        (403, AccessDenied),
        (404, NotFound),
        (429, ServerUnavailable),
        (499, Cancelled),
        (500, ServerError),
        (502, ServerUnavailable),
        (503, ServerUnavailable),
        (504, Timeout),
        (418, ServerError),
    ],
)
def test_statuses(status: int, kind: type[GsvClientError]) -> None:
    error = from_status(status, "first line\n  second line", "http://h:1")
    assert type(error) is kind
    assert str(error).endswith("first line second line")


def test_an_empty_message_names_the_status() -> None:
    assert (
        str(from_status(500, "", "http://h:1"))
        == "http://h:1: HTTP status 500 (Internal Server Error)"
    )


@pytest.mark.parametrize(
    "message",
    [
        "SPEED: got 9.0; allowed: 0.6 to 1.65",
        "in ensemble 'gpt_sovits_v4', SPEED: got 9.0; allowed: 0.6 to 1.65",
        "[request id: r7] in ensemble 'gpt_sovits_v4', SPEED: got 9.0; allowed: 0.6 to 1.65",
    ],
)
def test_the_callers_mistakes_stand_alone(message: str) -> None:
    assert str(from_status(400, message, "http://h")) == "SPEED: got 9.0; allowed: 0.6 to 1.65"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("SPEED: got 9.0; allowed: 0.6 to 1.65", InvalidRequest),
        ("in ensemble 'x', REFERENCE_TEXT: missing", InvalidRequest),
        ("[request id: r] expected number of inputs between 1 and 17 but got 0", InvalidRequest),
        ("8 sentences are in work and 64 are waiting; try again later", ServerUnavailable),
        ("KeyError: 'text_frontend'", ServerError),
        ("Stub process 'vocoder_0_0' is not healthy.", ServerUnavailable),
        ("vocoder is being loaded again; try again in 4.5 s", ServerUnavailable),
    ],
)
def test_generate_says_400_to_everything(message: str, kind: type[GsvClientError]) -> None:
    assert type(from_generate(400, message, "http://h")) is kind
    assert type(from_generate(503, message, "http://h")) is ServerUnavailable


EXAMPLES = {
    "LocationParseError": lambda kind: kind("x"),
    "MaxRetryError": lambda kind: kind(None, "/"),
    "ProxyError": lambda kind: kind("x", OSError("y")),
    "ReadTimeoutError": lambda kind: kind(None, "/", "x"),
    "IncompleteRead": lambda kind: kind(1, 2),
    "InvalidChunkLength": lambda kind: kind(urllib3.HTTPResponse(), b"x"),
    "HeaderParsingError": lambda kind: kind([], b""),
    "HostChangedError": lambda kind: kind(None, "/"),
    "EmptyPoolError": lambda kind: kind(None, "x"),
    "FullPoolError": lambda kind: kind(None, "x"),
    "ClosedPoolError": lambda kind: kind(None, "x"),
    "PoolError": lambda kind: kind(None, "x"),
    "RequestError": lambda kind: kind(None, "/", "x"),
    "NewConnectionError": lambda kind: kind(HTTPConnection("h"), "x"),
    "NameResolutionError": lambda kind: kind("h", HTTPConnection("h"), socket.gaierror()),
    "ProxySchemeUnknown": lambda kind: kind("x"),
    "UnrewindableBodyError": lambda kind: kind("x"),
}


def _urllib3_errors() -> list[type]:
    found = vars(urllib3.exceptions).values()
    base = urllib3.exceptions.HTTPError
    return [e for e in found if isinstance(e, type) and issubclass(e, base)]


@pytest.mark.parametrize("kind", _urllib3_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_urllib3_is_mapped(kind: type) -> None:
    original = EXAMPLES.get(kind.__name__, lambda kind: kind("x"))(kind)
    with pytest.raises(GsvClientError) as caught, http_errors("http://h:1", 5):
        raise original
    assert caught.value.__cause__ is original


@pytest.mark.parametrize(
    ("original", "kind"),
    [
        (TimeoutError(), Timeout),
        (ConnectionResetError("reset"), ServerUnavailable),
        (ssl.SSLError("bad certificate"), ServerUnavailable),
    ],
)
def test_errors_of_the_socket(original: Exception, kind: type) -> None:
    with pytest.raises(kind) as caught, http_errors("http://h:1", 5):
        raise original
    assert caught.value.__cause__ is original


def test_ours_pass_through() -> None:
    error = InvalidRequest("x")
    with pytest.raises(InvalidRequest) as caught, http_errors("http://h:1", 5):
        raise error
    assert caught.value is error


def test_errors_of_audio_files() -> None:
    with pytest.raises(AudioError, match=r"a\.wav: "), audio_errors("a.wav"):
        raise soundfile.LibsndfileError(1)
    with pytest.raises(BrokenPipeError), audio_errors("stdout"):
        raise BrokenPipeError


def test_the_tree_in_the_docstring_is_complete() -> None:
    kinds = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, GsvClientError)
    }
    assert all(name in (errors.__doc__ or "") for name in kinds)


def test_a_server_that_is_no_triton() -> None:
    """Something else listens there, and answers what is no JSON."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    thread = threading.Thread(target=answer)
    thread.start()
    with (
        listener,
        Client(f"127.0.0.1:{listener.getsockname()[1]}", timeout=5) as client,
        pytest.raises(ServerError, match="is not JSON: b'hello'"),
    ):
        client.say("x")
    thread.join()
