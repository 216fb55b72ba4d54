"""How a tritonserver is run: the choices, the command line, the ports, the paths."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import shlex
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gsv.errors import ServerError

CONTROL_HEADER = "gsv-control-key"
CONTROL_KEY_VARIABLE = "GSV_CONTROL_KEY"
DEFAULT_TRACE_ENDPOINT = "http://localhost:4318/v1/traces"  # OpenTelemetry's
_CALLS_OF_A_REQUEST = 3  # of one public request, at once


@dataclasses.dataclass(frozen=True)
class ServerOptions:
    """How to run a server. Port 0 means any free one; times are in seconds."""

    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    tritonserver: Path | None = None  # None: the embedded one
    ready_timeout: float = 600.0
    exit_timeout: int = 30
    mps: str = "off"  # NVIDIA's Multi-Process Service: off, auto or on
    control_key: str = ""  # asked of whoever loads and unloads models; empty: nobody is asked
    extra: tuple[str, ...] = ()  # further options, handed to tritonserver as they are

    def arguments(
        self, repository: Path, backends: Path | None, ports: tuple[int, int, int], regions: str
    ) -> list[str]:
        """Arguments for tritonserver; ``regions`` is the prefix of its shared memory."""
        arguments = [
            f"--model-repository={repository}",
            # Explicit control lets a supervisor unload and load a model whose process died.
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--http-address={self.host}",
            f"--http-port={ports[0]}",
            f"--grpc-address={self.host}",
            f"--grpc-port={ports[1]}",
            f"--metrics-address={self.host}",
            f"--metrics-port={ports[2]}",
            f"--exit-timeout-secs={self.exit_timeout}",
            f"--backend-config=python,shm-region-prefix-name={regions}",
            f"--backend-config=python,thread-pool-size={call_threads(repository)}",
        ]
        if is_complete(repository):
            # To complete configurations, Triton would start each model's process, imports and all,
            # end it, and start it again.
            arguments.append("--disable-auto-complete-config")
        if backends is not None:
            arguments.append(f"--backend-directory={backends}")
        if self.control_key:
            restriction = f"model-repository:{CONTROL_HEADER}={self.control_key}"
            arguments.append(f"--http-restricted-api={restriction}")
            arguments.append(f"--grpc-restricted-protocol={restriction}")
        return [*arguments, *self.extra]


def trace_endpoint(options: Sequence[str]) -> str:
    """Where Triton's options send OpenTelemetry's spans; empty: nowhere."""
    flag = "--trace-config"
    settings = [value for name, value in itertools.pairwise(options) if name == flag]
    settings += [o.removeprefix(f"{flag}=") for o in options if o.startswith(f"{flag}=")]
    if "mode=opentelemetry" not in settings:
        return ""
    prefix = "opentelemetry,url="
    urls = [s.removeprefix(prefix) for s in settings if s.startswith(prefix)]
    return urls[-1] if urls else DEFAULT_TRACE_ENDPOINT


def call_threads(repository: Path) -> int:
    """Calls to other models that one process may have under way, Triton's ``thread-pool-size``.

    A stream waits for tokens and for mel at once, and for a moment also ends a sequence. Triton's
    default of 32 would hold back all but 16 streams.
    """
    found = [1]
    for config in repository.glob("*/config.pbtxt"):
        text = config.read_text(encoding="utf-8", errors="replace")
        found += map(int, re.findall(r'key: "concurrency"\s+value: \{ string_value: "(\d+)"', text))
    return _CALLS_OF_A_REQUEST * max(found)


def is_complete(repository: Path) -> bool:
    """Whether every model's configuration tells its tensors, as ours do.

    Other people's models, such as an ONNX file, may lie beside ours and leave that to Triton.
    """
    for folder in repository.iterdir():
        if not folder.is_dir() or folder.name.startswith("."):
            continue
        try:
            text = (folder / "config.pbtxt").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        if not all(re.search(rf"^\s*{side}\b", text, re.MULTILINE) for side in ("input", "output")):
            return False
    return True


def check_repository(repository: Path) -> int:
    """The number of models in it; ServerError when there is none."""
    if not repository.is_dir():
        raise ServerError(f"{repository}: no such folder; make one with gsv prepare")
    models = len(list(repository.glob("*/config.pbtxt")))
    if not models:
        raise ServerError(
            f"{repository}: no model in it (no */config.pbtxt); make a repository with gsv prepare"
        )
    return models


def choose_ports(host: str, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """The wanted ports, with a free one for every 0; ServerError when one is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        ports = []
        # All are held until the last is found: no two are the same.
        for port, what in zip(wanted, ("http", "grpc", "metrics"), strict=True):
            probe = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ServerError(
                    f"{host}:{port} can't be used: {error.strerror}; choose another --{what}-port "
                    "(0: any free one)"
                ) from error
            ports.append(probe.getsockname()[1])
    return ports[0], ports[1], ports[2]


class PlainPaths:
    """Paths without spaces: links to paths which Triton's unquoted command lines would split."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def of(self, path: Path, name: str) -> Path:
        """``path``, or a link to it called ``name``, which must be used once."""
        path = path.absolute()
        if shlex.quote(str(path)) == str(path):
            return path
        if self._folder is None:
            self._folder = _plain_folder()
        link = Path(self._folder.name, name)
        link.symlink_to(path)
        return link

    def close(self) -> None:
        """Remove the links."""
        if self._folder is not None:
            self._folder.cleanup()


def _plain_folder() -> tempfile.TemporaryDirectory[str]:
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if shlex.quote(parent) == parent:
            with contextlib.suppress(OSError):
                return tempfile.TemporaryDirectory(prefix="gsv-", dir=parent)
    raise ServerError("no writable temporary folder without spaces in its path; set TMPDIR to one")
