"""All errors this package raises on purpose.

    GsvError
    ├── InvalidRequest      the caller's mistake                    → INVALID_ARG, HTTP 400
    ├── Overloaded          the waiting line is full                → UNAVAILABLE, HTTP 503
    ├── Cancelled           the caller went away                    → CANCELLED
    │   └── TimedOut        the request's own timeout is over       → UNAVAILABLE, HTTP 503
    ├── Unreachable         a model's process is gone or loading    → UNAVAILABLE, HTTP 503
    ├── SequenceLost        a sentence's instance has restarted     → UNAVAILABLE, HTTP 503
    ├── CheckpointError     a weight file is not what it should be
    ├── VoiceError          a voice folder is not what it should be → UNAVAILABLE, HTTP 503
    ├── ConfigurationError  a config file or parameter is wrong
    └── ServerError         tritonserver can't start, or has ended

A message says what was given, what is allowed and what to do: it crosses gRPC and is all that the
user sees. Only ``serving/backend`` knows Triton's codes.
"""

from __future__ import annotations

import math
import reprlib

# Characters of a value in a message. gRPC carries messages in trailers, often limited to 8 kB.
_SHOWN = 200


class _Shortened(reprlib.Repr):
    """``repr`` of the first members and characters, without making the whole of it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3  # lists in lists: what they hold multiplies
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 10
        self.maxstring = self.maxother = _SHOWN

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write numbers of more than 4,300 digits: there is no ``repr``."""
        if x.bit_length() <= 3 * _SHOWN:
            return repr(x)
        digits = int(x.bit_length() * math.log10(2)) + 1
        return f"a {'negative ' if x < 0 else ''}whole number of some {digits:,} digits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        """Written out, bytes are four times as long."""
        return repr(x) if len(x) <= _SHOWN else f"{x[:_SHOWN]!r}..."


_SHORTENED = _Shortened()


def shown(value: object) -> str:
    """A value for a message: its ``repr``, shortened to 200 characters.

    Long texts, lists and numbers are not written out before they are cut.
    """
    text = _SHORTENED.repr(value)
    half = (_SHOWN - 3) // 2
    return text if len(text) <= _SHOWN else f"{text[:half]}...{text[-half:]}"


class GsvError(Exception):
    """Base of all errors of this package."""


class InvalidRequest(GsvError):
    """The caller's mistake: names the tensor, the value given and what is allowed."""

    @classmethod
    def value(cls, tensor: str, given: object, allowed: str) -> InvalidRequest:
        """The usual message for one tensor out of range."""
        return cls(f"{tensor}: got {shown(given)}; allowed: {allowed}")


class Overloaded(GsvError):
    """Nothing is free and the waiting line is full; the message carries the line's length."""


class Cancelled(GsvError):
    """The caller went away; nobody waits for the answer."""


class TimedOut(Cancelled):
    """The time that the caller gave the request is over; the message says how long that was."""


class Unreachable(GsvError):
    """A model can't answer: its process is gone, or it is being loaded; soon it may again.

    Attributes:
        begun: the process that is gone had begun to work on the request.
    """

    begun = False


class SequenceLost(GsvError):
    """An instance doesn't know the sentence that it is asked to continue; start it on another."""


class CheckpointError(GsvError):
    """A weight file is missing, damaged, unsafe, or of another model; the message says which."""


class VoiceError(GsvError):
    """A voice folder is incomplete or breaks a rule; the message says which."""


class ConfigurationError(GsvError):
    """A config file or model parameter is missing, mistyped or out of range."""


class ServerError(GsvError):
    """tritonserver can't be started, does not get ready, or has ended by itself."""
