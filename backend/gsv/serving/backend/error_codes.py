"""Our exceptions as Triton's errors, and back again behind a call between models.

A call from one model to another keeps the error's message and loses its code (measured: all arrive
as INTERNAL). So models that others call put a tag for it at the end of the message, and the
caller's side takes it off again.
"""

from __future__ import annotations

import re
from typing import Any

import triton_python_backend_utils as pb_utils

from gsv.errors import (
    Cancelled,
    GsvError,
    InvalidRequest,
    Overloaded,
    SequenceLost,
    TimedOut,
    Unreachable,
    VoiceError,
)

_CODES: dict[type[GsvError], str] = {
    InvalidRequest: "INVALID_ARG",
    Overloaded: "UNAVAILABLE",
    # The request is right and the server works; the voice's folder has to be repaired.
    VoiceError: "UNAVAILABLE",
    TimedOut: "UNAVAILABLE",  # as what Triton itself says of a request whose time is over
    Cancelled: "CANCELLED",
    Unreachable: "UNAVAILABLE",
    SequenceLost: "UNAVAILABLE",
}
_TAGS: dict[type[GsvError], str] = {
    **_CODES,
    VoiceError: "VOICE",
    TimedOut: "TIMEOUT",
    Unreachable: "UNREACHABLE",
    SequenceLost: "SEQUENCE",
}
_KINDS = {tag: kind for kind, tag in _TAGS.items()}
_TAG = re.compile(r" \[(\w+)\]$")
_ENSEMBLE = re.compile(r"^in ensemble '[^']*', ")
# What Triton itself says of a model whose process is gone, or that is being loaded, and of a
# sequence whose start its batcher has not seen (2.51; core/sequence_batch_scheduler.cc).
_UNREACHABLE = re.compile(
    r"is not healthy|is not ready|is not found|is unloading|unloaded|no available versions|"
    r"not in ready state|Stub process|is stopping|is no longer alive"
)
_SEQUENCE_LOST = re.compile(r"must specify the START flag on the first request of the sequence")


def to_triton_error(error: BaseException, *, tagged: bool) -> Any:
    """The error with its code; ``tagged`` says the code in the message as well."""
    for kind, name in _CODES.items():
        if isinstance(error, kind):
            message = f"{error} [{_TAGS[kind]}]" if tagged else str(error)
            return pb_utils.TritonError(message, getattr(pb_utils.TritonError, name))
    text = str(error) if isinstance(error, GsvError) else f"{type(error).__name__}: {error}"
    return pb_utils.TritonError(text, pb_utils.TritonError.INTERNAL)


def from_message(message: str) -> GsvError:
    """The exception that a called model raised."""
    message = _ENSEMBLE.sub("", message)
    tag = _TAG.search(message)
    if tag is None or tag[1] not in _KINDS:
        if _SEQUENCE_LOST.search(message):
            return SequenceLost(message)
        return Unreachable(message) if _UNREACHABLE.search(message) else GsvError(message)
    return _KINDS[tag[1]](message[: tag.start()])
