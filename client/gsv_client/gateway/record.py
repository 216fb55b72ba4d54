"""What is known of one request: handlers fill it in, the log and the metrics read it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from gsv_client.gateway.problems import shortened

ANYBODY = "-"  # the caller's name where no key is asked for


@dataclasses.dataclass
class Record:
    """One request.

    Attributes:
        request_id: the caller's own or a random one; Triton gets it too.
        path: without the query, which may hold a text or a key.
        caller: name of the key.
        started: `time.perf_counter()` at its first byte.
        first_audio: seconds until the first chunk came from Triton.
        audio_seconds: of audio that went to the encoder.
        status: HTTP status that was sent; 0 while none was.
        trace: the header `traceparent` of the caller's span, for Triton; empty: none came that is
            recorded.
        problem: what went wrong, in full: for the log, not for the caller.
        left: the caller went before the end.
    """

    request_id: str
    method: str
    path: str
    caller: str = ANYBODY
    started: float = dataclasses.field(default_factory=time.perf_counter)
    first_audio: float | None = None
    audio_seconds: float = 0.0
    status: int = 0
    trace: str = ""
    problem: str = ""
    left: bool = False

    def heard(self, seconds: float) -> None:
        """A chunk of so many seconds came."""
        if self.first_audio is None:
            self.first_audio = self.elapsed()
        self.audio_seconds += seconds

    @property
    def headers(self) -> dict[str, str]:
        """What Triton is to get with this request."""
        return {"traceparent": self.trace} if self.trace else {}

    def elapsed(self) -> float:
        """Seconds since the request's first byte."""
        return time.perf_counter() - self.started

    def line(self) -> str:
        """One line for the log."""
        first = "-" if self.first_audio is None else f"{1000 * self.first_audio:.0f} ms"
        parts = [
            f"{self.method} {self.path} {self.status or '-'}",
            f"in {self.elapsed():.2f} s, first audio {first}, {self.audio_seconds:.2f} s of audio",
            f"caller {self.caller}, id {self.request_id}",
        ]
        if self.left:
            parts.append("left")
        if self.problem:
            # A caller's own words may be in it: no control characters in the log.
            parts.append("".join(c if c.isprintable() else "?" for c in shortened(self.problem)))
        return "; ".join(parts)


def record_of(scope: Any) -> Record:
    """The record that the guard made for a request."""
    record: Record = scope["state"]["record"]
    return record
