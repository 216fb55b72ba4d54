"""Spans of requests for OpenTelemetry: what the public model and each stage did for one request.

Triton has a span for each request that comes from outside, in its mode ``opentelemetry``. For the
calls that a model makes it wants the request's own trace (``trace=`` of ``InferenceRequest``), and
frees that when ``execute`` has returned: a model that calls others later, as ours do, takes the
whole server down with signal 11 (measured with 2.51 at the first call; core, InferenceRequest::
Release, is the same in July 2026). So the models tell of their spans themselves. They hang below
Triton's, whose name (W3C ``traceparent``) it gives to a model of the request, and travel along in
the request ids of our calls, which reach the steps of an ensemble too.

Where spans go is what OpenTelemetry's variables say: ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``, or
``OTEL_EXPORTER_OTLP_ENDPOINT``; by OTLP over HTTP, as JSON.
"""

from __future__ import annotations

import collections
import json
import logging
import os
import re
import secrets
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from gsv import __version__

ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_BASE_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_SERVICE = "OTEL_SERVICE_NAME"
_SERVICE_NAME = "gpt-sovits-triton"

EXPORT_SECONDS = 1.0  # between two messages to the collector
SEND_SECONDS = 2.0  # that one may take
KEPT_SPANS = 4096  # while the collector does not answer
_INTERNAL, _OK, _ERROR = 1, 1, 2  # SPAN_KIND_INTERNAL, STATUS_CODE_OK and STATUS_CODE_ERROR

# version 00 – trace – span – flags, of which 01 says that somebody records it
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
_TRACED_ID = re.compile(rf"({_TRACEPARENT.pattern})!(.*)", re.DOTALL)

_log = logging.getLogger(__name__)


def traced_id(traceparent: str, request_id: str) -> str:
    """A request id that carries the span under which calls are made."""
    return f"{traceparent}!{request_id}"


def split_traced_id(request_id: str) -> tuple[str, str]:
    """The span that an id carries, empty if none, and the id without it."""
    match = _TRACED_ID.fullmatch(request_id)
    return (match[1], match[4]) if match else ("", request_id)


def span_of(request: Any) -> str:
    """The span that Triton has begun for a request from outside; empty: it is not traced.

    To be asked in ``execute``: afterwards it is gone.
    """
    context = request.trace().get_context()
    try:
        found = json.loads(context).get("traceparent", "") if context else ""
    except (ValueError, AttributeError):
        return ""
    return found if isinstance(found, str) and _TRACEPARENT.fullmatch(found) else ""


def endpoint_of(environment: Mapping[str, str]) -> str:
    """Where spans go; empty: nowhere."""
    if url := environment.get(ENDPOINT):
        return url
    base = environment.get(_BASE_ENDPOINT, "")
    return f"{base.rstrip('/')}/v1/traces" if base else ""


class Span:
    """The work of one model for one request."""

    def __init__(self, tracer: Tracer, parent: str, request_id: str) -> None:
        match = _TRACEPARENT.fullmatch(parent)
        if match is None:
            raise ValueError(f"{parent!r}: must be a traceparent of version 00")
        self._tracer = tracer
        self._trace, self._parent = match[1], match[2]
        self._id = secrets.token_hex(8)
        self._request_id = request_id
        self._start = time.time_ns()

    @property
    def traceparent(self) -> str:
        """What spans below this one name as their parent."""
        return f"00-{self._trace}-{self._id}-01"

    def end(self, outcome: str, error: BaseException | None) -> None:
        """The last response has left; ``error`` is what it said, if it was one."""
        attributes = {
            "gsv.outcome": outcome,
            "gsv.request_id": self._request_id,
            "gsv.model_instance": self._tracer.instance,
        }
        status: dict[str, Any] = {"code": _OK}
        if error is not None:
            status = {"code": _ERROR, "message": f"{type(error).__name__}: {error}"}
        self._tracer.put(
            {
                "traceId": self._trace,
                "spanId": self._id,
                "parentSpanId": self._parent,
                "name": self._tracer.model,
                "kind": _INTERNAL,
                "startTimeUnixNano": str(self._start),
                "endTimeUnixNano": str(time.time_ns()),
                "attributes": _attributes(attributes),
                "status": status,
            }
        )


class Tracer:
    """Takes the spans of one model's instance and sends them to a collector, on a thread.

    Args:
        model: the name of the spans.
        instance: of the model.
        url: of the collector.
    """

    def __init__(self, model: str, instance: str, url: str) -> None:
        self.model, self.instance = model, instance
        self._url = url
        self._service = os.environ.get(_SERVICE) or _SERVICE_NAME
        host = urlsplit(url).hostname or ""
        direct = host in ("localhost", "::1") or host.startswith("127.")
        handlers = [urllib.request.ProxyHandler({})] if direct else []
        self._opener = urllib.request.build_opener(*handlers)
        self._spans: collections.deque[dict[str, Any]] = collections.deque(maxlen=KEPT_SPANS)
        self._closed = threading.Event()
        self._refused = ""  # what was logged last
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, model: str, instance: str) -> Tracer | None:
        """The tracer of this process, None where nobody collects."""
        url = endpoint_of(os.environ)
        return cls(model, instance, url) if url else None

    def begin(self, parent: str, request_id: str) -> Span | None:
        """A span that begins now; None where the request is not traced.

        Args:
            parent: the traceparent of the span above it, or "".
            request_id: the caller's own.
        """
        return Span(self, parent, request_id) if parent else None

    def put(self, span: dict[str, Any]) -> None:
        """Take a span that has ended; from any thread."""
        self._spans.append(span)
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._export, name="trace-export", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Send what is left."""
        with self._lock:
            self._closed.set()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _export(self) -> None:
        while not self._closed.wait(EXPORT_SECONDS):
            self._send()
        self._send()

    def _send(self) -> None:
        spans = [self._spans.popleft() for _ in range(len(self._spans))]
        if not spans:
            return
        scope = {"scope": {"name": "gsv", "version": __version__}, "spans": spans}
        resource = {"attributes": _attributes({"service.name": self._service})}
        message = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]}
        request = urllib.request.Request(
            self._url,
            json.dumps(message).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=SEND_SECONDS):
                self._refused = ""
        except (OSError, ValueError) as error:
            if str(error) != self._refused:
                _log.warning("%d spans are lost: %s: %s", len(spans), self._url, error)
            self._refused = str(error)


def _attributes(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]
