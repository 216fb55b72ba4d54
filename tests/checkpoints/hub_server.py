"""A local server that answers as the Hugging Face hub does, with faults on demand."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
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
        lfs: paths with a SHA-256, whose bytes a store has; the others have Git's SHA-1.
        break_after: bytes after which the next transfers end, one entry each.
        ranges: whether it knows ranges.
        commit: what its branch points to; "" for a mirror that doesn't tell.
        wrong: paths that come with other bytes than was told.
        fail: HTTP codes that the next transfers are answered with.
        requests: method, path and range of every request.
        authorizations: every header of that name that came.
    """

    files: dict[str, bytes]
    lfs: set[str] = dataclasses.field(default_factory=set)
    break_after: list[int] = dataclasses.field(default_factory=list)
    ranges: bool = True
    commit: str = "c" * 40
    wrong: set[str] = dataclasses.field(default_factory=set)
    fail: list[int] = dataclasses.field(default_factory=list)
    requests: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    authorizations: set[str] = dataclasses.field(default_factory=set)
    endpoint: str = ""

    def tag(self, path: str) -> str:
        """The sum by which the hub knows a file."""
        content = self.files[path]
        if path in self.lfs:
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


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
            if told := self.headers.get("Authorization"):
                hub.authorizations.add(told)
            hub.requests.append((self.command, self.path, self.headers.get("Range", "")))
            if resolved := re.fullmatch(f"{REPOSITORY}/resolve/([^/]+)/(.+)", self.path):
                self._resolve(resolved[1], resolved[2])
            elif self.path.startswith("/store/"):
                self._content(self.path.removeprefix("/store/"))
            else:
                self.send_error(404)

        def _resolve(self, revision: str, path: str) -> None:
            if path not in hub.files or revision not in ("main", hub.commit):
                return self.send_error(404)
            if path not in hub.lfs:
                return self._content(path)
            self.send_response(302)
            self.send_header("Location", f"{hub.endpoint}/store/{path}")
            self.send_header("X-Linked-Size", str(len(hub.files[path])))
            self._tell(path, "X-Linked-Etag")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _tell(self, path: str, header: str) -> None:
            self.send_header(header, f'"{hub.tag(path)}"')
            if hub.commit:
                self.send_header("X-Repo-Commit", hub.commit)

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
            self._tell(path, "ETag")
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
