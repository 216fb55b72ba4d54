"""NVIDIA's Multi-Process Service: kernels of several processes run on a GPU at the same time.

Without it the models' processes take turns on the GPU. The daemon is a private one: it has a
folder of its own for its pipes and its log, serves only the server that it was started for, and
ends with it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gsv.errors import ServerError
from gsv.serving.backend.process_state import namespace
from gsv.serving.server.gpus import SMI, Gpu
from gsv.serving.server.processes import ended, guarded

CONTROL = "nvidia-cuda-mps-control"
MODES = ("off", "auto", "on")
_READY_SECONDS = 15.0
_QUIT_SECONDS = 10.0
_LOG_LINES = 3  # of the daemon's, in an error
_FOLDER = re.compile(r"gsv-mps-(?P<namespace>\d+)-(?P<pid>\d+)-.*")


def obstacle(gpus: Sequence[Gpu]) -> str:
    """Why MPS can't be used on this machine; empty if it can."""
    if not gpus:
        return f"no NVIDIA GPU found ({SMI} lists none)"
    if partitioned := [str(gpu.index) for gpu in gpus if gpu.mig]:
        return (
            f"GPU {', '.join(partitioned)} is partitioned (MIG); turn it off with "
            f"'{SMI} -i {partitioned[0]} -mig 0', or serve without MPS: processes on a partition "
            "share it in turns"
        )
    if shutil.which(CONTROL) is None:
        return f"{CONTROL} is not on PATH; it comes with the driver"
    return ""


def start(mode: str, gpus: Sequence[Gpu], tell: Callable[[str], None]) -> MpsDaemon | None:
    """A running daemon, or None where none is wanted.

    Args:
        mode: ``off``; ``on``; or ``auto``: where it can be used, and else without.
        gpus: of this machine.
        tell: gets a line for people.

    Raises:
        ServerError: ``on``, and it can't be used.
    """
    if mode == "off":
        return None
    try:
        if why := obstacle(gpus):
            raise ServerError(f"MPS can't be used: {why}")
        daemon = MpsDaemon()
        daemon.start()
    except ServerError as error:
        if mode == "on":
            raise
        tell(f"{error}; the models' processes take turns on the GPU")
        return None
    tell(f"MPS serves GPU {', '.join(str(gpu.index) for gpu in gpus)}")
    return daemon


class MpsDaemon:
    """One control daemon; start it from a thread that outlives it."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What processes that shall use it must have in their environment."""
        if self._folder is None:
            raise ServerError("the MPS daemon was not started")
        return {
            "CUDA_MPS_PIPE_DIRECTORY": str(self._folder / "pipes"),
            "CUDA_MPS_LOG_DIRECTORY": str(self._folder / "log"),
        }

    def start(self) -> None:
        """Start and wait until it listens; ServerError, with what its log says, if it doesn't."""
        remove_stale_folders()
        prefix = f"gsv-mps-{namespace()}-{os.getpid()}-"
        self._folder = Path(tempfile.mkdtemp(prefix=prefix))
        for name in ("pipes", "log"):
            (self._folder / name).mkdir()
        # In the foreground, so that the kernel ends it should we be killed.
        try:
            with (self._folder / "output").open("wb") as output:
                self._process = subprocess.Popen(
                    guarded([str(shutil.which(CONTROL)), "-f"], signal.SIGTERM),
                    env=self._surroundings(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            limit = time.monotonic() + _READY_SECONDS
            while not self._command("get_server_list"):
                if self._process.poll() is not None or time.monotonic() > limit:
                    raise ServerError(f"MPS can't be used: {CONTROL}: {self._complaint()}")
                time.sleep(0.1)
        except BaseException:  # Ctrl-C too: no process may stay behind
            self.stop()
            raise

    def stop(self) -> None:
        """End it, which ends the servers that it has started, and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                self._command(f"quit -t {int(_QUIT_SECONDS)}")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_QUIT_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _command(self, text: str) -> bool:
        """Tell the daemon something; whether it has listened."""
        try:
            done = subprocess.run(
                [CONTROL], input=f"{text}\n".encode(), env=self._surroundings(),
                capture_output=True, timeout=_QUIT_SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0

    def _surroundings(self) -> dict[str, str]:
        """The environment of the daemon, which sees all GPUs.

        With CUDA_VISIBLE_DEVICES it would renumber the GPUs, for its clients too.
        """
        inherited = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
        return {**inherited, **self.environment}

    def _complaint(self) -> str:
        assert self._folder is not None
        lines: list[str] = []
        for path in (self._folder / "log" / "control.log", self._folder / "output"):
            with contextlib.suppress(OSError):
                lines += path.read_text(encoding="utf-8", errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        return "; ".join(said[-_LOG_LINES:]) or "it does not answer"


def remove_stale_folders() -> None:
    """Remove the folders of daemons whose launcher was killed."""
    for path in Path(tempfile.gettempdir()).glob("gsv-mps-*"):
        match = _FOLDER.fullmatch(path.name)
        if match and int(match["namespace"]) == namespace() and ended(int(match["pid"])):
            shutil.rmtree(path, ignore_errors=True)
