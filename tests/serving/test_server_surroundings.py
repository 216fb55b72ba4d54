"""What stands around a tritonserver, without one: its log, its files, ports and shared memory."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from gsv.commands import serve as serve_command
from gsv.commands.serve import is_loopback
from gsv.errors import ServerError
from gsv.serving.server import installation, janitor, processes
from gsv.serving.server.log import ServerLog
from gsv.serving.server.options import check_repository, choose_ports


def wait_until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def feed(*lines: str) -> tuple[ServerLog, list[str]]:
    shown: list[str] = []
    log = ServerLog(lambda line, important: shown.append(line) if important else None, lambda: None)
    for line in lines:
        log.feed(line)
    return log, shown


class TestServerLog:
    def test_follows_loading(self) -> None:
        log, shown = feed(
            'I1122 16:25:06.1 8413 model_lifecycle.cc:472] "loading: a:1"',
            'I1122 16:25:06.2 8413 model_lifecycle.cc:472] "loading: b:1"',
            "I1122 16:25:08.9 8413 model_lifecycle.cc:839] \"successfully loaded 'a'\"",
        )
        assert log.models == {"a": "ready", "b": "loading"}
        assert shown == []

    def test_failed_model_is_one_line_without_code_and_traceback(self) -> None:
        failed = (
            "E1122 16:38:27.7 1 model_lifecycle.cc:642] \"failed to load 'a' version 1: Internal: "
            'CheckpointError: gpt.safetensors: missing\\nrun gsv prepare\\n\\nAt:\\n  m.py(3)\\n"'
        )
        log, shown = feed(failed)
        assert log.reason() == (
            "model a failed to load: CheckpointError: gpt.safetensors: missing run gsv prepare"
        )
        assert shown == []  # the reason is told once, by whoever gives up

    def test_first_failure_counts_not_its_consequences(self) -> None:
        log, _ = feed(
            "E1122 1:1:1 1 m.cc:1] \"Poll failed for model directory 'a': no text proto\"",
            'E1122 1:1:1 1 m.cc:1] "Invalid argument: ensemble e contains models that are not '
            'available or ambiguous: a"',
            "error: creating server: Internal - failed to load all models",
        )
        assert log.reason() == "model a failed to load: no text proto"

    def test_dead_stub_is_explained(self) -> None:
        log, _ = feed(
            "E1122 1:1:1 1 m.cc:1] \"failed to load 'a' version 1: Internal: Stub process 'a_0_0' "
            'is not healthy."'
        )
        assert "Its process died while loading" in log.reason()

    def test_harmless_lines_are_no_reason_and_not_shown(self) -> None:
        log, shown = feed(
            'E1122 1:1:1 1 server.cc:241] "CudaDriverHelper has not been initialized."',
            "Error: Failed to initialize NVML",
            "+-----+",
            'W1122 1:1:1 1 x.cc:1] "something else"',
        )
        assert log.reason() == "it said nothing"
        assert [line[-16:] for line in shown] == ['"something else"']

    def test_a_crash_is_told_by_its_signal_and_not_by_its_stack(self) -> None:
        log, _ = feed(
            "Signal (11) received.",
            " 0# 0x000056084F56552D in /opt/tritonserver/bin/tritonserver",
            "24# 0x00007F441A1278EC in /lib/x86_64-linux-gnu/libc.so.6",
        )
        assert log.reason() == "Signal (11) received."
        assert log.crash is signal.SIGSEGV

    def test_an_exception_that_nobody_caught_is_the_reason(self) -> None:
        """And no error that came before it."""
        log, _ = feed(
            'E1128 21:00:00.1 12 model_repository_manager.cc:9] "Invalid argument: ensemble e '
            'contains models that are not available"',
            "terminate called after throwing an instance of 'boost::interprocess::lock_exception'",
            "  what():  boost::interprocess::lock_exception",
            "Signal (6) received.",
        )
        assert log.crash is signal.SIGABRT
        kind = "boost::interprocess::lock_exception"
        assert log.reason() == f"uncaught {kind}: {kind}"

    @pytest.mark.parametrize("line", ["Signal (15) received.", "Signal (2) received.", "Signal"])
    def test_being_told_to_stop_is_no_crash(self, line: str) -> None:
        assert feed(line)[0].crash is None

    def test_a_crash_is_told_once(self) -> None:
        told: list[int] = []
        log = ServerLog(lambda line, important: None, lambda: None, lambda: told.append(1))
        for _ in range(2):
            log.feed("Signal (6) received.")
        assert told == [1]

    def test_a_broken_sink_does_not_stop_the_reading(self) -> None:
        def full(line: str, important: bool) -> None:
            raise OSError("No space left on device")

        log = ServerLog(full, lambda: None)
        log.feed("first")
        log.feed('I1122 1:1:1 1 x.cc:1] "loading: a:1"')
        assert log.models == {"a": "loading"}
        assert isinstance(log.broken_sink, OSError)


class TestPorts:
    def test_free_ports_differ(self) -> None:
        ports = choose_ports("127.0.0.1", (0, 0, 0))
        assert len(set(ports)) == 3
        assert all(ports)

    def test_taken_port_is_named_with_its_option(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ServerError, match=rf"127.0.0.1:{port} .* --grpc-port"):
                choose_ports("127.0.0.1", (0, port, 0))

    @pytest.mark.parametrize(
        ("host", "expected"),
        [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x", False)],
    )
    def test_loopback(self, host: str, expected: bool) -> None:
        assert is_loopback(host) is expected


class TestRepository:
    def test_missing_and_empty_folders_say_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(ServerError, match="no such folder; make one with gsv prepare"):
            check_repository(tmp_path / "nowhere")
        with pytest.raises(ServerError, match="no model in it"):
            check_repository(tmp_path)


class TestSharedMemory:
    def test_only_the_own_regions_are_removed(self, tmp_path: Path) -> None:
        mine, other = processes.region_prefix(), processes.region_prefix()
        for prefix in (mine, other):
            (tmp_path / f"{prefix}1234").touch()
        assert processes.remove_regions(mine, tmp_path) == [f"{mine}1234"]
        assert [p.name for p in tmp_path.iterdir()] == [f"{other}1234"]

    def test_stale_means_same_namespace_and_dead_launcher(self, tmp_path: Path) -> None:
        namespace = os.stat("/proc/self/ns/pid").st_ino
        no_process = int(Path("/proc/sys/kernel/pid_max").read_text()) + 1
        start = processes.start_of(os.getpid())
        stale = {
            f"gsv-{namespace}-{no_process}-0123abcd-x",
            f"gsv-{namespace}-{no_process}-{start:08x}beef-x",
            f"gsv-{namespace}-{os.getpid()}-{start + 1:08x}beef-x",  # the number was given anew
        }
        kept = {
            f"gsv-{namespace}-{os.getpid()}-0123abcd-x",  # its launcher lives
            f"{processes.region_prefix()}x",
            f"gsv-{namespace + 1}-{no_process}-0123abcd-x",  # of another container
            "triton_python_backend_shm_region_x",  # of another tritonserver
        }
        for name in stale | kept:
            (tmp_path / name).touch()
        assert processes.remove_stale_regions(tmp_path) == sorted(stale)
        assert {p.name for p in tmp_path.iterdir()} == kept

    def test_a_launcher_that_nobody_waited_for_is_gone(self, tmp_path: Path) -> None:
        child = subprocess.Popen([sys.executable, "-c", "pass"])
        wait_until(lambda: processes.state(child.pid) == "Z")
        namespace = os.stat("/proc/self/ns/pid").st_ino
        (tmp_path / f"gsv-{namespace}-{child.pid}-0123abcd-x").touch()
        assert len(processes.remove_stale_regions(tmp_path)) == 1
        child.wait()


class TestJanitor:
    def test_a_server_may_open_many_files(self) -> None:
        shows = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
        guarded = "from gsv.serving.server import processes; import os, sys, signal, subprocess; "
        guarded += (
            f"c = processes.guarded([sys.executable, '-c', {shows!r}], signal.SIGKILL); "
            "sys.exit(subprocess.run(c).returncode)"
        )
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        shell = f"ulimit -S -n 256; exec {sys.executable} -c {shlex.quote(guarded)}"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
        assert int(done.stdout) == min(hard, processes.FILES), done.stderr

    def test_a_launcher_that_is_killed_leaves_nothing(self) -> None:
        # A child that would outlive it, in a group of its own, and a region.
        code = (
            "import subprocess, sys, time\n"
            "from gsv.serving.backend.process_state import board_prefix\n"
            "from gsv.serving.server import janitor, processes\n"
            "prefix = processes.region_prefix()\n"
            "one = janitor.Janitor(prefix)\n"
            "child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
            "one.watch(child.pid)\n"
            "region = processes.SHARED_MEMORY / f'{prefix}x'\n"
            "board = processes.SHARED_MEMORY / f'{board_prefix(child.pid)}7'\n"
            "region.touch(), board.touch()\n"
            "print(child.pid, region, board, flush=True)\n"
            "time.sleep(60)\n"
        )
        launcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert launcher.stdout is not None
        child, region, board = launcher.stdout.readline().split()
        launcher.kill()
        launcher.communicate()
        wait_until(lambda: processes.ended(int(child)))
        wait_until(lambda: not Path(region).exists() and not Path(board).exists())

    def test_what_has_ended_is_not_killed(self) -> None:
        bystander = subprocess.Popen(["sleep", "60"], start_new_session=True)
        one = janitor.Janitor(processes.region_prefix())
        one.watch(bystander.pid)
        one.watch(0)
        one.leave()
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()


class TestInstallation:
    def test_no_home_folder_is_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("GSV_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", homeless)
        with pytest.raises(ServerError, match="no home folder; give a writable folder in GSV_CA"):
            installation.cache_folder()
        monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache")
        assert installation.cache_folder() == Path("/var/cache/gsv")

    def test_health_checks_ask_no_proxy(self) -> None:
        docker = Path(__file__).parents[2] / "docker"
        image, compose = ((docker / n).read_text() for n in ("Dockerfile", "compose.yaml"))
        # gsv-client takes no proxy on the way to this machine.
        probe = re.search(r'HEALTHCHECK .*\\\n +CMD \["gsv", "probe", (.*)\]', image)
        assert probe is not None
        assert '"--url", "http://127.0.0.1:8000"' in probe[1]
        assert "- gsv\n        - probe\n" in compose
        assert "--url=http://127.0.0.1:8000" in compose
        # The gateway's own, which is no Triton.
        assert "build_opener(r.ProxyHandler({})).open('http://127.0.0.1:9880/" in compose
        assert "urlopen" not in image + compose

    def test_layout_is_made_once_and_mended(self, tmp_path: Path) -> None:
        first = installation.embedded(tmp_path).backend_directory
        assert first is not None
        stub = first / "python" / installation.STUB
        assert os.access(stub, os.X_OK)
        made = stub.stat().st_ino
        installation.embedded(tmp_path)
        assert stub.stat().st_ino == made
        stub.write_bytes(b"cut off")
        installation.embedded(tmp_path)
        assert stub.stat().st_size > 100_000
        assert [p.name for p in tmp_path.iterdir()] == [first.name]  # nothing half-made

    def test_missing_wheel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ServerError, match="pip install 'nvidia-pytriton==") as caught:
            installation.embedded()
        assert "\n" not in str(caught.value)

    def test_unwritable_cache(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ServerError, match="GSV_CACHE"):
            installation.embedded(tmp_path / "file")

    def test_installed_server_must_be_a_program(self, tmp_path: Path) -> None:
        with pytest.raises(ServerError, match="not an executable file"):
            installation.installed(tmp_path / "tritonserver")

    @pytest.mark.parametrize(
        ("folder", "expected"), [("", "/given:{}"), ("/usr/lib/x86_64-linux-gnu", None)]
    )
    def test_installed_server_finds_the_library_of_our_python(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str, expected: str | None
    ) -> None:
        (tmp_path / "tritonserver").touch(0o755)
        library = f"libpython{installation.PYTHON}.so.1.0"
        (tmp_path / library).touch()
        place = folder or str(tmp_path)
        monkeypatch.setattr("sysconfig.get_config_var", lambda name: place)
        monkeypatch.setenv("LD_LIBRARY_PATH", "/given")
        environment = installation.installed(tmp_path / "tritonserver").environment
        wanted = expected and expected.format(tmp_path)
        assert environment.get("LD_LIBRARY_PATH") == wanted
        (tmp_path / library).unlink()
        environment = installation.installed(tmp_path / "tritonserver").environment
        assert "LD_LIBRARY_PATH" not in environment

    def test_installed_server_of_another_python(self, tmp_path: Path) -> None:
        binary = tmp_path / "bin" / "tritonserver"
        stub = tmp_path / "backends" / "python" / installation.STUB
        for file in (binary, stub):
            file.parent.mkdir(parents=True)
            file.write_bytes(b"..libpython3.8.so.1.0..")
            file.chmod(0o755)
        with pytest.raises(ServerError, match="built for Python 3.8"):
            installation.installed(binary)

    def test_installed_server_brings_its_backends(self, tmp_path: Path) -> None:
        binary = tmp_path / "bin" / "tritonserver"
        binary.parent.mkdir()
        binary.touch(0o755)
        (tmp_path / "backends").mkdir()
        found = installation.installed(binary)
        assert found.backend_directory == tmp_path / "backends"
        assert found.environment["PATH"].startswith(str(Path(sys.executable).parent))


class TestControlKey:
    def test_a_childs_argument_is_hidden(self) -> None:
        command = [sys.executable, "-c", "input()", "--a=key=s3cret", "s3cret,x", "ü"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
            try:
                line = Path(f"/proc/{child.pid}/cmdline")
                wait_until(lambda: b"s3cret" in line.read_bytes())  # it has become the program
                before = line.read_bytes()
                assert processes.hide_argument(child.pid, "s3cret")
                assert line.read_bytes() == before.replace(b"s3cret", b"******")
            finally:
                child.communicate(b"\n")
        assert child.returncode == 0
        assert processes.hide_argument(child.pid, "s3cret"), "nothing is left to be seen"

    def test_it_comes_from_a_file_or_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("GSV_CONTROL_KEY", raising=False)
        assert serve_command._control_key(None) is None
        monkeypatch.setenv("GSV_CONTROL_KEY", "from-there")
        assert serve_command._control_key(None) == "from-there"
        for nothing in ("", " \n"):
            monkeypatch.setenv("GSV_CONTROL_KEY", nothing)
            assert serve_command._control_key(None) is None, "which must not open the control"
        for text in ("two words", "schlüssel"):
            monkeypatch.setenv("GSV_CONTROL_KEY", text)
            with pytest.raises(click.UsageError, match="GSV_CONTROL_KEY must hold one word"):
                serve_command._control_key(None)
        file = tmp_path / "key"
        file.write_text("s3cret\n")
        assert serve_command._control_key(file) == "s3cret"
        for text in ("", "two words", "schlüssel"):
            file.write_text(text)
            with pytest.raises(click.UsageError, match="one word of printable ASCII"):
                serve_command._control_key(file)
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(click.UsageError, match="one word of printable ASCII"):
            serve_command._control_key(file)

    def test_it_is_no_argument(self) -> None:
        names = {name for option in serve_command.serve.params for name in option.opts}
        assert "--control-key-file" in names
        assert "--control-key" not in names
