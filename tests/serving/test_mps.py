"""GPUs and NVIDIA's Multi-Process Service, with stand-ins for NVIDIA's programs on PATH."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gsv.errors import ServerError
from gsv.serving.server import gpus, launcher, mps, stub_watch
from gsv.serving.server import supervisor as supervising
from gsv.serving.server.gpus import Gpu
from gsv.serving.server.processes import Stub
from gsv.serving.server.supervisor import Supervisor

H100 = Gpu(0, "NVIDIA H100 80GB HBM3", mig=False)

# Listens as long as nobody writes "quit"; notes what it was started with.
DAEMON = """
import os, pathlib, sys, time
pipes = pathlib.Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"])
if "-f" in sys.argv:
    if os.environ.get("FAKE_MPS") == "refuses":
        (pathlib.Path(os.environ["CUDA_MPS_LOG_DIRECTORY"]) / "control.log").write_text("no right")
        sys.exit(1)
    (pipes / "pid").write_text(str(os.getpid()))
    (pipes / "visible").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    (pipes / "control").touch()
    while not (pipes / "quit").exists() or os.environ.get("FAKE_MPS") == "deaf":
        time.sleep(0.02)
    pathlib.Path(os.environ["FAKE_ENDED"]).touch()
else:
    said = sys.stdin.read()
    if not (pipes / "control").exists():
        sys.exit(1)
    if said.startswith("quit"):
        (pipes / "quit").touch()
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a Python program of a name on PATH, which has nothing else of NVIDIA's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("FAKE_ENDED", str(tmp_path / "ended"))

    def add(name: str, text: str) -> None:
        path = folder / name
        path.write_text(f"#!{sys.executable} -S\n{text}")
        path.chmod(0o755)

    return add


def folders(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("gsv-mps-*"))


def test_gpus_are_listed(programs: Callable[[str, str], None]) -> None:
    assert gpus.listed() == []
    programs(
        gpus.SMI, "print('0, Disabled, NVIDIA H100 80GB HBM3\\n1, Enabled, X, Y\\n2, [N/A], T4')"
    )
    assert gpus.listed() == [H100, Gpu(1, "X, Y", mig=True), Gpu(2, "T4", mig=False)]


@pytest.mark.parametrize("text", ["raise SystemExit(9)", "print('No devices were found')"])
def test_a_driver_that_does_not_answer_lists_none(
    programs: Callable[[str, str], None], text: str
) -> None:
    programs(gpus.SMI, text)
    assert gpus.listed() == []


def test_off_starts_nothing() -> None:
    assert mps.start("off", [H100], lambda line: pytest.fail(line)) is None


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([], "no NVIDIA GPU found"),
        ([H100, Gpu(1, "A100", mig=True)], r"GPU 1 is partitioned \(MIG\)"),
        ([H100], "nvidia-cuda-mps-control is not on PATH"),
    ],
)
def test_where_it_can_not_be(
    programs: Callable[[str, str], None], found: list[Gpu], why: str
) -> None:
    told: list[str] = []
    with pytest.raises(ServerError, match=f"MPS can't be used: {why}"):
        mps.start("on", found, told.append)
    assert told == []
    assert mps.start("auto", found, told.append) is None
    (line,) = told
    assert line.startswith("MPS can't be used: ")


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_daemon_of_its_own(
    programs: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    programs(mps.CONTROL, DAEMON)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    told: list[str] = []
    daemon = mps.start(mode, [H100], told.append)
    assert daemon is not None
    assert told == ["MPS serves GPU 0"]
    pipes = Path(daemon.environment["CUDA_MPS_PIPE_DIRECTORY"])
    assert folders(tmp_path) == [pipes.parent]
    assert pipes.parent.stat().st_mode & 0o777 == 0o700
    assert (pipes / "visible").read_text() == "all", "it would number the chosen GPUs anew"
    pid = int((pipes / "pid").read_text())
    daemon.stop()
    assert (tmp_path / "ended").exists(), "it was asked to quit"
    assert not Path(f"/proc/{pid}").exists()
    assert folders(tmp_path) == []
    daemon.stop()


def test_a_daemon_that_refuses_says_why(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(mps.CONTROL, DAEMON)
    monkeypatch.setenv("FAKE_MPS", "refuses")
    with pytest.raises(ServerError, match="nvidia-cuda-mps-control: no right"):
        mps.start("on", [H100], lambda line: None)
    assert folders(tmp_path) == []


def test_a_daemon_that_does_not_quit_is_killed(
    programs: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(mps.CONTROL, DAEMON)
    monkeypatch.setenv("FAKE_MPS", "deaf")
    monkeypatch.setattr(mps, "_QUIT_SECONDS", 1.0)
    daemon = mps.MpsDaemon()
    daemon.start()
    pid = int((Path(daemon.environment["CUDA_MPS_PIPE_DIRECTORY"]) / "pid").read_text())
    daemon.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert folders(tmp_path) == []


def test_it_ends_with_a_launcher_that_is_killed(
    programs: Callable[[str, str], None], tmp_path: Path
) -> None:
    programs(mps.CONTROL, DAEMON)
    code = (
        "import time\nfrom gsv.serving.server import mps\n"
        "daemon = mps.MpsDaemon()\ndaemon.start()\n"
        "print(daemon.environment['CUDA_MPS_PIPE_DIRECTORY'], flush=True)\ntime.sleep(60)\n"
    )
    launcher_process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert launcher_process.stdout is not None
    pipes = Path(launcher_process.stdout.readline().decode().strip())
    pid = int((pipes / "pid").read_text())
    launcher_process.kill()
    launcher_process.wait()
    launcher_process.stdout.close()
    limit = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    assert folders(tmp_path) == [pipes.parent]
    mps.remove_stale_folders()
    assert folders(tmp_path) == []


def test_few_cpu_threads_beside_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launcher._threads_beside([]) == {}
    assert launcher._threads_beside([H100]) == {"OMP_NUM_THREADS": "2"}
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launcher._threads_beside([H100]) == {}


class Server:
    """What the supervisor asks of a server whose models lie on three GPUs."""

    gpus = {"sovits": {0}, "vocoder": {0, 1}, "text": {2}, "stream": set()}

    def __init__(self, shares_gpus: bool) -> None:
        self.shares_gpus = shares_gpus

    def gpus_of(self, model: str) -> frozenset[int]:
        return frozenset(self.gpus[model])

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        return 200, "[]"

    def requests_in_flight(self, model: str, instances: object) -> float:
        return 0.0

    def ended(self) -> bool:
        return False

    def ends_within(self, seconds: float) -> bool:
        return False

    pid, files = 1, "/nowhere/"


@pytest.mark.parametrize("shares", [True, False])
def test_what_shares_a_gpu_is_started_anew_together(
    monkeypatch: pytest.MonkeyPatch, shares: bool
) -> None:
    killed: list[tuple[int, Any]] = []
    told: list[str] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append((pid, number)))
    models = ("sovits", "vocoder", "text", "stream")
    stubs = [Stub(11 + number, model, f"{model}_0_0") for number, model in enumerate(models)]
    for module in (stub_watch, supervising):
        monkeypatch.setattr(module, "living_stubs", lambda server: list(stubs))
    monkeypatch.setattr(stub_watch, "_handle_of", lambda pid: None)
    supervisor = Supervisor(Server(shares), on_event=told.append)  # type: ignore[arg-type]
    assert supervisor.look() == []
    del stubs[0]
    assert supervisor.look() == (["sovits", "vocoder"] if shares else ["sovits"])
    assert killed == ([(12, signal.SIGKILL)] if shares else [])
    assert told[0].startswith("model sovits: its process died")
    assert len(told) == 1 + shares
    # Those that were ended with it are no losses of their own, and end nothing that is new.
    del stubs[0]
    stubs.append(Stub(21, "sovits", "sovits_0_0"))
    supervisor.look()
    assert killed == ([(12, signal.SIGKILL)] if shares else [])
    assert len(told) == 1 + shares + (not shares)


@pytest.mark.parametrize(
    ("status", "groups", "expected"),
    [
        (200, [{"kind": "KIND_GPU", "gpus": [0, 2]}, {"kind": "KIND_CPU", "gpus": []}], {0, 2}),
        (200, [{"kind": "KIND_CPU", "gpus": []}], set()),
        (400, [{"kind": "KIND_GPU", "gpus": [0]}], set()),
    ],
)
def test_where_a_model_runs_is_asked_of_the_server(
    status: int, groups: list[dict[str, Any]], expected: set[int]
) -> None:
    answer = status, json.dumps({"name": "double", "instance_group": groups})
    server = SimpleNamespace(ports=(8000, 1, 2), ask=lambda *asked: answer)
    assert launcher.EmbeddedServer.gpus_of(server, "double") == expected  # type: ignore[arg-type]
