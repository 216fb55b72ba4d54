"""What one long answer does to a short stream, and the short streams to the long answer.

    .venv/bin/python tools/fair_turns.py [--size voice] [--instances 1] [--json FILE]

A listener asks for one sentence now and then: of an idle server, beside one whole answer of sixty
sentences, and beside four. The long answers are timed without the listener as well. What they
lose they may lose to the listener's own work, so that is measured too: a stream's share of the
machine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from demo_server import BUILD, SIZES, prepared, served, voice_of

from gsv.errors import GsvError
from gsv.serving.server import processes
from gsv.serving.server.launcher import EmbeddedServer
from gsv_client import Client, GsvClientError

SHORT = "Please open the window, it is warm in here."
LONG = "The train leaves at noon. We have to hurry, or we miss it. "  # two sentences
SENTENCES = 60
COUNT = "count: 1 kind: KIND_AUTO"


@click.command()
@click.option("--size", type=click.Choice(SIZES), default="tiny", show_default=True)
@click.option("--instances", default=1, show_default=True, help="Of each model with a network.")
@click.option("--steps", default=8, show_default=True, help="Of flow matching.")
@click.option(
    "--streams", default=20, show_default=True, help="Short streams of each kind, at the least."
)
@click.option("--every", default=2.0, show_default=True, help="Seconds between short streams.")
@click.option(
    "--beside", default=(1, 4), show_default=True, multiple=True, help="So many long answers."
)
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures there.")
def main(
    size: str,
    instances: int,
    steps: int,
    streams: int,
    every: float,
    beside: tuple[int, ...],
    file: Path | None,
) -> None:
    """Measure, and print the ratios."""
    options = {"voice": voice_of(size), "language": "en", "sample_steps": steps}
    cores = len(os.sched_getaffinity(0))
    try:
        with _instances(prepared(size), instances) as repository, served(repository) as server:
            listener = _Listener(server, options, every)
            for _ in range(3):
                listener.hear()
            used = _cpu_seconds(server)
            idle = [listener.hear() for _ in range(streams)]
            used = (_cpu_seconds(server) - used) / streams
            figures: dict[str, Any] = {"size": size, "instances": instances, "idle": _of(idle)}
            figures["stream_cpu_s"] = used
            click.echo(f"idle: {_told(idle)}, {used:.2f} CPU seconds each")
            for count in beside:
                alone = together = 0.0
                heard: list[float] = []
                while len(heard) < streams:
                    alone += _long_answers(server, options, count)
                    with listener.running(heard):
                        together += _long_answers(server, options, count)
                kept = alone / together
                taken = used * len(heard) / together / cores
                ratio = _p95(heard) / _p95(idle)
                click.echo(
                    f"beside {count} of {SENTENCES} sentences: {_told(heard)}, {ratio:.2f} times "
                    f"the idle p95; long answers {alone:.1f} s alone, {together:.1f} s with them "
                    f"({kept:.0%} of their throughput; the short streams take {taken:.0%} of "
                    f"{cores} cores)"
                )
                figures[f"beside {count}"] = _of(heard) | {
                    "p95_ratio": ratio, "alone_s": alone, "together_s": together, "kept": kept,
                    "taken": taken,
                }  # fmt: skip
    except (GsvError, GsvClientError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if file is not None:
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


class _Listener:
    """Asks for a short stream, and measures how soon it is heard."""

    def __init__(self, server: EmbeddedServer, options: dict[str, Any], every: float) -> None:
        self._url, self._options, self._every = server.grpc_url, options, every
        self._seed = 0

    def hear(self) -> float:
        """Seconds to the first audio of a stream, which is then heard to its end."""
        self._seed += 1
        with Client(self._url, protocol="grpc", timeout=300) as client:
            began = time.monotonic()
            first = 0.0
            for chunk in client.stream(SHORT, seed=self._seed % 5, **self._options):
                # The pause before the first sentence is silence.
                if not first and chunk.samples.any():
                    first = time.monotonic() - began
            return first

    @contextlib.contextmanager
    def running(self, heard: list[float]) -> Iterator[None]:
        """Streams every few seconds while the block runs; their seconds go to ``heard``."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(self._every):
                heard.append(self.hear())

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _long_answers(server: EmbeddedServer, options: dict[str, Any], count: int) -> float:
    """Seconds until so many long answers, asked for at once, have all come."""

    def say(seed: int) -> None:
        with Client(server.grpc_url, protocol="grpc", timeout=1200) as client:
            client.say(LONG * (SENTENCES // 2), seed=seed, **options)

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        list(pool.map(say, range(count)))
    return time.monotonic() - began


def _cpu_seconds(server: EmbeddedServer) -> float:
    """CPU seconds that the server and its models have used."""
    ticks = 0
    for pid in [server.pid, *(stub.pid for stub in processes.living_stubs(server.pid))]:
        # The name before the last bracket may hold blanks; user and system time are fields 14, 15.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _p95(seconds: list[float]) -> float:
    return sorted(seconds)[round(0.95 * (len(seconds) - 1))]


def _of(seconds: list[float]) -> dict[str, float]:
    return {"streams": len(seconds), "p50_s": statistics.median(seconds), "p95_s": _p95(seconds)}


def _told(seconds: list[float]) -> str:
    p50, p95 = statistics.median(seconds), _p95(seconds)
    return f"first audio {p50:.3f} s at p50, {p95:.3f} s at p95, of {len(seconds)} streams"


@contextlib.contextmanager
def _instances(repository: Path, count: int) -> Iterator[Path]:
    """The repository with so many instances of each model with a network, on the CPU."""
    if count == 1:
        yield repository
        return
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        for part in (repository, repository.parent / "voices"):
            shutil.copytree(part, Path(folder) / part.name)
        for config in (Path(folder) / repository.name).glob("*/config.pbtxt"):
            text = config.read_text(encoding="utf-8")
            config.write_text(text.replace(COUNT, f"count: {count} kind: KIND_CPU"))
        yield Path(folder) / repository.name


if __name__ == "__main__":
    main()
