"""A server that answers as a release of Triton does when a model's process dies.

It has real processes that look like stubs of the Python backend, children of the test's process.
"""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from gsv.serving.installation import STUB
from gsv.serving.launcher import EmbeddedServer, ServerOptions
from gsv.serving.triton_versions import Release, facts


class FakeTriton:
    """Models with one process each, behind Triton's HTTP.

    Attributes:
        asked: methods and paths of all requests so far.
    """

    def __init__(self, release: str, models: list[str], folder: Path) -> None:
        """``folder``: for the files that the processes run."""
        self.facts = facts(Release.parse(release))
        self.asked: list[str] = []
        self._folder = folder
        self._loaded = dict.fromkeys(models, False)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._gone: list[subprocess.Popen[bytes]] = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer("POST")

            def _answer(self, method: str) -> None:
                fake.asked.append(f"{method} {self.path}")
                status, content = fake.answer(method, self.path)
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever)

    def __enter__(self) -> FakeTriton:
        self._thread.start()
        for model in self._loaded:
            self.load(model)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for model in self._loaded:
            self.unload(model)
        for process in self._gone:
            process.wait()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def port(self) -> int:
        """Of HTTP, on loopback."""
        return int(self._http.server_address[1])

    def load(self, model: str) -> None:
        """Start its process, as a load request does."""
        script = self._folder / model / "1" / "model.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text("read line\n")  # a shell's, which waits until its input is closed
        words = [STUB, str(script), *["0"] * 6, f"{model}_0_0", "runtime"]
        self._processes[model] = subprocess.Popen(
            words, executable="/bin/sh", stdin=subprocess.PIPE
        )
        self._loaded[model] = True

    def unload(self, model: str) -> None:
        """End its process, as an unload request does."""
        self._loaded[model] = False
        if process := self._processes.pop(model, None):
            self._end(process).wait()

    def kill(self, model: str) -> None:
        """Its process dies, as of want of memory."""
        process = self._end(self._processes.pop(model))
        if self.facts.reaps_processes:
            process.wait()
        else:
            self._gone.append(process)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        process.kill()
        assert process.stdin is not None
        process.stdin.close()
        return process

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        """Status and content."""
        words = path.strip("/").split("/")[1:]
        if method == "GET" and words == ["health", "ready"]:
            dead = [m for m, loaded in self._loaded.items() if loaded and not self._reachable(m)]
            return (400 if dead and self.facts.health_sees_models else 200), ""
        if method == "GET" and words[0] == "models" and words[2:] == ["ready"]:
            return (200 if self._is_ready(words[1]) else 400), ""
        if method == "POST" and words == ["repository", "index"]:
            return 200, [self._entry(model) for model in self._loaded]
        if method == "POST" and words[:2] == ["repository", "models"]:
            {"load": self.load, "unload": self.unload}[words[3]](words[2])
            return 200, ""
        return 404, {"error": f"no {method} {path} in this fake"}

    def _reachable(self, model: str) -> bool:
        return model in self._processes

    def _is_ready(self, model: str) -> bool:
        noticed = self.facts.ready_without_process or self._reachable(model)
        return self._loaded.get(model, False) and noticed

    def _entry(self, model: str) -> dict[str, str]:
        if self._loaded[model]:
            return {"name": model, "version": "1", "state": "READY"}
        return {"name": model, "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}


class Launched(EmbeddedServer):
    """The launcher's view of a fake server that runs already; this process has the stubs."""

    def __init__(self, fake: FakeTriton, pid: int) -> None:
        super().__init__(Path("unused"), ServerOptions(ready_timeout=5))
        self.ports = (fake.port, 0, 0)
        self._pid = pid

    @property
    def pid(self) -> int:
        return self._pid

    def ended(self) -> bool:
        return False
