"""A program that answers as tritonserver of several releases does, to try what watches it.

No model runs: a "stub" is a process with the command line of Triton's, a signature of which is all
that is looked at from outside. What differs between releases, by the notes of each and as measured
on 24.10:

    24.10  a dead stub stays a zombie; its model is called ready everywhere
    25.12  the server waits for its dead children; ``/v2/models/X/ready`` is 400 then
    26.04  and so is ``/v2/health/ready``

Over gRPC it loads models, and nothing else.
In all of them the index of the repository tells the life cycle only: READY, whatever has died, and
``load`` does nothing for a model that is READY, unless it brings other instance groups: then those
instances that are in both stay as they are. Files in the repository make it misbehave: ``mute`` (no
answer to anything), ``holds`` (SIGTERM changes nothing for 30 s), ``MODEL/broken`` (can't load),
``MODEL/stuck`` (to load takes for ever), ``MODEL/slow`` (for 3 s after its processes have begun),
``MODEL/clings`` (unloading doesn't end its processes), ``MODEL/whole`` (other instance groups are
refused), ``MODEL/changed`` (the next load of other instance groups starts all processes anew, and
the old ones end a second later), ``crash`` (it says at the next request that it has crashed, and
goes on), ``metrics`` (what the metrics are). A request for inference is answered after a second;
one whose model has died meanwhile never is. ``/v2/flood`` answers with a gigabyte.
"""

from __future__ import annotations

import concurrent.futures
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc

# Touches its file as gsv.serving.backend.heartbeat does, until a file tells it to sleep on or to be
# too busy for that.
STUB_PROGRAM = """
import os, pathlib, time
beat = pathlib.Path(os.environ["GSV_SERVER_FILES"] + f"beat-{os.getpid()}")
silent, busy = (pathlib.Path(__file__).parent.parent / name for name in ("silent", "busy"))
beat.touch()
while True:
    time.sleep(0.05)
    while busy.exists():
        pass
    if not silent.exists():
        os.utime(beat)
"""


def install(folder: Path, release: str) -> Path:
    """An executable in ``folder`` that is this program as the given release."""
    program = folder / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import fake_triton\nfake_triton.Server({release!r}).run()\n"
    )
    program.chmod(0o755)
    return program


def write_models(folder: Path, *names: str, instances: int = 1, apart: bool = False) -> Path:
    """A repository for it; ``apart``: each instance is a group that is like no other."""
    groups = [{"name": "", "count": instances, "kind": "KIND_CPU"}]
    if apart:
        groups = [{"name": "", "count": 1, "host_policy": f"p{n}"} for n in range(instances)]
    for name in names:
        (folder / name / "1").mkdir(parents=True)
        own = [{**group, "name": f"{name}_{n}"} for n, group in enumerate(groups)]
        (folder / name / "config.pbtxt").write_text(json.dumps({"instance_group": own}))
        (folder / name / "1" / "model.py").write_text(STUB_PROGRAM)
    return folder


def log(line: str) -> None:
    """Write a line of the server's log."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def instances_of(groups: list[dict[str, object]]) -> list[str]:
    """The names of all instances."""
    return [f"{group['name']}_{n}" for group in groups for n in range(int(str(group["count"])))]


class Server:
    """One server process."""

    def __init__(self, release: str) -> None:
        self.release = tuple(map(int, release.split(".")))
        given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
        self.repository = Path(given["model-repository"])
        self.ports = [int(given[f"{name}-port"]) for name in ("http", "metrics", "grpc")]
        self.stubs: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.groups: dict[str, list[dict[str, object]]] = {}
        self.states: dict[str, tuple[str, str]] = {}
        self.lock = threading.Lock()

    def run(self) -> None:
        """Until SIGTERM."""
        signal.signal(signal.SIGTERM, self.leave)
        for config in sorted(self.repository.glob("*/config.pbtxt")):
            error = self.load(config.parent.name)
            if error:
                name = config.parent.name
                log(f"E1127 1:1:1 1 m.cc:1] \"failed to load '{name}' version 1: {error}\"")
                sys.exit(1)
        if self.release >= (25, 12):
            threading.Thread(target=self.reap, daemon=True).start()
        metrics = http.server.ThreadingHTTPServer(("127.0.0.1", self.ports[1]), Metrics)
        threading.Thread(target=metrics.serve_forever, daemon=True).start()
        loads = grpc.server(concurrent.futures.ThreadPoolExecutor())
        loads.add_generic_rpc_handlers([Loads(self)])
        loads.add_insecure_port(f"127.0.0.1:{self.ports[2]}")
        loads.start()
        Handler.triton = self
        http.server.ThreadingHTTPServer(("127.0.0.1", self.ports[0]), Handler).serve_forever()

    def leave(self, *_: object) -> None:
        for name in list(self.stubs):
            self.unload(name)
        if (self.repository / "holds").exists():
            time.sleep(30)
        os._exit(0)

    def reap(self) -> None:
        while True:
            time.sleep(0.02)
            for stubs in list(self.stubs.values()):
                for stub in stubs:
                    stub.poll()

    def is_alive(self, name: str) -> bool:
        return all(stub.poll() is None for stub in self.stubs.get(name, []))

    def start_stub(self, name: str, instance: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                "/opt/triton_python_backend_stub", str(self.repository / name / "1" / "model.py"),
                "region", "1", "1", str(os.getpid()), "folder", "0", instance, "DEFAULT",
            ],
            executable=sys.executable,
            env={**os.environ, "PYTHONHOME": sys.base_prefix},
        )  # fmt: skip

    def update(self, name: str, groups: list[dict[str, object]]) -> None:
        """Other instances of a model that is loaded; those that stay are left alone."""
        with self.lock:
            wanted = instances_of(groups)
            kept = {}
            if (changed := self.repository / name / "changed").exists():
                changed.unlink()
                for stub in self.stubs[name]:
                    threading.Timer(1.0, stub.kill).start()
                self.stubs[name] = []
            for stub in self.stubs[name]:
                instance = list(stub.args)[8]  # type: ignore[arg-type]
                if instance in wanted:
                    kept[instance] = stub
                else:
                    stub.kill()
                    stub.wait()
            self.stubs[name] = [kept.get(one) or self.start_stub(name, one) for one in wanted]
            self.groups[name] = groups

    def load(self, name: str, given: str = "") -> str:
        """Error text; empty when it is loaded."""
        folder = self.repository / name
        while (folder / "stuck").exists():
            time.sleep(0.02)
        if self.states.get(name, ("",))[0] == "READY":
            if given and (folder / "whole").exists():
                return "Invalid argument: no"
            if given:
                self.update(name, json.loads(given)["instance_group"])
            return ""
        with self.lock:
            if (folder / "broken").exists():
                self.states[name] = ("UNAVAILABLE", "Internal: ValueError: broken")
                return "Internal: ValueError: broken"
            groups = json.loads((folder / "config.pbtxt").read_text())["instance_group"]
            self.groups[name] = groups
            self.stubs[name] = [self.start_stub(name, one) for one in instances_of(groups)]
            self.states[name] = ("READY", "")
            log(f"I1127 1:1:1 1 m.cc:1] \"successfully loaded '{name}'\"")
        if (folder / "slow").exists():
            time.sleep(3.0)
        return ""

    def infer(self, name: str) -> None:
        stub = self.stubs[name][0]
        limit = time.monotonic() + 1.0
        while stub.poll() is not None or time.monotonic() < limit:
            time.sleep(0.02)

    def unload(self, name: str) -> None:
        with self.lock:
            self.states[name] = ("UNLOADING", "")
            for stub in self.stubs.pop(name, []):
                if not (self.repository / name / "clings").exists():
                    stub.kill()
                    stub.wait()
            self.states[name] = ("UNAVAILABLE", "unloaded")

    def misbehave(self) -> None:
        """Before any answer."""
        while (self.repository / "mute").exists():
            time.sleep(0.05)
        if (crash := self.repository / "crash").exists():
            crash.unlink()
            print("malloc(): corrupted\nSignal (6) received.", flush=True)  # noqa: T201

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        words = path.strip("/").split("/")
        if words[1:] == ["health", "live"]:
            return 200, ""
        if words[1:] == ["health", "ready"]:
            alive = self.release < (26, 4) or all(map(self.is_alive, self.stubs))
            return (200 if alive else 400), ""
        if words[1:] == ["repository", "index"]:
            return 200, [
                {"name": name, "version": "1", "state": state, "reason": reason}
                for name, (state, reason) in self.states.items()
            ]
        if words[1] == "models" and words[3:] == ["ready"]:
            ready = self.states.get(words[2], ("",))[0] == "READY"
            alive = self.release < (25, 12) or self.is_alive(words[2])
            return (200 if ready and alive else 400), ""
        if words[3:] == ["config"]:
            groups = self.groups[words[2]]
            return 200, {"name": words[2], "backend": "python", "instance_group": groups}
        if words[3:] == ["infer"]:
            self.infer(words[2])
            return 200, ""
        if words[1:3] == ["repository", "models"]:
            if words[4] == "unload":
                self.unload(words[3])
                return 200, ""
            error = self.load(words[3], json.loads(body).get("parameters", {}).get("config", ""))
            return (400, {"error": error}) if error else (200, "")
        return 404, {"error": "no such path"}


class Handler(http.server.BaseHTTPRequestHandler):
    """Triton's HTTP port."""

    protocol_version = "HTTP/1.1"
    triton: Server

    def do_GET(self) -> None:
        self.triton.misbehave()
        given = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/v2/flood":
            for _ in range(1024):
                self.wfile.write(bytes(1 << 20))
        status, answer = self.triton.answer(self.path, given)
        body = json.dumps(answer).encode() if answer != "" else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


class Metrics(Handler):
    """Triton's metrics port."""

    def do_GET(self) -> None:
        told = self.triton.repository / "metrics"
        body = told.read_bytes() if told.exists() else b'gsv_requests_in_flight{model="a"} 0\n'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Loads(grpc.GenericRpcHandler):
    """What of Triton's gRPC port loads models."""

    def __init__(self, triton: Server) -> None:
        self.triton = triton

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        # The import takes half of this program's start, and few of those who start it load models.
        from tritonclient.grpc import service_pb2 as messages

        def live(request: object, context: grpc.ServicerContext) -> object:
            self.triton.misbehave()
            return messages.ServerLiveResponse(live=True)

        def load(request: Any, context: grpc.ServicerContext) -> object:
            config = request.parameters["config"].string_param
            if error := self.triton.load(request.model_name, config):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error)
            return messages.RepositoryModelLoadResponse()

        behaviour, asked = (
            (live, messages.ServerLiveRequest)
            if details.method.endswith("/ServerLive")
            else (load, messages.RepositoryModelLoadRequest)
        )
        return grpc.unary_unary_rpc_method_handler(
            behaviour,
            request_deserializer=asked.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
