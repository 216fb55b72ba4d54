"""One caller of a model with a running batch: its sender, its time, and whether it still waits."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils

from gsv.errors import GsvError, InvalidRequest, TimedOut
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

    def is_watched(self) -> bool:
        """Whether its leaving is also seen after its answer: it is another model's call."""
        return self._left is not None

    def send(self, result: Any, *, final: bool) -> None:
        """Send one response; the last one closes the sender."""
        response = write_response(result, self._model.outputs, self._requested)
        if final:
            self._end(lambda: response)
            return
        with self._lock:
            if self._open:
                self._hand_over(self._sender, response, 0)

    def finish(self) -> None:
        """End a decoupled answer with an empty last message."""
        self._end(lambda: None)

    def fail(self, error: BaseException) -> None:
        """End the caller's stream with an error."""
        try:
            self._model.log_failure(self, error)
        finally:  # whatever becomes of the log, somebody waits for the error
            self._end(self._error_response, error)

    def request_id(self) -> str:
        """The caller's request id, for the log."""
        return self._request_id

    def parameters(self) -> str:
        """None, for the log, which looks for the id there too."""
        return ""

    def _end(self, last: Callable[[], Any], error: BaseException | None = None) -> None:
        """Send the last response that ``last`` makes; the caller has ended then, come what may."""
        with self._lock:
            if not self._open:
                return
            self._open, self._error = False, error
            # A stage may keep this object until after the server's memory is gone.
            sender, self._sender = self._sender, None
        with contextlib.ExitStack() as ending:  # which does everything, whatever fails
            ending.callback(self._on_end, self)
            ending.callback(
                lambda: self._model.ended(self._request_id, self.span, self._started, self._error)
            )
            self._send_last(sender, last)

    def _send_last(self, sender: Any, last: Callable[[], Any]) -> None:
        """Send the last response, or an error instead of it, or at least the end.

        /dev/shm may be full, and an error needs little of it. But once Triton's sender has begun
        with a last response it counts as closed and takes no other (python_backend 24.06 to
        26.07), and a model that is not decoupled can't end without a response: then nobody can
        answer this caller any more.
        """
        refusals: list[str] = []
        for response in (last, self._error_response, lambda: None):
            try:
                self._hand_over(sender, response(), pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                break
            except Exception as error:  # whatever it is, all other callers are to be served
                refusals.append(f"{type(error).__name__}: {error}")
                # Without the traceback, whose frames know the sender.
                self._error = self._error or error.with_traceback(None)
        if refusals:
            instead = ["an error was sent instead", "only the end was sent", "it gets no answer"]
            text = f"its last response was not sent ({refusals[0]}); {instead[len(refusals) - 1]}"
            self._model.log_failure(self, GsvError(text))

    def _error_response(self) -> Any:
        assert self._error is not None
        answer = to_triton_error(self._error, tagged=self._model.tagged)
        return pb_utils.InferenceResponse(error=answer)

    def _hand_over(self, sender: Any, response: Any, flags: int) -> None:
        if response is None:
            sender.send(flags=flags)
        else:
            self._sent = time.monotonic()  # before: the other side must not seem to be earlier
            sender.send(response, flags=flags)
