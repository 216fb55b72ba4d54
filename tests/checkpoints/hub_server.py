"""A local server that answers as the Hugging Face hub does, with faults on demand."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPOSITORY = "/lj1995/GPT-SoVITS"


@dataclasses.dataclass
class FakeHub:
    """Files by path, and how the server misbehaves.

    Attributes:
        files: what it serves.
        lfs: paths with a SHA-256; the others have Git's SHA-1.
        break_after: bytes after which the next transfers end, one entry each.
        ranges: whether it knows ranges.
        tree: whether it has the list of files.
        wrong: paths that come with other bytes than the list tells.
        fail: HTTP codes that the next transfers are answered with.
        requests: method, path and range of every request.
    """

    files: dict[str, bytes]
    lfs: set[str] = dataclasses.field(default_factory=set)
    break_after: list[int] = dataclasses.field(default_factory=list)
    ranges: bool = True
    tree: bool = True
    wrong: set[str] = dataclasses.field(default_factory=set)
    fail: list[int] = dataclasses.field(default_factory=list)
    requests: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    endpoint: str = ""

    def entries(self) -> list[dict[str, Any]]:
        """The answer of the tree API."""
        return [{"type": "directory", "path": "gsv-v4-pretrained", "oid": "0", "size": 0}] + [
            self._entry(path, content) for path, content in self.files.items()
        ]

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if path in self.lfs:
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
        return entry


@contextlib.contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve ``hub`` on a free port; ``hub.endpoint`` is its address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
            if self.path.startswith(f"/api/models{REPOSITORY}/tree/main"):
                self._tree()
            elif self.path.startswith(f"{REPOSITORY}/resolve/main/"):
                self._resolve(self.path.removeprefix(f"{REPOSITORY}/resolve/main/"))
            elif self.path.startswith("/store/"):
                self._content(self.path.removeprefix("/store/"))
            else:
                self.send_error(404)

        def _tree(self) -> None:
            if not hub.tree:
                return self.send_error(404)
            half = len(hub.entries()) // 2
            second = "cursor=x" in self.path
            part = hub.entries()[half:] if second else hub.entries()[:half]
            body = json.dumps(part).encode()
            self.send_response(200)
            if not second:  # long lists come in pages
                page = f"{hub.endpoint}{self.path}&cursor=x"
                self.send_header("Link", f'<{page}>; rel="next"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _resolve(self, path: str) -> None:
            if path not in hub.files:
                return self.send_error(404)
            if path not in hub.lfs:
                return self._content(path)
            content = hub.files[path]
            self.send_response(302)
            self.send_header("Location", f"{hub.endpoint}/store/{path}")
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _content(self, path: str) -> None:
            if hub.fail and self.command == "GET":
                return self.send_error(hub.fail.pop(0))
            content = hub.files[path]
            if path in hub.wrong:
                content = bytes(len(content))
            asked, start = self.headers.get("Range"), 0
            if asked and hub.ranges:
                start = int(asked.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self.send_error(416)
                self.send_response(206)
                span = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", span)
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            body = content[start:]
            if hub.break_after:
                body = body[: hub.break_after.pop(0)]
                self.close_connection = True
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
