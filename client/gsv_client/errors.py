"""All errors this package raises on purpose, and the one place that maps other libraries' to them.

    GsvClientError
    ├── InvalidRequest      the caller's mistake, seen here or there (400, INVALID_ARGUMENT)
    ├── NotFound            the server has no such model (404, NOT_FOUND)
    ├── AccessDenied        it wants a header that was not sent (401, 403, UNAUTHENTICATED)
    ├── ServerUnavailable   no server there, its waiting line is full, or the voice can't be used
    │                       until its folder is mended (503, UNAVAILABLE)
    ├── Timeout             no answer in time (DEADLINE_EXCEEDED)
    ├── Cancelled           cancelled here or by the server (499, CANCELLED)
    ├── ServerError         the server failed, or broke the interface (500, INTERNAL)
    └── AudioError          an audio file can't be read or written

A message is one line that says what was given, what is allowed and what to do.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPException


class GsvClientError(Exception):
    """Base of all errors of this package."""


class InvalidRequest(GsvClientError):
    """The caller's mistake: names the tensor or argument, the value given and what is allowed."""

    @classmethod
    def value(cls, name: str, given: object, allowed: str) -> InvalidRequest:
        """The usual message for one value out of bounds."""
        return cls(f"{name}: got {given!r}; allowed: {allowed}")


class NotFound(GsvClientError):
    """The server has no such model."""


class AccessDenied(GsvClientError):
    """The server wants a header that was not sent."""


class ServerUnavailable(GsvClientError):
    """No server at this address, or it can't take this request now; trying later may work.

    Attributes:
        wait: seconds after which the server says to try again; None where it does not say.
        passes: whether time alone may help; a broken voice folder wants somebody to mend it.
    """

    wait: float | None = None
    passes: bool = True


class Timeout(GsvClientError):
    """No answer came within the time given."""


class Cancelled(GsvClientError):
    """The request was cancelled before its answer was complete."""


class ServerError(GsvClientError):
    """The server failed, or its answer is not what the interface promises."""


class AudioError(GsvClientError):
    """An audio file or stream can't be read or written; the message says which and why."""


_BY_HTTP_STATUS: dict[int, type[GsvClientError]] = {
    400: InvalidRequest,
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    408: Timeout,
    429: ServerUnavailable,
    499: Cancelled,
    502: ServerUnavailable,
    503: ServerUnavailable,
    504: Timeout,
}
_BY_GRPC_CODE: dict[str, type[GsvClientError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": NotFound,
    "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied,
    "UNAVAILABLE": ServerUnavailable,
    "RESOURCE_EXHAUSTED": ServerUnavailable,
    "DEADLINE_EXCEEDED": Timeout,
    "CANCELLED": Cancelled,
}

# How gRPC says that nobody listens, or that the name is not known.
_NOT_THERE = re.compile("failed to connect|dns resolution|errors resolving", re.IGNORECASE)
# Triton prefixes a step's own message with where it came from; the message alone is for the user.
_ORIGIN = re.compile(r"^(?:\[request id: [^\]]*\] )?(?:in ensemble '[^']*', )?")


# `generate_stream` answers 400 whatever went wrong (Triton 2.51), and a gRPC stream has no codes.
# What the models say of a caller's mistake begins with the tensor's name, and what is worth another
# try says so.
_NAMES_A_TENSOR = re.compile(r"^[A-Z][A-Z_]+: ")
_NAMES_INPUTS = re.compile(r"\binputs?\b", re.IGNORECASE)
_TRY_LATER = re.compile(r"\btry again (?:later|in (\d+(?:\.\d+)?) s)\b")
# What Triton says of a model whose process has died, or that is being loaded again (2.51: with the
# codes INTERNAL and NOT_FOUND).
_BEING_LOADED = re.compile(
    r"Stub process .*is not healthy|has no available versions|is not at ready state|"
    r"the process that worked on the request died"
)
# A voice that the server can't use, through no fault of the caller.
_NAMES_A_VOICE = re.compile(r"^voice [\w./-]+: ")
# A frame of settings, with which every HTTP/2 server begins, where a status line should be.
_SPEAKS_HTTP2 = re.compile(r"BadStatusLine.*\\x00\\x00.?\\x04|HTTP/2")
# Over gRPC a restricted API has the code UNAVAILABLE.
_RESTRICTED = "is restricted, expecting header"


def from_generate(status: int, message: str, address: str) -> GsvClientError:
    """The error that a refused `generate_stream` request, or a gRPC stream's, stands for."""
    if status != 400:
        return from_status(status, message, address)
    message = _ORIGIN.sub("", _one_line(message))
    if says_try_again(message) or _NAMES_A_VOICE.match(message):
        return _of(ServerUnavailable, message, address)
    if _NAMES_A_TENSOR.match(message) or _NAMES_INPUTS.search(message):
        return _of(InvalidRequest, message, address)
    return _of(ServerError, message, address)


def says_try_again(message: str) -> bool:
    """Whether the server says that trying again may work."""
    return bool(_TRY_LATER.search(message))


def from_status(status: int, message: str, address: str) -> GsvClientError:
    """The error that an HTTP status other than 200 stands for."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return InvalidRequest(
            f"{address}: the request is larger than the server, or a proxy before it, takes "
            f"({message or _named(status)}); send a shorter recording or text"
        )
    return _of(_BY_HTTP_STATUS.get(status, ServerError), message or _named(status), address)


def redirected(status: int, location: str, address: str) -> ServerUnavailable:
    """The error of an answer that sends the caller elsewhere."""
    error = ServerUnavailable(
        f"{address}: {_named(status)}: it sends callers to {location!r}; if the server is there, "
        "give that address as url (--url)"
    )
    error.passes = False
    return error


@contextlib.contextmanager
def http_errors(address: str, timeout: float) -> Iterator[None]:
    """Turn what urllib3 and the socket raise inside the block into this package's errors."""
    from urllib3 import exceptions

    try:
        yield
    except exceptions.NewConnectionError as error:
        raise unreachable(address, _last_words(error)) from error
    except exceptions.ConnectTimeoutError as error:
        raise unreachable(address, "it does not take the connection") from error
    except (exceptions.TimeoutError, TimeoutError) as error:
        raise timed_out(address, timeout) from error
    except (exceptions.SSLError, ssl.SSLError) as error:
        raise ServerUnavailable(f"{address}: no secure connection: {_last_words(error)}") from error
    except (exceptions.HTTPError, HTTPException, OSError) as error:
        if any(isinstance(cause, TimeoutError) for cause in error.args):  # while it was sent
            raise timed_out(address, timeout) from error
        if _SPEAKS_HTTP2.search(repr(error)):
            raise ServerUnavailable(
                f"{address}: this looks like a gRPC port; give the server's HTTP port, or "
                f"grpc://{address.rpartition('/')[2]} as url (--url)"
            ) from error
        raise ServerUnavailable(
            f"{address}: the connection broke: {_last_words(error)}; the answer is lost, try again"
        ) from error


@contextlib.contextmanager
def grpc_errors(address: str, timeout: float) -> Iterator[None]:
    """Turn what gRPC raises inside the block into this package's errors."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        code, details = error.code().name, _one_line(error.details() or "")
        if code == "DEADLINE_EXCEEDED":
            raise timed_out(address, timeout) from error
        if code == "UNAVAILABLE" and _NOT_THERE.search(details):
            raise unreachable(address, _last_words(error.details())) from error
        kind = AccessDenied if _RESTRICTED in details else _BY_GRPC_CODE.get(code, ServerError)
        raise _of(kind, details or f"gRPC status {code}", address) from error


READABLE = "WAV, FLAC, OGG, MP3, AIFF"
_UNKNOWN_FORMAT = 1  # libsndfile's SF_ERR_UNRECOGNISED_FORMAT


@contextlib.contextmanager
def audio_errors(subject: str) -> Iterator[None]:
    """Turn what soundfile and the file system raise inside the block into AudioError."""
    import soundfile

    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe left: not a fault of the audio
    except soundfile.LibsndfileError as error:
        if error.code != _UNKNOWN_FORMAT:
            raise AudioError(f"{subject}: {_one_line(error.error_string)}") from error
        raise AudioError(
            f"{subject}: not a readable sound file; allowed: {READABLE}; convert others, such as "
            "with: ffmpeg -i FILE recording.wav"
        ) from error
    except (OSError, soundfile.SoundFileError, ValueError, TypeError) as error:
        raise AudioError(f"{subject}: {_one_line(str(error))}") from error


def unreachable(address: str, why: str) -> ServerUnavailable:
    """No server answers at `address`."""
    return ServerUnavailable(
        f"no server answers at {address} ({why}); start one with `gsv serve`, "
        "or give the address of a running one as url (--url)"
    )


def timed_out(address: str, timeout: float) -> Timeout:
    """Nothing came from `address` for `timeout` seconds."""
    return Timeout(
        f"{address}: no answer within {timeout:g} s; raise timeout (--timeout), "
        "or see with `gsv doctor --url` whether the server is well"
    )


def _of(kind: type[GsvClientError], message: str, address: str) -> GsvClientError:
    message = _ORIGIN.sub("", _one_line(message))
    if _BEING_LOADED.search(message):
        kind = ServerUnavailable
    error = kind(message if kind is InvalidRequest else f"{address}: {message}")
    if isinstance(error, ServerUnavailable):
        said = _TRY_LATER.search(message)
        error.wait = float(said[1]) if said and said[1] else None
        error.passes = not _NAMES_A_VOICE.match(message)
    return error


def _named(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f"HTTP status {status} ({HTTPStatus(status).phrase})"
    return f"HTTP status {status}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _last_words(error: object) -> str:
    """What follows the last colon: foreign messages put the cause at the end."""
    whole = _one_line(str(error))
    cause = whole.rsplit(": ", 1)[-1].strip("[]()'\"")
    return re.sub(r"^.*Errno -?\d+\] ", "", cause) if len(cause) > 3 else whole
