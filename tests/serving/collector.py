"""A collector of OpenTelemetry's spans: OTLP over HTTP, JSON or protobuf, on a loopback port."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Seen:
    """A span as it arrived; the numbers are in hexadecimal."""

    trace: str
    id: str
    parent: str
    name: str
    service: str
    seconds: float
    attributes: dict[str, str]
    failed: bool


class Collector:
    """Everything that was sent so far."""

    def __init__(self) -> None:
        self.url = ""
        self.status = 200  # of its answers
        self.spans: list[Seen] = []
        self.types: set[str] = set()
        self.arrived = threading.Condition()

    def take(self, kind: str, body: bytes) -> None:
        """Take one message."""
        message = json.loads(body)
        with self.arrived:
            self.types.add(kind)
            self.spans += [
                _seen(span, resource)
                for resource in message["resourceSpans"]
                for scope in resource["scopeSpans"]
                for span in scope["spans"]
            ]
            self.arrived.notify_all()

    def tree(self, root: Seen, depth: int = 0) -> list[tuple[int, str]]:
        """A span and all below it: depth and name, children in the order of their names."""
        below = sorted((s for s in self.spans if s.parent == root.id), key=lambda s: s.name)
        lines = [line for child in below for line in self.tree(child, depth + 1)]
        return [(depth, root.name), *lines]


def _seen(span: dict[str, Any], resource: dict[str, Any]) -> Seen:
    service = _attributes(resource["resource"]).get("service.name", "")
    return Seen(
        span["traceId"].lower(),
        span["spanId"].lower(),
        span.get("parentSpanId", "").lower(),
        span["name"],
        service,
        (int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e9,
        _attributes(span),
        span.get("status", {}).get("code") in (2, "STATUS_CODE_ERROR"),
    )


def _attributes(holder: dict[str, Any]) -> dict[str, str]:
    return {
        pair["key"]: str(next(iter(pair["value"].values())))
        for pair in holder.get("attributes", [])
    }


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that runs."""
    collector = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if collector.status == 200:
                collector.take(self.headers["Content-Type"], body)
            self.send_response(collector.status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    collector.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
