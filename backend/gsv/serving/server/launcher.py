"""Starts a tritonserver on a model repository, waits until it is ready, and stops it completely.

    with EmbeddedServer(repository) as server:
        Client(server.http_url).say("Hello.")

The server is a child process in a session of its own. It ends with this process, even by SIGKILL,
and its shared memory carries a name of its own, so that nothing stays behind.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from gsv.errors import Cancelled, ServerError
from gsv.serving.backend.heartbeat import ready_file, stopping_file
from gsv.serving.backend.process_state import board_prefix
from gsv.serving.backend.tracing import ENDPOINT as TRACE_ENDPOINT
from gsv.serving.server import gpus, installation, mps, processes
from gsv.serving.server.bytecode import compile_models
from gsv.serving.server.janitor import Janitor
from gsv.serving.server.loading import in_one_line, load_model
from gsv.serving.server.log import ServerLog
from gsv.serving.server.options import (
    CONTROL_HEADER,
    CONTROL_KEY_VARIABLE,
    PlainPaths,
    ServerOptions,
    check_repository,
    choose_ports,
    trace_endpoint,
)

__all__ = ["EmbeddedServer", "ServerOptions"]

UNLOAD_SECONDS = 2.0  # that Triton gets to unload its models when no request is left
LOST_SECONDS = 5.0  # without progress; then requests under way wait for a process that died
SETTLE_SECONDS = 0.15  # models publish their number of requests every 0.05 s
REQUEST_SECONDS = 5.0
CRASH_SECONDS = 2.0  # that a server which has said that it crashed gets to end
WAIT_STEP_SECONDS = 0.2
DRAIN_STEP_SECONDS = 0.05
GPU_THREADS = "2"  # of each model on a machine with GPUs, as the adapter sets it for networks
OUR_METRICS = re.compile(r"^gsv_.*\n", re.MULTILINE)
IN_FLIGHT = re.compile(r"^gsv_requests_in_flight\{(.*)\} (\S+)$", re.MULTILINE)


class _Crash(ServerError):
    """The server was ended by a signal that nobody sent."""


def _threads_beside(found: Sequence[gpus.Gpu]) -> dict[str, str]:
    """On a machine with GPUs, where they do the work, few CPU threads for each model's process."""
    if not found or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": GPU_THREADS}


class EmbeddedServer:
    """One tritonserver as a child process; start it from a thread that outlives it."""

    def __init__(
        self,
        repository: Path,
        options: ServerOptions | None = None,
        *,
        on_line: Callable[[str, bool], None] = lambda line, important: None,
        on_ready_model: Callable[[str, int, int], None] = lambda name, ready, models: None,
    ) -> None:
        """Nothing is started yet.

        ``on_line(line, important)`` gets each line of the server's log, in another thread;
        ``on_ready_model(name, ready, models)`` is called as models get ready.
        """
        self.repository = repository
        self.options = options or ServerOptions()
        self._on_ready_model = on_ready_model
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._on_line = on_line
        self.log = self._new_log()
        self.region_prefix = processes.region_prefix()
        self._paths = PlainPaths()
        self._process: subprocess.Popen[bytes] | None = None
        self._session = False  # whether processes of the server may live
        self._janitor: Janitor | None = None
        self._mps: mps.MpsDaemon | None = None
        self._gpu_environment: dict[str, str] = {}
        self._interruptions = 0
        self.own_connections: set[int] = set()  # local ports of our requests under way
        self._closed = False
        self.installation: installation.Installation | None = None
        self.ports = (0, 0, 0)

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def http_url(self) -> str:
        """``host:port`` of HTTP, the form that tritonclient.http takes."""
        return f"{self._reachable_host()}:{self.ports[0]}"

    @property
    def grpc_url(self) -> str:
        """``host:port`` of gRPC, the form that tritonclient.grpc takes."""
        return f"{self._reachable_host()}:{self.ports[1]}"

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{self._reachable_host()}:{self.ports[2]}/metrics"

    @property
    def files(self) -> str:
        """Beginning of the paths of the files that this server shares with its models."""
        return str(processes.SHARED_MEMORY / self.region_prefix)

    @property
    def pid(self) -> int:
        """Process number of tritonserver; ServerError when it was not started."""
        if self._process is None:
            raise ServerError("tritonserver was not started")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until every model is ready.

        A server that crashes while its models load is started once more: Triton's Python backend
        does so now and then on a busy machine (2.51: ``boost::interprocess::lock_exception``).

        ServerError, in one line, when a model fails, a port is taken or the time is up; Cancelled
        after ``interrupt``. Nothing is left behind then.
        """
        try:
            models = check_repository(self.repository)
            compile_models(self.repository)
            options = self.options
            self.installation = (
                installation.installed(options.tritonserver)
                if options.tritonserver
                else installation.embedded()
            )
            processes.remove_stale_regions()
            wanted = (options.http_port, options.grpc_port, options.metrics_port)
            self.ports = choose_ports(options.host, wanted)
            found = gpus.listed()
            self._mps = mps.start(options.mps, found, lambda line: self._on_line(line, True))
            self._gpu_environment = _threads_beside(found)
            self._janitor = Janitor(self.region_prefix)
            self._launch(self.installation)
            try:
                self._wait_until_ready(models)
            except _Crash as crash:
                self._on_line(f"{crash}; starting again", True)
                self._launch_again()
                self._wait_until_ready(models)
        except BaseException:  # Ctrl-C too: no process may stay behind
            self.stop(kill=True)
            raise

    def restart(self) -> None:
        """End the server at once, if it has not ended, and start another on the same ports.

        Raises:
            ServerError, Cancelled: as :meth:`start`; the server has ended then, and another try may
                be made.
        """
        self.kill()
        stopping_file(self.files).unlink(missing_ok=True)
        self._launch_again()
        try:
            self._wait_until_ready(check_repository(self.repository))
        except BaseException:  # Ctrl-C too: no process may stay behind
            self.kill()
            raise

    def finish_requests(self, seconds: float) -> None:
        """Have new requests refused, and wait so long at most until those under way have ended.

        For the rest of the server's life; :meth:`restart` begins another.
        """
        with contextlib.suppress(OSError):
            stopping_file(self.files).touch()
        self._await_idle(time.monotonic() + seconds)

    def kill(self) -> None:
        """End the server and all its models at once.

        Who waits for an answer sees its connection end: the models' processes hold it too.
        """
        if self._process is not None:
            self._kill_session(self._process)

    def interrupt(self) -> None:
        """End the waiting; a second call makes ``stop`` kill. Safe in a signal handler."""
        self._interruptions += 1
        self._wake()

    @property
    def interrupted(self) -> bool:
        """Whether ``interrupt`` was called."""
        return self._interruptions > 0

    def ended(self) -> bool:
        """Whether the server process is gone."""
        return self._process is None or self._process.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        """Whether the server process is gone, or goes so soon; waits for it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(seconds)
        return self.ended()

    def wait(self, seconds: float, also: Sequence[int] = ()) -> None:
        """Wait so long, or less when the server ends or somebody interrupts.

        ``also`` are further file descriptors that end the waiting when they can be read.
        """
        readable, _, _ = select.select([self._wake_read, *also], [], [], seconds)
        if self._wake_read in readable:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def end_reason(self) -> str:
        """How the server that ended did so, in one line."""
        code = 0
        if self._process is not None:
            code = self._process.wait()
            self._kill_session(self._process)  # stubs that hang would keep the log open
        how = f"ended with exit code {code}"
        if self.log.crash is not None:
            how = f"crashed with {self.log.crash.name}"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return f"tritonserver {how}: {self.log.reason()}"

    def request(
        self, method: str, path: str, body: Any = None, timeout: float = REQUEST_SECONDS
    ) -> int:
        """Send one HTTP request to the server; its status, or 0 when there was no answer."""
        return self.ask(method, path, body, timeout)[0]

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        timeout: float = REQUEST_SECONDS,
        give_up: Callable[[], bool] = lambda: False,
    ) -> tuple[int, str]:
        """As :meth:`request`, with the answer's text; ``give_up`` ends the waiting before it."""
        return self._exchange(self.ports[0], method, path, body, timeout, give_up)

    def load(
        self, model: str, config: str | None, timeout: float, give_up: Callable[[], bool]
    ) -> tuple[bool | None, str]:
        """Have a model loaded, or loaded anew; whether it is (None: no answer), and why not.

        Args:
            model: its name.
            config: JSON, in place of the configuration in the model's folder.
            timeout: seconds.
            give_up: ends the waiting, as does the end of the server or an interruption.
        """

        def give_up_too() -> bool:
            return self.ended() or self.interrupted or give_up()

        try:
            return load_model(
                self.grpc_url, model, config,
                headers=self._keys(), timeout=timeout, give_up=give_up_too,
                own=self.own_connections,
            )  # fmt: skip
        except ConnectionError:  # an option turned gRPC off, made it TLS, or limits it
            body = {} if config is None else {"parameters": {"config": config}}
            path = f"/v2/repository/models/{model}/load"
            status, text = self.ask("POST", path, body, timeout, give_up_too)
            return (status == 200 if status else None), _error_in(text) or f"HTTP {status}"

    def _keys(self) -> dict[str, str]:
        """Headers of who may load and unload models."""
        return {CONTROL_HEADER: self.options.control_key} if self.options.control_key else {}

    def requests_in_flight(
        self, model: str = "", instances: Container[str] | None = None
    ) -> float | None:
        """Requests under way in the living instances of all models or one; None: no answer.

        By the models' own count. With ``instances`` in these alone, living or not: of one that has
        died, what it had when it died.
        """
        text = self._metrics()
        return self._count(text, model, instances) if text else None

    def _count(self, text: str, model: str = "", instances: Container[str] | None = None) -> float:
        """As :meth:`requests_in_flight`, in the text of the metrics."""
        living = {(stub.model, stub.instance) for stub in processes.living_stubs(self.pid)}
        total = 0.0
        for labels, count in IN_FLIGHT.findall(text):
            of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            name, instance = of.get("model", ""), of.get("model_instance", "")
            if instances is None:
                # The count of an instance that another one has replaced stays as it was.
                wanted = (name, instance) in living or (name, "") in living
            else:
                wanted = instance in instances
            total += float(count) * (wanted and model in ("", name))
        return total

    def gpus_of(self, model: str) -> frozenset[int]:
        """The GPUs that a model's instances are on; none for one on the CPU or one that is gone."""
        status, text = self.ask("GET", f"/v2/models/{model}/config")
        if status != 200:
            return frozenset()
        groups = json.loads(text).get("instance_group", [])
        return frozenset(int(gpu) for g in groups if g["kind"] == "KIND_GPU" for gpu in g["gpus"])

    @property
    def shares_gpus(self) -> bool:
        """Whether MPS lets the models' processes run on a GPU at the same time."""
        return self._mps is not None

    def _exchange(
        self,
        port: int,
        method: str,
        path: str,
        body: Any,
        timeout: float,
        give_up: Callable[[], bool] = lambda: False,
    ) -> tuple[int, str]:
        wait = min(timeout, REQUEST_SECONDS)
        connection = http.client.HTTPConnection(f"{self._reachable_host()}:{port}", timeout=wait)
        limit = time.monotonic() + timeout
        own = 0
        try:
            connection.connect()
            own = connection.sock.getsockname()[1]
            self.own_connections.add(own)
            connection.request(
                method, path, json.dumps(body) if body is not None else None, self._keys()
            )
            # The connection of a server that has died stays open: its stubs have inherited it.
            while not select.select([connection.sock], [], [], WAIT_STEP_SECONDS)[0]:
                patient = self._interruptions < (1 if timeout > REQUEST_SECONDS else 2)
                if self.ended() or not patient or time.monotonic() > limit or give_up():
                    return 0, ""
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()
            self.own_connections.discard(own)

    def stop(self, kill: bool = False) -> None:
        """Ask the server to end, give it its exit timeout, kill what is left, remove its traces."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._process is not None:
                if not kill:
                    self._drain(self._process)
                self._kill_session(self._process)
        finally:
            if self._mps is not None:
                self._mps.stop()
            processes.remove_regions(self.region_prefix)
            if self._janitor is not None:
                self._janitor.leave()
            self._paths.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _kill_session(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what still lives of the server and its stubs, and read the log to its end."""
        if not self._session:
            return  # its number may be another's by now
        self._session = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._janitor is not None:
            self._janitor.watch(0)
        processes.remove_regions(board_prefix(process.pid))
        self.log.join()

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        self.finish_requests(self.options.exit_timeout)
        process.send_signal(signal.SIGTERM)
        limit = time.monotonic() + UNLOAD_SECONDS
        # Triton waits its whole exit timeout for connections that clients keep open, and for
        # requests that were lost with a process. We stop waiting when the last living stub has
        # ended, or when its time is up.
        while process.poll() is None and self._interruptions < 2 and time.monotonic() < limit:
            self.wait(DRAIN_STEP_SECONDS)
            if not processes.living_stubs(process.pid):
                return

    def _await_idle(self, limit: float) -> None:
        """Wait until no request is under way, or none of those that will ever be answered."""
        # After SIGTERM Triton refuses calls between models, so a request half-way through its
        # stages would fail. So first wait until the models' own counts say that they are idle.
        before, changed = "", time.monotonic()
        stubs = len(processes.living_stubs(self.pid))
        settled = changed + SETTLE_SECONDS
        while not self.ended() and self._interruptions < 2 and time.monotonic() < limit:
            metrics = "".join(OUR_METRICS.findall(self._metrics()))
            now = time.monotonic()
            # One look is enough: requests that have come since are refused at once.
            if now >= settled and self._count(metrics) <= 0:
                return
            if metrics != before:
                before, changed = metrics, now
            elif now - changed > LOST_SECONDS and self._has_lost_stubs(stubs):
                return
            self.wait(DRAIN_STEP_SECONDS)

    def _has_lost_stubs(self, before: int) -> bool:
        """Whether a model's process has died, of so many ``before`` or earlier."""
        living = len(processes.living_stubs(self.pid))
        return living < before or bool(processes.dead_children(self.pid))

    def _metrics(self) -> str:
        return self._exchange(self.ports[2], "GET", "/metrics", None, REQUEST_SECONDS)[1]

    def _launch(self, found: installation.Installation) -> None:
        backends = found.backend_directory
        arguments = self.options.arguments(
            self._paths.of(self.repository, "repository"),
            self._paths.of(backends, "backends") if backends else None,
            self.ports,
            self.region_prefix,
        )
        command = [str(found.binary), *arguments]
        environment = {
            **{name: value for name, value in os.environ.items() if name != CONTROL_KEY_VARIABLE},
            **found.environment,
            **self._gpu_environment,
            **(self._mps.environment if self._mps else {}),
            "GSV_SERVER_FILES": self.files,
            **self._trace_environment(),
        }
        try:
            self._process = subprocess.Popen(
                processes.guarded(command, signal.SIGKILL),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we pass it on
            )
        except OSError as error:
            raise ServerError(f"{found.binary}: can't be run: {error}") from error
        self._session = True
        if self._janitor is not None:
            self._janitor.watch(self._process.pid)
        assert self._process.stdout is not None
        self.log.follow(self._process.stdout)

    def _new_log(self) -> ServerLog:
        return ServerLog(self._on_line, self._wake, self._end_crashed)

    def _end_crashed(self) -> None:
        """Kill the server that has said that it crashed, if it doesn't end by itself.

        Triton (2.51) tells its stack before it ends, which needs memory: after a crash in the heap
        that thread waits for ever, and the others go on until they need the same lock.
        """
        process = self._process
        if process is not None:
            # A daemon: nobody is to wait for it when the server has ended.
            timer = threading.Timer(CRASH_SECONDS, process.kill)
            timer.daemon = True
            timer.start()

    def _trace_environment(self) -> dict[str, str]:
        """Tells the models where Triton's options send spans, unless the variable says it."""
        url = trace_endpoint(self.options.extra)
        return {TRACE_ENDPOINT: url} if url and TRACE_ENDPOINT not in os.environ else {}

    def _launch_again(self) -> None:
        assert self.installation is not None
        processes.remove_regions(self.region_prefix)
        self.log = self._new_log()
        self._paths.close()
        self._paths = PlainPaths()
        self._launch(self.installation)

    def _wait_until_ready(self, models: int) -> None:
        limit = time.monotonic() + self.options.ready_timeout
        told: set[str] = set()
        shown = bool(self.options.control_key)
        while True:
            if shown and self.log.began:
                self._hide_control_key()
                shown = False
            # The status comes first: whatever made the server ready is in the log by then.
            ready = self.request("GET", "/v2/health/ready") == 200
            seen = dict(self.log.models)  # another thread goes on writing
            for name in [n for n, state in seen.items() if state == "ready"]:
                if name not in told:
                    told.add(name)
                    self._on_ready_model(name, len(told), models)
            if self.interrupted:
                raise Cancelled("stopped while the models were loading")
            if self.log.failures:
                raise ServerError(self.log.reason())
            if self.ended():
                crashed = self._process is not None and self._process.returncode < 0
                raise (_Crash if crashed else ServerError)(self.end_reason())
            if ready:
                with contextlib.suppress(OSError):
                    ready_file(self.files).touch()
                return
            if time.monotonic() > limit:
                waiting = sorted(n for n, state in seen.items() if state != "ready")
                raise ServerError(
                    f"not ready after {self.options.ready_timeout:g} s; still loading: "
                    f"{', '.join(waiting) or 'nothing'}; give more time with --ready-timeout"
                )
            self.wait(WAIT_STEP_SECONDS)

    def _hide_control_key(self) -> None:
        """Triton takes the key as an argument only, where every user of the machine can see it."""
        if not processes.hide_argument(self.pid, self.options.control_key):
            self._on_line("the control key can be read on tritonserver's command line", True)

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b".")

    def _reachable_host(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.options.host, self.options.host)
        return f"[{host}]" if ":" in host else host


def _error_in(text: str) -> str:
    """What an answer of Triton's says of an error; empty: nothing."""
    try:
        return in_one_line(str(json.loads(text)["error"]))
    except (ValueError, KeyError, TypeError):
        return ""
