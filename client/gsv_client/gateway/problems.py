"""Errors as HTTP: the status of each, and its body as each door's clients expect it."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import reprlib
from typing import Any

from starlette.responses import Response

from gsv_client.errors import (
    AudioError,
    Cancelled,
    GsvClientError,
    InvalidRequest,
    ServerUnavailable,
    Timeout,
)

RETRY_SECONDS = 2
MOST_VALUE = 200  # characters of a caller's value that a message of the gateway repeats
MOST_MESSAGE = 2_000  # of any message: the client's and Triton's may repeat a value in full
_BRIEF = reprlib.Repr()  # looks at little more of a value than it tells
_BRIEF.maxstring = _BRIEF.maxlong = _BRIEF.maxother = MOST_VALUE
_ADDRESS = re.compile(r"^\w+://\S+: ")  # of Triton, which callers need not know


@dataclasses.dataclass(eq=False)
class Problem(Exception):
    """What a caller is told.

    Attributes:
        status: of HTTP.
        message: what was given, what is allowed, what to do.
        kind, code: OpenAI's `type` and `code`.
        param: the field at fault.
        retry_after: seconds, where trying again may help.
        detail: for the log, where it says more than the message.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: int | None = None
    detail: str = ""

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """What an error of the client means here."""
        if isinstance(error, Problem):
            return error
        text = shortened(str(error))
        said = _ADDRESS.sub("", text)
        if isinstance(error, (InvalidRequest, AudioError)):
            tensor = re.match(r"([A-Z][A-Z_]+|[a-z_]+): ", said)
            param = tensor[1].lower() if tensor else None
            return cls(400, said, param="input" if param == "text" else param, detail=text)
        if isinstance(error, ServerUnavailable):
            told = "the speech server can't be reached" if "no server answers" in said else said
            wait = RETRY_SECONDS if error.wait is None else math.ceil(error.wait)
            return cls(503, told, "server_error", "unavailable", None, wait, text)
        if isinstance(error, Timeout):
            message = "the speech server gave no answer in time; try again, or a shorter text"
            return cls(504, message, "server_error", "timeout", detail=text)
        if isinstance(error, Cancelled):
            message = "the request was cancelled before its answer was complete"
            return cls(503, message, "server_error", "cancelled", None, RETRY_SECONDS, text)
        message = "the speech server failed; its operator finds more under this request id"
        return cls(502, message, "server_error", "failed", detail=text)

    @property
    def in_full(self) -> str:
        """For the log."""
        return self.detail or self.message

    def openai(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }

    def api_v2(self) -> dict[str, Any]:
        """The body of GPT-SoVITS' api_v2."""
        return {"message": "tts failed", "Exception": self.message}

    def response(self, body: dict[str, Any] | None = None) -> Response:
        """The answer; by default with OpenAI's error object."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return json_response(self.openai() if body is None else body, self.status, headers)


def json_response(
    values: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """JSON in ASCII: an error may quote half a surrogate pair, which is no UTF-8."""
    return Response(json.dumps(values), status, headers, "application/json")


def refused(name: str, given: object, allowed: str) -> InvalidRequest:
    """`InvalidRequest.value` for what a caller sent, which may be of any size and depth.

    >>> str(refused("format", "midi", "mp3, wav"))
    "format: got 'midi'; allowed: mp3, wav"
    >>> len(str(refused("format", "x" * 1_000_000, "mp3, wav")))
    231
    """
    told = _BRIEF.repr(given)
    if len(told) > MOST_VALUE:
        told = f"{told[:MOST_VALUE]}…"
    return InvalidRequest(f"{name}: got {told}; allowed: {allowed}")


def shortened(message: str) -> str:
    """A message of bounded length: its begin, which names the field, and its end, the advice."""
    if len(message) <= MOST_MESSAGE:
        return message
    half = MOST_MESSAGE // 2 - 2
    return f"{message[:half]} … {message[-half:]}"


KNOWN = (GsvClientError, Problem)
