"""Engine and flow in two processes on one device: what each loses, without MPS and with it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from gpu_steps import ROOT, estimator
from gpu_steps import setup as networks
from gpu_steps.report import Report, Section
from gpu_steps.sentences import generate, sentence
from gpu_steps.setup import Setup
from gsv.engine.flow.engine import FlowEngine
from gsv.engine.gpt.engine import Engine

CONTROL = "nvidia-cuda-mps-control"
_READY_SECONDS = 60.0
_TOKENS = 100


def run(setup: Setup, section: Section, report: Report) -> None:
    """Each alone, both at once, and the same under a daemon of our own."""
    section.attempt("without_mps", lambda: contention(setup, {}), needed=setup.pick(20, 0))
    section.attempt("with_mps", lambda: with_mps(setup), needed=setup.pick(20, 0))


def contention(setup: Setup, environment: dict[str, str]) -> dict[str, Any]:
    """Rates of each process alone and of both at once."""
    seconds = setup.pick(2.0, 0.2)
    with contextlib.ExitStack() as stack:
        both = {name: stack.enter_context(_Process(setup, name, environment)) for name in WORKERS}
        for process in both.values():
            process.read(_READY_SECONDS)
        found: dict[str, Any] = {}
        for name, process in both.items():
            process.go(seconds)
            found[f"{name}_alone"] = process.read(seconds + 20)
        for process in both.values():
            process.go(seconds)
        for name, process in both.items():
            found[f"{name}_beside"] = process.read(seconds + 20)
    for name in WORKERS:
        alone, beside = (found[f"{name}_{way}"]["per_second"] for way in ("alone", "beside"))
        found[f"{name}_slower"] = alone / beside if beside else 0.0
    return found


def with_mps(setup: Setup) -> dict[str, Any]:
    """The same under a daemon with its own pipe folder."""
    if not setup.on_gpu or shutil.which(CONTROL) is None:
        return {"refused": f"no {CONTROL} here" if setup.on_gpu else "no CUDA device"}
    with mps_daemon(setup) as (environment, refused):
        if refused:
            return {"refused": refused}
        try:
            found = contention(setup, environment)
        finally:
            log = Path(environment["CUDA_MPS_LOG_DIRECTORY"])
            tail = _tail(log / "server.log") or _tail(log / "control.log")
        return found | {"log": tail}


@contextlib.contextmanager
def mps_daemon(setup: Setup) -> Iterator[tuple[dict[str, str], str]]:
    """A daemon of our own: the variables of its clients, and why there is none (or "")."""
    with tempfile.TemporaryDirectory(prefix="mps.", dir=setup.folder) as folder:
        environment = {
            "CUDA_MPS_PIPE_DIRECTORY": f"{folder}/pipe",
            "CUDA_MPS_LOG_DIRECTORY": f"{folder}/log",
        }
        for path in environment.values():
            Path(path).mkdir()
        every = {**os.environ, **environment}
        started = _control(["-d"], None, every)
        if started:
            yield environment, started
            return
        try:
            yield environment, ""
        finally:
            _control([], "quit -t 5\n", every)


def _control(arguments: list[str], commands: str | None, environment: dict[str, str]) -> str:
    """Empty when it went well."""
    try:
        done = subprocess.run(
            [CONTROL, *arguments],
            input=commands,
            env=environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{CONTROL} {' '.join(arguments)}: {error}"
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip() or "refused"


def _tail(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()[-10:]
    except OSError:
        return []


class _Process:
    """A worker: prints ``ready``, then one line for each time that it was told to go."""

    def __init__(self, setup: Setup, name: str, environment: dict[str, str]) -> None:
        arguments = [setup.device, setup.dtype, str(int(setup.quick)), str(setup.folder), name]
        self._errors = tempfile.TemporaryFile("w+", dir=setup.folder)  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gpu_steps.processes", *arguments],
            env={**os.environ, **environment, "PYTHONPATH": _path()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def go(self, seconds: float) -> None:
        """Work so long."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()

    def read(self, limit: float) -> Any:
        """What it says next."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], limit)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            self._errors.seek(0)
            why = self._errors.read()[-2000:] or f"nothing said for {limit:g} s"
            raise RuntimeError(f"a worker failed: {why}")
        return json.loads(line)


def _path() -> str:
    folders = [str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(folder for folder in folders if folder)


def engine_worker(setup: Setup) -> Callable[[], float]:
    """Sentences one after the other; tokens of each."""
    engine = Engine(networks.gpt(setup), setup.device, setup.torch_dtype, 4, max_length=1024)
    engine.warm_up()
    engine.start()
    request = sentence(networks.gpt_config(setup), 1, setup.pick(_TOKENS, 4))
    work = functools.partial(generate, engine, [request])
    work()
    return lambda: float(len(work()[0].tokens))


def flow_worker(setup: Setup) -> Callable[[], float]:
    """Eight jobs of eight steps at once; steps of all."""
    flow = networks.sovits(setup, dtype=setup.torch_dtype).flow
    engine = FlowEngine(flow, slots=16)
    engine.start()
    rows, frames, steps = setup.pick((8, 576, 8), (2, 32, 2))
    jobs = estimator.jobs(setup, flow, rows, frames, steps)
    estimator.together(engine, jobs)
    return lambda: float(len(estimator.together(engine, jobs)) * steps)


WORKERS = {"engine": engine_worker, "flow": flow_worker}


def main(device: str, dtype: str, quick: str, folder: str, name: str) -> None:
    """One worker: reads seconds from stdin, writes a line of JSON for each."""
    networks.prepare_device(device)
    setup = Setup(device, dtype, bool(int(quick)), Path(folder))
    torch.set_num_threads(1)
    work = WORKERS[name](setup)
    sys.stdout.write(json.dumps("ready") + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        limit, started, done = float(line), time.perf_counter(), 0.0
        while time.perf_counter() - started < limit:
            done += work()
        rate = done / (time.perf_counter() - started)
        sys.stdout.write(json.dumps({"per_second": rate}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
