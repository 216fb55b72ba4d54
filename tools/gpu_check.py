"""Check and measure everything on one GPU in eight minutes, into one JSON file.

    PYTHONPATH=backend:client python tools/gpu_check.py --out gpu-check.json

Needs no installation and no network; docs/gpu-check.md says what it needs and what the file holds.
The steps run in a child process. One that hangs or takes the device down is noted, and the rest
goes on in a new child.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from gpu_steps.plan import STEPS, Step
from gpu_steps.report import BrokenDeviceError, Deadline, Report, Section, require_device

_ROOT = Path(__file__).resolve().parent.parent
_GRACE = 30.0  # seconds beyond a step's limit after which it hangs
_POLL = 0.5
_CPU_PATIENCE = 10.0  # as many times longer may a step take there
_BROKEN = 3  # exit code: go on in a new process
_LOG_LINES = 40  # of a step that are kept
_TAIL = 6000  # characters of a dead child's last words


@click.command()
@click.option("--device", default="cuda:0", show_default=True, help="Or cpu.")
@click.option("--dtype", default="", help="Of speed measurements.  [bfloat16; float32 on a CPU]")
@click.option(
    "--quick", is_flag=True, help="Tiny networks, few repeats: does the check itself run?"
)
@click.option("--steps", default="", help="Names with commas between them.  [all]")
@click.option(
    "--profile", is_flag=True, help="The step of kernel tables, and what it needs, alone."
)
@click.option("--minutes", default=8.0, show_default=True, help="Later steps are skipped.")
@click.option("--out", default="gpu-check.json", show_default=True, type=click.Path(path_type=Path))
@click.option(
    "--work", type=click.Path(path_type=Path), help="Folder for weights, to be used again."
)
@click.option("--child", is_flag=True, hidden=True)
def main(
    device: str,
    dtype: str,
    quick: bool,
    steps: str,
    profile: bool,
    minutes: float,
    out: Path,
    work: Path | None,
    child: bool,
) -> None:
    """Run the steps on DEVICE and print the goals and parity."""
    chosen = _chosen("weights,profile" if profile and not steps else steps)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    if child:
        assert work is not None
        sys.exit(_run_steps(device, dtype, quick, chosen, Deadline(60 * minutes), out, work))
    out.unlink(missing_ok=True)
    begun, report = time.monotonic(), Report(out)
    report.content["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    report.content["gsv"] = _version()
    report.save()
    with _folder(work) as folder:
        settings = ["--device", device, "--dtype", dtype, "--work", str(folder)]
        _supervise([*settings, *(["--quick"] if quick else [])], chosen, 60 * minutes, out)
    report = Report(out)
    report.content["seconds"] = time.monotonic() - begun
    _close(report, chosen, minutes)
    from gpu_steps.table import table

    click.echo(table(report))
    click.echo(f"\nwritten: {out}")


def _version() -> str:
    text = (_ROOT / "backend" / "gsv" / "__init__.py").read_text(encoding="utf-8")
    return text.partition('__version__ = "')[2].partition('"')[0]


def _chosen(names: str) -> list[Step]:
    known = {step.name: step for step in STEPS}
    wanted = [name for name in names.split(",") if name] or list(known)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise click.BadParameter(f"{unknown}; allowed: {', '.join(known)}", param_hint="--steps")
    return [step for step in STEPS if step.name in wanted]


@contextlib.contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    """``given``, which stays, or a temporary folder."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="gpu-check.") as name:
        yield Path(name)


def _supervise(settings: list[str], steps: list[Step], seconds: float, out: Path) -> None:
    """Children until every step has been through or the time is up."""
    deadline = Deadline(seconds)
    patience = _CPU_PATIENCE if "cpu" in settings else 1.0
    limits = {step.name: patience * step.limit for step in steps}
    left = [step.name for step in steps]
    while left and deadline.left > 0:
        with tempfile.TemporaryFile("w+") as said:
            command = [
                *(sys.executable, str(Path(__file__).resolve()), "--child", *settings),
                *("--steps", ",".join(left), "--minutes", f"{deadline.left / 60:.4f}"),
                *("--out", str(out)),
            ]
            process = subprocess.Popen(command, stderr=said)
            try:
                hung = _watch(process, limits, deadline, out)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            words = said.read()
        if process.returncode == 0 and not hung:
            sys.stderr.write("".join(_heard(words))[-_TAIL:])
            return
        left = _after_death(left, process.returncode, hung, words, out)


def _watch(
    process: subprocess.Popen[bytes], limits: dict[str, float], deadline: Deadline, out: Path
) -> bool:
    """Wait for a child; true when it hung and was told to die."""
    since = time.monotonic()
    running = ""
    while process.poll() is None:
        time.sleep(_POLL)
        now = _running(Report(out)) if out.is_file() else ""
        if now != running:
            running, since = now, time.monotonic()
        allowed = limits.get(running, 60.0) + _GRACE
        if time.monotonic() - since > allowed or deadline.left < -_GRACE:
            process.send_signal(6)  # SIGABRT: faulthandler writes where each thread stands
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            return True
    return False


def _running(report: Report) -> str:
    names = [n for n, step in report.content["steps"].items() if step.get("status") == "running"]
    return names[-1] if names else ""


def _after_death(left: list[str], code: int, hung: bool, words: str, out: Path) -> list[str]:
    """Note how a child ended; the steps that are still to be done."""
    report = Report(out)
    running = _running(report)
    how = "hung" if hung else f"ended with {code}"
    if running:
        step = report.content["steps"][running]
        step["status"] = "broken"
        step.setdefault("errors", {})["process"] = f"the process {how}\n{words[-_TAIL:]}"
        report.save()
    done = report.content["steps"]
    after = [name for name in left if name not in done]
    if len(after) == len(left):  # it died before any step: so would the next one
        report.content.setdefault("failures", []).append(f"the process {how}\n{words[-_TAIL:]}")
        report.save()
        return []
    return after


def _run_steps(
    device: str,
    dtype: str,
    quick: bool,
    steps: list[Step],
    deadline: Deadline,
    out: Path,
    work: Path,
) -> int:
    """The child: every step in turn; the exit code."""
    faulthandler.enable()
    report = Report(out)
    from gpu_steps.setup import Setup, has_weights, prepare_device

    setup = Setup(device, dtype, quick, work)
    prepare_device(device)
    report.content["options"] = {"device": device, "dtype": dtype, "quick": quick}
    if not has_weights(setup, setup.size) and "weights" not in [step.name for step in steps]:
        steps = _chosen(",".join(["weights", *(step.name for step in steps)]))
    for step in steps:
        content = report.content["steps"].setdefault(step.name, {})
        if deadline.left <= 0:
            content["status"] = "skipped: no time left"
            report.save()
            continue
        content |= {"status": "running", "title": step.title, "limit_s": step.limit}
        report.save()
        click.echo(f"{step.name}: {step.title}")
        started = time.monotonic()
        limit = step.limit * (_CPU_PATIENCE if device == "cpu" else 1)
        section = Section(report, step.name, Deadline(min(limit, deadline.left)))
        try:
            with _logged(content):
                step.run(setup, section, report)
            require_device()
            content["status"] = "done"
        except BrokenDeviceError as error:
            section.note("errors", "device", f"the device answers no more: {error}")
            content |= {"status": "broken", "seconds": time.monotonic() - started}
            report.save()
            return _BROKEN
        except Exception:  # one step's fault must not hide what the others find
            section.note("errors", "step", traceback.format_exc())
            content["status"] = "failed"
        content["seconds"] = time.monotonic() - started
        report.save()
        _tidy()
    return 0


def _heard(words: str) -> list[str]:
    """Lines of a child's stderr without those of the profiler's start and stop."""
    return [line for line in words.splitlines(True) if not line.startswith("USDT:")]


@contextlib.contextmanager
def _logged(content: dict[str, Any]) -> Iterator[None]:
    """Keep the product's warnings, such as of a capture that failed, with the step."""
    handler = _Lines(logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        if handler.lines:
            content["log"] = handler.lines


class _Lines(logging.Handler):
    """The first lines of the log."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if len(self.lines) < _LOG_LINES:
            self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()[:400]}")


def _tidy() -> None:
    from gpu_steps.setup import tidy

    tidy()


def _close(report: Report, steps: list[Step], minutes: float) -> None:
    """Name what never ran, and the goals."""
    from gpu_steps.goals import evaluate

    for step in steps:
        if step.name not in report.content["steps"]:
            why = f"not run: {minutes:g} minutes were up, or the process died before"
            report.content["steps"][step.name] = {"status": why}
    evaluate(report)


if __name__ == "__main__":
    # Compilers of kernels and the like write where they please; not into the caller's tree.
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    main()
