"""``gsv serve``: Triton on a prepared repository, watched, until it is told to stop."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click

from gsv.errors import Cancelled, GsvError
from gsv.repository import served_voices
from gsv.serving.server.launcher import EmbeddedServer, ServerOptions
from gsv.serving.server.mps import MODES
from gsv.serving.server.options import CONTROL_KEY_VARIABLE
from gsv.serving.server.supervisor import RecoveryPolicy, Supervisor
from gsv.voices import VoiceFolder
from gsv_client import Client
from gsv_client.probe import probe

EPILOG = """\b
Examples:
  gsv serve build/demo/model_repository
  gsv serve models --http-port 0 --grpc-port 0 --metrics-port 0
  gsv serve models --host 0.0.0.0 --log-file triton.log
  gsv serve models --tritonserver /opt/tritonserver/bin/tritonserver -- --log-verbose=1
"""

OWN_PROBE_TIMEOUT = 60.0  # seconds
port_type = click.IntRange(0, 65535)


@click.command(epilog=EPILOG)
@click.argument("repository", type=click.Path(path_type=Path))
@click.argument("triton_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--host", default=ServerOptions.host, show_default=True, help="Address to listen on.")
@click.option("--http-port", default=8000, show_default=True, type=port_type, help="0: any.")
@click.option("--grpc-port", default=8001, show_default=True, type=port_type, help="0: any.")
@click.option("--metrics-port", default=8002, show_default=True, type=port_type, help="0: any.")
@click.option(
    "--tritonserver",
    type=click.Path(path_type=Path),
    help="An installed tritonserver in place of the embedded one.",
)
@click.option(
    "--ready-timeout",
    default=ServerOptions.ready_timeout,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds that loading may take.",
)
@click.option(
    "--exit-timeout",
    default=ServerOptions.exit_timeout,
    show_default=True,
    type=click.IntRange(min=0),
    help="Seconds that requests under way may take when the server stops.",
)
@click.option(
    "--recoveries",
    default=RecoveryPolicy.attempts,
    show_default=True,
    type=click.IntRange(min=0),
    help="Times in ten minutes that a model whose process died is loaded again, and that Triton is "
    "started again; 0: exit 1 at once.",
)
@click.option(
    "--hang-seconds",
    default=RecoveryPolicy.silent,
    show_default=True,
    type=click.FloatRange(min=1),
    help="A model's process that shows no sign of life for so long, or for a third of it while all "
    "its threads sleep, is ended and started anew.",
)
@click.option(
    "--probe-seconds",
    default=RecoveryPolicy.probe,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Let the server say a word, after so long without a request; 0: never. Triton is started "
    "again when two such probes fail.",
)
@click.option(
    "--unread-seconds",
    default=RecoveryPolicy.unread,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Disconnect a caller that takes nothing of its answer for so long; 0: never.",
)
@click.option(
    "--control-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the key that others must send (header gsv-control-key) to list, load and "
    f"unload models; or the variable {CONTROL_KEY_VARIABLE} holds it. Without either: nobody is "
    "asked on a loopback address, and a random key is made on any other.",
)
@click.option(
    "--mps",
    type=click.Choice(MODES),
    default=ServerOptions.mps,
    show_default=True,
    help="NVIDIA's Multi-Process Service, so that the models' kernels run side by side on a GPU: "
    "auto uses it where it can be, on insists.",
)
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append Triton's whole log to this file.",
)
@click.option("-v", "--verbose", is_flag=True, help="Show Triton's whole log.")
def serve(
    repository: Path,
    triton_options: tuple[str, ...],
    recoveries: int,
    hang_seconds: float,
    probe_seconds: float,
    unread_seconds: float,
    control_key_file: Path | None,
    log_file: Path | None,
    verbose: bool,
    **options: Any,
) -> None:
    """Serve the model REPOSITORY that "gsv prepare" made, until Ctrl-C or SIGTERM.

    Waits until all models are ready, brings back a model whose process died or hangs, and Triton
    itself, and leaves nothing behind. What follows "--" goes to tritonserver as it is. A second
    Ctrl-C stops at once.
    """
    control_key = _control_key(control_key_file)
    if control_key is None:
        control_key = "" if is_loopback(options["host"]) else secrets.token_urlsafe(16)
    policy = RecoveryPolicy(
        attempts=recoveries, silent=hang_seconds, probe=probe_seconds, unread=unread_seconds
    )
    settings = ServerOptions(control_key=control_key, extra=triton_options, **options)
    try:
        with _opened(log_file) as file:
            show = LogView(file, verbose)
            server = EmbeddedServer(repository, settings, on_line=show, on_ready_model=_progress())
            with _signals_to(server):
                _run(server, show, policy)
    except Cancelled as error:
        say(f"{error}")
    except (GsvError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _control_key(file: Path | None) -> str | None:
    """The operator's key, None where there is none; never an argument, which all users can read."""
    if file is None:
        where, key = CONTROL_KEY_VARIABLE, os.environ.get(CONTROL_KEY_VARIABLE, "").strip()
        if not key:  # as where it is not set: nobody means to open model control by that
            return None
    else:
        where = f"--control-key-file: {file}"
        key = file.read_bytes().decode("latin-1").strip()
    # The characters that may stand in a header, without those that Triton's option ends at.
    if not re.fullmatch(r"[!-~]+", key):
        raise click.UsageError(f"{where} must hold one word of printable ASCII characters")
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class LogView:
    """Shows Triton's log: all lines while the server is ready, important ones before and after."""

    def __init__(self, file: IO[str] | None, verbose: bool) -> None:
        self._file, self._verbose = file, verbose
        self.serving = False

    def __call__(self, line: str, important: bool) -> None:
        """Take one line, in the thread that reads the log."""
        if self._file is not None:
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError as error:
                say(f"log file {self._file.name}: {error}; nothing more is written to it")
                self._file = None
        if important or self.serving or self._verbose:
            say(line)


def say(text: str) -> None:
    """One line to stderr: stdout belongs to data."""
    click.echo(text, err=True)


def _run(server: EmbeddedServer, show: LogView, policy: RecoveryPolicy) -> None:
    started = time.monotonic()
    say(f"starting Triton on {server.repository}")
    with server:
        assert server.installation is not None
        say(f"ready after {time.monotonic() - started:.1f} s ({server.installation.name})")
        say(f"  HTTP     http://{server.http_url}")
        say(f"  gRPC     {server.grpc_url}")
        say(f"  metrics  {server.metrics_url}")
        say(f"{_what_to_try(server.repository, server.http_url)}   (Ctrl-C stops)")
        show.serving = True
        speak = _speaker(server.http_url) if policy.probe else None
        Supervisor(server, policy, say, speak).run()
        show.serving = False
        say("stopping: requests under way are finished first")
    say("stopped")


def _speaker(url: str) -> Callable[[], None]:
    def speak() -> None:
        with Client(url, timeout=OWN_PROBE_TIMEOUT) as client:
            probe(client)

    return speak


def _what_to_try(repository: Path, url: str) -> str:
    """A command that speaks with the voices that there are."""
    served = served_voices(repository)
    names = VoiceFolder(served.folder).names() if served else []
    if served and not names:
        return (
            f"no voices in {served.folder}; add one: gsv voices add NAME --reference FILE "
            f"--text TEXT --language LANGUAGE --voices {served.folder}"
        )
    voice = ""
    if served and served.default.partition("/")[0] not in names:
        if served.default:
            say(f"warning: the default voice {served.default} is not in {served.folder}")
        voice = f" --voice {names[0]}"
    return f'try: gsv say "Hello there."{voice} --url {url} -o hello.wav'


def _progress() -> Callable[[str, int, int], None]:
    started = time.monotonic()

    def tell(name: str, ready: int, models: int) -> None:
        say(f"{time.monotonic() - started:6.1f} s  {name} is ready ({ready} of {models})")

    return tell


def _opened(path: Path | None) -> contextlib.AbstractContextManager[IO[str] | None]:
    if path is None:
        return contextlib.nullcontext()
    return path.open("a", encoding="utf-8")


@contextlib.contextmanager
def _signals_to(server: EmbeddedServer) -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        server.interrupt()

    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
