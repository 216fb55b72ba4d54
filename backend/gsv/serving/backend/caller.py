"""One caller of a model with a running batch: its sender, its time, and whether it still waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from gsv.errors import InvalidRequest, TimedOut
from gsv.serving.backend.callers_file import Asked
from gsv.serving.backend.error_codes import to_triton_error
from gsv.serving.backend.model import Model
from gsv.serving.backend.request import request_id, write_response


class Caller:
    """One caller of a running batch: its sender, and the function that cancels its work.

    Args:
        model: that it calls.
        request: Triton's.
        on_end: is called with this object after the last response.
    """

    def __init__(self, model: Model, request: Any, on_end: Callable[[Caller], None]) -> None:
        self._model, self._on_end = model, on_end
        self._request_id = request_id(request)
        try:
            self._requested = model.wanted(request)
        except InvalidRequest:  # which is what the request will be answered with
            self._requested = frozenset()
        self._sender = request.get_response_sender()
        self._lock = threading.Lock()
        self._open = True
        self._started = time.monotonic()
        self._sent: float | None = None
        self.span = model.begin_span(request)
        model.metrics.begin()
        self._error: BaseException | None = None
        self.cancel: Callable[[], None] | None = None
        self.called_off = False
        # Set for calls from another model of this server, whose call board tells when nobody waits.
        self._left = model.calls.watch(self._request_id)
        model.calls.take(self._request_id)
        self.timeout = 0.0  # seconds; 0 is without a limit

    @property
    def asked(self) -> Asked:
        """When it came, and when something was last sent for it."""
        return Asked(self._started, self._sent)

    def check_time(self) -> None:
        """TimedOut when the time that the caller has given is over (Triton's ``timeout``)."""
        if self.timeout and time.monotonic() - self._started > self.timeout:
            raise TimedOut(
                f"timeout: the request's {self.timeout:g} s are over; give it more time, or ask "
                "for less text at once"
            )

    def has_left(self) -> bool:
        """Whether the model that calls has said that nobody waits."""
        return self._left is not None and self._left()

    def is_cancelled(self) -> bool:
        """Whether the caller has gone; of another model's call also after its answer."""
        if self._left is not None:
            return self._left()
        with self._lock:
            return self._open and bool(self._sender.is_cancelled())

    def send(self, result: Any, *, final: bool) -> None:
        """Send one response; the last one closes the sender."""
        self._send(write_response(result, self._model.outputs, self._requested), final=final)

    def finish(self) -> None:
        """End a decoupled answer with an empty last message."""
        self._send(None, final=True)

    def fail(self, error: BaseException) -> None:
        """End the caller's stream with an error."""
        self._model.log_failure(self, error)
        self._error = error
        answer = to_triton_error(error, tagged=self._model.tagged)
        self._send(pb_utils.InferenceResponse(error=answer), final=True)

    def request_id(self) -> str:
        """The caller's request id, for the log."""
        return self._request_id

    def _send(self, response: Any, *, final: bool) -> None:
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0
        with self._lock:
            if not self._open:
                return
            self._open = not final
            sender = self._sender
            if final:
                # A stage may keep this object until after the server's memory is gone.
                self._sender = None
            if response is None:
                sender.send(flags=flags)
            else:
                self._sent = time.monotonic()  # before: the other side must not seem to be earlier
                sender.send(response, flags=flags)
        if final:
            self._model.ended(self._request_id, self.span, self._started, self._error)
            self._on_end(self)
