"""The launcher and the supervisor with a real tritonserver and models of a few lines."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from trivial_models import infer, write_repository

from gsv.errors import ServerError
from gsv.serving.server import processes
from gsv.serving.server.installation import Installation
from gsv.serving.server.launcher import UNLOAD_SECONDS, EmbeddedServer, ServerOptions
from gsv.serving.server.options import CONTROL_HEADER
from gsv.serving.server.supervisor import RecoveryPolicy, Supervisor

pytestmark = pytest.mark.server

OPTIONS = ServerOptions(ready_timeout=60, exit_timeout=20)
ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from gsv.commands.serve import serve; serve()"]
ANY_PORTS = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]


def wait_until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.05)


def regions(server: EmbeddedServer) -> list[Path]:
    return list(processes.SHARED_MEMORY.glob(f"{server.region_prefix}*"))


def stub_of(server: EmbeddedServer) -> int:
    return processes.living_stubs(server.pid)[0].pid


def until_ready_again(
    server: EmbeddedServer, policy: RecoveryPolicy
) -> tuple[Supervisor, list[str]]:
    """A supervisor that stops when it has brought something back, and what it says."""
    events: list[str] = []

    def note(text: str) -> None:
        events.append(text)
        if "ready again" in text:
            server.interrupt()

    return Supervisor(server, policy, note), events


def test_serves_from_a_path_with_spaces_and_leaves_nothing(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "my models (1)", ensemble=True)
    told = []
    tell = lambda name, ready, models: told.append((ready, models))  # noqa: E731
    with EmbeddedServer(repository, OPTIONS, on_ready_model=tell) as server:
        assert infer(server.http_url, "double", [1.0, 2.5]) == (200, [2.0, 5.0])
        assert infer(server.http_url, "outer", [3.0]) == (200, [6.0])
        assert server.request("GET", "/v2/health/live") == 200
        assert regions(server)
        stubs = processes.living_stubs(server.pid)
        assert [(stub.model, stub.instance) for stub in stubs] == [("double", "double_0_0")]
        assert server.gpus_of("double") == frozenset()
        assert not server.shares_gpus
        command = Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        link = Path(next(w for w in command if "--model-repository=" in w).partition("=")[2])
        assert link.is_symlink()
        assert link.resolve() == repository.resolve()
    assert told == [(1, 2), (2, 2)]
    assert server.ended()
    assert regions(server) == []
    assert not link.parent.exists()
    # Whoever waits for orphans may take a moment.
    assert processes.state(stubs[0].pid) in ("", "Z")


def test_loading_a_model_anew_holds_up_no_http_caller(tmp_path: Path) -> None:
    """Triton loads in the HTTP thread of who asked, which nearly all connections share."""
    hold = tmp_path / "hold"
    initialize = f"import os, time\n        while os.path.exists({str(hold)!r}): time.sleep(0.01)"
    repository = write_repository(tmp_path / "repository", initialize=initialize)
    with EmbeddedServer(repository, OPTIONS) as server, contextlib.ExitStack() as stack:
        callers = [http.client.HTTPConnection(server.http_url, timeout=10) for _ in range(8)]

        def all_answer() -> list[int]:
            statuses = []
            for caller in callers:
                caller.request("GET", "/v2/health/live")
                with caller.getresponse() as answer:
                    answer.read()
                    statuses.append(answer.status)
            return statuses

        for caller in callers:
            stack.callback(caller.close)
        assert all_answer() == [200] * 8
        dead = stub_of(server)
        hold.touch()
        supervisor, events = until_ready_again(server, RecoveryPolicy())
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.interrupt)
        os.kill(dead, signal.SIGKILL)
        living = lambda: [s.pid for s in processes.living_stubs(server.pid)]  # noqa: E731
        wait_until(lambda: living() not in ([], [dead]))
        assert all_answer() == [200] * 8
        hold.unlink()
        wait_until(lambda: any("ready again" in event for event in events))


def test_without_grpc_a_model_comes_back_too(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    options = dataclasses.replace(OPTIONS, extra=("--allow-grpc=false",))
    with EmbeddedServer(repository, options) as server:
        supervisor, events = until_ready_again(server, RecoveryPolicy())
        os.kill(stub_of(server), signal.SIGKILL)
        supervisor.run()
        assert "ready again" in events[-1]
        assert infer(server.http_url, "double", [1.0]) == (200, [2.0])


def test_a_model_is_imported_once(tmp_path: Path) -> None:
    """Imports are most of the time until a model is ready."""
    repository = write_repository(tmp_path / "repository")
    program = repository / "double" / "1" / "model.py"
    mark = 'with open(__file__ + ".imports", "a") as file:\n    file.write("x")\n'
    program.write_text(mark + program.read_text())
    with EmbeddedServer(repository, OPTIONS):
        assert program.with_name("model.py.imports").read_text() == "x"


def test_a_model_that_fails_is_one_clear_line(tmp_path: Path) -> None:
    broken = "raise ValueError('gpt.safetensors is missing; run gsv prepare')"
    repository = write_repository(tmp_path / "repository", initialize=broken)
    server = EmbeddedServer(repository, OPTIONS)
    with pytest.raises(ServerError) as caught:
        server.start()
    assert str(caught.value) == (
        "model double failed to load: ValueError: gpt.safetensors is missing; run gsv prepare"
    )
    assert server.ended()
    assert regions(server) == []


def test_a_server_that_crashes_while_it_loads_is_started_once_more(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    crashes, lines = [1], []

    class Crashing(EmbeddedServer):
        def _launch(self, found: Installation) -> None:
            super()._launch(found)
            if crashes and crashes.pop():
                os.kill(self.pid, signal.SIGABRT)

    with Crashing(repository, OPTIONS, on_line=lambda line, _: lines.append(line)) as server:
        assert infer(server.http_url, "double", [1.0]) == (200, [2.0])
    assert [line for line in lines if "SIGABRT" in line and line.endswith("starting again")]
    crashes += [1, 1]
    with pytest.raises(ServerError, match="SIGABRT"):
        Crashing(repository, OPTIONS).start()


def test_an_option_that_triton_refuses(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    server = EmbeddedServer(repository, ServerOptions(extra=("--no-such-option",)))
    with pytest.raises(ServerError, match="unrecognized option '--no-such-option'"):
        server.start()


def test_slow_models_run_into_the_timeout(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "r", initialize="import time; time.sleep(60)")
    server = EmbeddedServer(repository, ServerOptions(ready_timeout=3))
    with pytest.raises(ServerError, match="not ready after 3 s; still loading: double"):
        server.start()
    assert regions(server) == []


def test_requests_under_way_are_answered_before_the_end(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", slow=True)
    tensor = grpc_client.InferInput("X", [1], "FP32")
    tensor.set_data_from_numpy(np.array([4.0], np.float32))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with EmbeddedServer(repository, OPTIONS) as server:
            client = grpc_client.InferenceServerClient(server.grpc_url)
            answer = pool.submit(client.infer, "slow", [tensor])
            started = time.monotonic()
            wait_until(
                lambda: re.search(
                    r'gsv_requests_in_flight\{model="slow",[^}]*\} 1', server._metrics()
                )
            )
        assert answer.result(timeout=10).as_numpy("Y").tolist() == [8.0]
    client.close()
    assert time.monotonic() - started < OPTIONS.exit_timeout


def test_a_lost_request_does_not_hold_the_end_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsv.serving.server.launcher.LOST_SECONDS", 1.0)
    monkeypatch.setattr("gsv.serving.server.launcher.UNLOAD_SECONDS", 4.0)
    repository = write_repository(tmp_path / "repository", slow=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with EmbeddedServer(repository, ServerOptions(exit_timeout=60)) as server:
            lost = pool.submit(infer, server.http_url, "slow", [1.0])
            wait_until(
                lambda: re.search(
                    r'gsv_requests_in_flight\{model="slow",[^}]*\} 1', server._metrics()
                )
            )
            slow = next(s for s in processes.living_stubs(server.pid) if s.model == "slow")
            os.kill(slow.pid, signal.SIGKILL)
            wait_until(lambda: bool(processes.dead_children(server.pid)))
            started = time.monotonic()
        assert time.monotonic() - started < 20
        with pytest.raises((OSError, http.client.HTTPException, TimeoutError)):
            lost.result()


def test_control_key_guards_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSV_CONTROL_KEY", "s3cret")  # as gsv serve has it
    repository = write_repository(tmp_path / "repository")
    options = ServerOptions(control_key="s3cret")
    with EmbeddedServer(repository, options) as server:
        statuses = []
        for headers in ({}, {CONTROL_HEADER: "wrong"}, {CONTROL_HEADER: "s3cret"}):
            with contextlib.closing(http.client.HTTPConnection(server.http_url)) as connection:
                connection.request("POST", "/v2/repository/index", "{}", headers)
                statuses.append(connection.getresponse().status)
        assert server.request("POST", "/v2/repository/index", {}) == 200
        arguments = Path(f"/proc/{server.pid}/cmdline").read_bytes()
        assert arguments.count(f"{CONTROL_HEADER}=******".encode()) == 2
        assert b"s3cret" not in arguments
        for process in (server.pid, *(stub.pid for stub in processes.living_stubs(server.pid))):
            assert b"s3cret" not in Path(f"/proc/{process}/environ").read_bytes()
        supervisor, events = until_ready_again(server, RecoveryPolicy())
        os.kill(stub_of(server), signal.SIGKILL)
        supervisor.run()
        assert "ready again" in events[-1]
        assert infer(server.http_url, "double", [1.0]) == (200, [2.0])
    assert statuses == [403, 403, 200]


def test_supervisor_brings_a_dead_model_back(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", instances=2, ensemble=True)
    with EmbeddedServer(repository, OPTIONS) as server:
        supervisor, events = until_ready_again(server, RecoveryPolicy(interval=0.1, grace=1.0))
        assert supervisor.look() == []
        os.kill(stub_of(server), signal.SIGKILL)
        wait_until(lambda: bool(processes.dead_children(server.pid)))
        # One of the two instances is dead: Triton says READY, and some requests fail.
        assert server.request("GET", "/v2/models/double/ready") == 200
        wait_until(lambda: infer(server.http_url, "double", [1.0])[0] == 500)
        supervisor.run()  # until the interruption in note
        assert infer(server.http_url, "double", [1.0]) == (200, [2.0])
        assert infer(server.http_url, "outer", [2.0]) == (200, [4.0])
        assert len(processes.living_stubs(server.pid)) == 2
        assert supervisor.look() == []
        started = time.monotonic()
    # The dead model must not keep Triton for its whole exit timeout, nor its memory stay.
    assert time.monotonic() - started < OPTIONS.exit_timeout / 2
    assert regions(server) == []
    assert [text.split(";")[0].split(" after")[0] for text in events] == [
        "model double: its process died",
        "model double: ready again",
    ]


def test_supervisor_leaves_reloading_to_others(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    with EmbeddedServer(repository, OPTIONS) as server:
        supervisor = Supervisor(server)
        assert supervisor.look() == []
        assert server.request("POST", "/v2/repository/models/double/unload", {}) == 200
        wait_until(lambda: not processes.living_stubs(server.pid))
        assert supervisor.look() == []
        assert server.request("POST", "/v2/repository/models/double/load", {}, timeout=30) == 200
        assert supervisor.look() == []


def test_a_lost_instance_is_replaced_alone_in_a_repository_that_is_new(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", instances=2, apart=True)
    assert not list(repository.glob("*/*/__pycache__")), "no Python has imported anything there"
    with EmbeddedServer(repository, OPTIONS) as server:
        before = {stub.instance: stub.pid for stub in processes.living_stubs(server.pid)}
        supervisor, events = until_ready_again(server, RecoveryPolicy(interval=0.1))
        os.kill(before["double_0_0"], signal.SIGKILL)
        supervisor.run()
        after = {stub.instance: stub.pid for stub in processes.living_stubs(server.pid)}
        assert set(after) == {"double_1_0", "double_0_again1_0"}
        assert after["double_1_0"] == before["double_1_0"]
        assert infer(server.http_url, "double", [2.0]) == (200, [4.0])
    assert events[-1].endswith("its others went on")


def test_supervisor_brings_the_server_back(tmp_path: Path) -> None:
    # What a model leaves behind holds the log and the ports open; nothing must wait for its end.
    child = "import subprocess; subprocess.Popen(['sleep', '120'])"
    repository = write_repository(tmp_path / "repository", initialize=child, ensemble=True)
    with EmbeddedServer(repository, OPTIONS) as server:
        supervisor, events = until_ready_again(server, RecoveryPolicy(interval=0.1))
        stub, ports = stub_of(server), server.ports
        with contextlib.closing(http.client.HTTPConnection(server.http_url)) as kept:
            kept.request("GET", "/v2/health/live")
            kept.getresponse().read()
            os.kill(server.pid, signal.SIGKILL)
            supervisor.run()
        assert server.ports == ports
        assert processes.ended(stub)
        assert infer(server.http_url, "outer", [2.0]) == (200, [4.0])
    assert len(events) == 2
    assert events[0].startswith("tritonserver was killed by SIGKILL: ")
    assert events[0].endswith("; starting it again (attempt 1 of 5)")
    assert regions(server) == []


def test_an_open_connection_does_not_hold_the_end_up(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository", ensemble=True)
    with EmbeddedServer(repository, OPTIONS) as server:
        kept = http.client.HTTPConnection(server.http_url)
        kept.request("GET", "/v2/health/live")
        kept.getresponse().read()
        stream = grpc_client.InferenceServerClient(server.grpc_url)
        stream.start_stream(lambda result, error: None)
        started = time.monotonic()
    assert time.monotonic() - started < 3.0
    assert regions(server) == []
    kept.close()
    stream.stop_stream(cancel_requests=True)
    stream.close()


class TestCommand:
    """``gsv serve`` as a process."""

    def start(self, repository: Path, *options: str) -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            [*COMMAND, str(repository), *ANY_PORTS, *options],
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if line.startswith("try: "):
                break
        return process, lines

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signals_end_it_cleanly(self, tmp_path: Path, number: signal.Signals) -> None:
        log = tmp_path / "triton.log"
        repository = write_repository(tmp_path / "repository")
        process, lines = self.start(repository, f"--log-file={log}")
        with process:
            assert any("double is ready (1 of 1)" in line for line in lines)
            address = next(line for line in lines if "HTTP" in line).rpartition("//")[2]
            assert infer(address, "double", [1.0]) == (200, [2.0])
            began = time.monotonic()
            process.send_signal(number)
            _, rest = process.communicate(timeout=30)
        assert process.returncode == 0
        assert rest.splitlines() == [
            "stopping: requests under way are finished first",
            "stopped",
        ]
        # A busy machine may need longer than the time after which the processes are killed.
        slow = time.monotonic() - began > UNLOAD_SECONDS
        assert slow or "live models" in log.read_text(), "it was asked to end, not killed"
        assert self.regions_of(process) == []

    def test_stopped_while_loading(self, tmp_path: Path) -> None:
        repository = write_repository(tmp_path / "r", initialize="import time; time.sleep(60)")
        process = subprocess.Popen(
            [*COMMAND, str(repository), *ANY_PORTS], stderr=subprocess.PIPE, text=True
        )
        with process:
            wait_until(lambda: bool(self.regions_of(process)))
            process.terminate()
            _, said = process.communicate(timeout=10)
        assert process.returncode == 0
        assert said.splitlines()[-1] == "stopped while the models were loading"
        assert self.regions_of(process) == []

    def test_killed_launcher_takes_its_server_along(self, tmp_path: Path) -> None:
        process, _ = self.start(write_repository(tmp_path / "repository"))
        with process:
            children = processes.children(process.pid)
            stubs = [stub.pid for child in children for stub in processes.living_stubs(child)]
            assert len(stubs) == 1
            process.kill()
            process.communicate(timeout=10)
        started = time.monotonic()
        wait_until(lambda: all(map(processes.ended, children + stubs)))
        wait_until(lambda: self.regions_of(process) == [])
        assert time.monotonic() - started < 3.0

    def test_failure_is_one_line_and_exit_code_1(self, tmp_path: Path) -> None:
        broken = "raise ValueError('no weights')"
        repository = write_repository(tmp_path / "repository", initialize=broken)
        done = subprocess.run(
            [*COMMAND, str(repository), *ANY_PORTS], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            f"starting Triton on {repository}",
            "Error: model double failed to load: ValueError: no weights",
        ]

    def regions_of(self, process: subprocess.Popen[str]) -> list[Path]:
        namespace = os.stat("/proc/self/ns/pid").st_ino
        return list(processes.SHARED_MEMORY.glob(f"gsv-{namespace}-{process.pid}-*"))


@pytest.mark.parametrize(
    ("files", "complete"),
    [
        ({}, True),
        ({"other/config.pbtxt": 'input [ { name: "A" } ]\noutput [ { name: "B" } ]'}, True),
        ({"other/config.pbtxt": 'backend: "onnxruntime"'}, False),
        ({"other/1/model.onnx": ""}, False),
        ({".kept/notes": "", "notes": ""}, True),
    ],
)
def test_only_whole_configurations_are_not_completed(
    tmp_path: Path, files: dict[str, str], complete: bool
) -> None:
    """Somebody's ONNX file beside our models is loaded as ever."""
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    for name, text in files.items():
        path = tmp_path / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    flag = "--disable-auto-complete-config"
    given = ServerOptions().arguments(tmp_path / "models", None, (1, 2, 3), "x")
    assert (flag in given) == complete
