"""Streams from a real Triton: first audio and throughput as its clients hear them."""

from __future__ import annotations

import functools
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_steps import repository, server_archive
from gpu_steps import setup as networks
from gpu_steps.listening import Listened, Parallel, listen, summary
from gpu_steps.machine import smi
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup

SENTENCE_TOKENS = 125  # five seconds
SENTENCES = 3
_ANSWER_SECONDS = 120.0
_READY_SECONDS = 240.0


def run(setup: Setup, site: Path, modes: Sequence[str], section: Section, report: Report) -> None:
    """Make a repository, serve it, listen over each protocol, stop.

    Args:
        setup: the run.
        site: folder with the unpacked server.
        modes: of MPS, each served in turn: ``off``, ``on``.
        section: of the report.
        report: the whole.
    """
    if not networks.has_weights(setup, setup.size):
        section.attempt("weights_s", functools.partial(_weights, setup))
    section.attempt("libpython", lambda: getattr(server_archive.libpython(), "name", "missing"))
    tokens = setup.pick(SENTENCE_TOKENS, 30)
    folder = setup.folder / f"triton-{setup.size}"
    root = folder / "model_repository"
    section.attempt("models", lambda: models_of(repository.make(setup, folder, tokens)))
    if "models" not in section.results:
        return
    section.attempt("stub", lambda: stub(site))
    for mode in modes:
        name = "serve" if mode == "off" else f"serve_mps_{mode}"
        serving = functools.partial(serve, setup, root, section, mode)
        section.attempt(name, serving, needed=setup.pick(30, 0))


def models_of(root: Path) -> list[str]:
    """Names of a repository's models."""
    return sorted(config.parent.name for config in root.glob("*/config.pbtxt"))


def _weights(setup: Setup) -> float:
    started = time.perf_counter()
    networks.write_weights(setup, setup.size)
    return time.perf_counter() - started


def stub(site: Path) -> str:
    """What the stub's loader can't find, if anything: the commonest reason for a dead model."""
    from gsv.serving.server import installation

    found = installation.embedded(site / "cache")
    environment = {**os.environ, **found.environment}
    assert found.backend_directory is not None
    file = found.backend_directory / "python" / installation.STUB
    done = subprocess.run(
        ["ldd", str(file)], env=environment, capture_output=True, text=True, check=False
    )
    missing = [line.strip() for line in done.stdout.splitlines() if "not found" in line]
    return ", ".join(missing) or "complete"


def serve(setup: Setup, root: Path, section: Section, mps: str) -> dict[str, Any]:
    """Start, measure, stop; the log's important lines are kept whatever happens."""
    from gsv.serving.server.launcher import EmbeddedServer, ServerOptions

    log: list[str] = []

    def hear(line: str, important: bool) -> None:
        if important or "error" in line.lower():
            log.append(line[:400])

    os.environ["GSV_CACHE"] = str(setup.folder / "server-cache")
    ready_timeout = min(_READY_SECONDS, max(10.0, section.deadline.left))
    options = ServerOptions(ready_timeout=ready_timeout, mps=mps)
    server = EmbeddedServer(root, options, on_line=hear)
    prefix = "" if mps == "off" else f"mps_{mps}_"
    started = time.perf_counter()
    try:
        server.start()
        ready = time.perf_counter() - started
        section.put(f"{prefix}ready_s", ready)
        section.put(f"{prefix}memory", smi("memory.used,memory.total") if setup.on_gpu else "")
        measure(setup, section, {"grpc": server.grpc_url, "http": server.http_url}, prefix)
        section.put(
            f"{prefix}memory_after", smi("memory.used,memory.total") if setup.on_gpu else ""
        )
        stopping = time.perf_counter()
        server.stop()
        return {"ready_s": ready, "stop_s": time.perf_counter() - stopping}
    finally:
        server.stop(kill=True)
        section.put(f"{prefix}log", log[-40:])


def measure(setup: Setup, section: Section, addresses: dict[str, str], prefix: str) -> None:
    """One protocol after the other; gRPC first, since HTTP has samples as text."""
    loads = setup.pick(
        (("grpc", 1, 8, 6), ("grpc", 8, 8, 2), ("grpc", 32, 8, 1), ("grpc", 16, 8, 1),
         ("http", 1, 8, 4), ("http", 8, 8, 1), ("grpc", 1, 32, 2), ("grpc", 8, 32, 1)),
        (("grpc", 1, 2, 1), ("http", 1, 2, 1), ("grpc", 2, 2, 1)),
    )  # fmt: skip
    for protocol, count, steps, rounds in loads:
        if prefix and protocol == "http":
            continue  # the same server: one protocol will do
        name = f"{prefix}{protocol}_{count}_{steps}"
        ask = functools.partial(load, setup, protocol, addresses[protocol], count, steps)
        if count > 1 and setup.on_gpu:
            section.attempt(f"warm_{name}", functools.partial(ask, 1, 1), needed=3)
        elif rounds > 1 or not setup.on_gpu:
            section.attempt(f"cold_{name}", functools.partial(ask, 1, 1))
        section.attempt(name, functools.partial(ask, rounds, setup.pick(SENTENCES, 1)), needed=3)


def load(
    setup: Setup, protocol: str, address: str, count: int, steps: int, rounds: int, sentences: int
) -> dict[str, Any]:
    """``count`` callers at once, ``rounds`` answers each."""
    from gsv_client import Client

    with Client(address, protocol=protocol, timeout=_ANSWER_SECONDS) as client:

        def ask(caller: int) -> list[Listened]:
            return [
                listen(_chunks(client, sentences, 1000 * caller + turn, steps))
                for turn in range(rounds)
            ]

        return summary(Parallel(count, ask))


def _chunks(client: Any, sentences: int, seed: int, steps: int) -> Callable[[], Any]:
    def durations() -> Any:
        # No sentence ends by itself, and the guard would draw each one again.
        stream = client.stream(str(sentences), seed=seed, sample_steps=steps, guard=0)
        return (chunk.duration for chunk in stream)

    return durations
