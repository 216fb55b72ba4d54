"""Makes the whole voice with one command: on a GPU in minutes, on a processor over nights.

    export PYTHONPATH=backend:client
    python tools/demo_voice/train_all.py --device cuda --minutes 9 --bundle build/demo_voice_bundle
    python tools/demo_voice/train_all.py --minutes 960

With a bundle nothing else is needed but PyTorch, NumPy, SciPy, transformers and click. On a GPU all
steps train side by side, each until the time is over: small networks leave most of a GPU idle, and
NVIDIA's MPS, where it can be had, lets their kernels run at once. On a processor one after another
gets its share of the minutes. Stopped and called again, it goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import bundle as bundles
import click
import places

from gsv.serving.server import gpus, mps

TOOLS = Path(__file__).resolve().parent
SHARES = {"gpt": 0.34, "sovits": 0.32, "vocoder": 0.26, "hubert": 0.08}  # on a processor
_EXPORT_SECONDS = 25  # kept for the export at the end
_SHORTER = {"hubert": 0.4}  # share of a GPU's time after which a step has learned enough
# Options beside other steps on a GPU, which the full adversary would leave little of.
_IN_COMPANY = {"vocoder": ("--adversary", "light")}
_THREADS = 2  # of each step on a GPU's machine
_GRACE = 60.0  # seconds that a step has to save its state when it is stopped


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one call is to do."""

    device: str
    minutes: float
    steps: int | None
    processes: int
    parts: int
    started: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Minutes that training still has."""
        return self.minutes - (time.monotonic() - self.started + _EXPORT_SECONDS) / 60

    def limit(self, minutes: float) -> list[str]:
        """The options that end a step."""
        options = ["--device", self.device, "--minutes", f"{max(minutes, 0.05):.3f}"]
        return options if self.steps is None else [*options, "--steps", str(self.steps)]


def command(step: str, *options: str) -> list[str]:
    """Of one script of this folder."""
    return [sys.executable, str(TOOLS / f"{step}.py"), *options]


def run_all(commands: Sequence[list[str]], environment: dict[str, str]) -> None:
    """Run commands side by side; if one fails, the others are stopped, and its name is told."""
    with contextlib.ExitStack() as stack:
        running = {
            Path(one[1]).stem: stack.enter_context(_process(one, environment)) for one in commands
        }
        while any(process.poll() is None for process in running.values()):
            failed = [name for name, process in running.items() if process.poll()]
            if failed:
                raise click.ClickException(f"{', '.join(failed)} failed; its message stands above")
            time.sleep(0.2)
        failed = [name for name, process in running.items() if process.returncode]
    if failed:
        raise click.ClickException(f"{', '.join(failed)} failed; its message stands above")


@contextlib.contextmanager
def _process(one: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(one, env=environment)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def prepare(bundle: Path | None) -> dict[str, str]:
    """The environment of all steps; a bundle is unpacked once."""
    environment = dict(os.environ)
    paths = [str(places.ROOT / "backend"), str(places.ROOT / "client")]
    if bundle is not None:
        engines, site = places.RUN / "engines", places.RUN / "site"
        if not (places.RUN / "codebook.npz").is_file() or not site.is_dir():
            bundles.unpack(bundle, places.RUN, engines, site)
        environment["DEMO_VOICE_ENGINES"] = str(engines)
        paths.append(str(site))
    paths.append(environment.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["DEMO_VOICE_RUN"] = str(places.RUN)
    environment.setdefault("OMP_NUM_THREADS", str(_THREADS))
    return environment


def make_corpus(plan: Plan, bundled: bool, count: int, environment: dict[str, str]) -> None:
    """The corpus and its tokens; with a bundle only the waves."""
    options = ["--processes", str(plan.processes)]
    options += ["--again", "--most", str(plan.parts)] if bundled else ["--count", str(count)]
    run_all([command("corpus", *options)], environment)
    if not (places.RUN / "corpus_tokens.npz").is_file():
        run_all([command("codes", "--processes", str(plan.processes))], environment)


def side_by_side(plan: Plan, bundled: bool, count: int, environment: dict[str, str]) -> None:
    """On a GPU. The GPT needs no waves, so it begins before they are there."""
    if not bundled:
        make_corpus(plan, bundled, count, environment)
    with _mps() as variables:
        shared = environment | variables
        with _process(command("gpt", *plan.limit(plan.left)), shared) as gpt:
            if bundled:
                make_corpus(plan, bundled, count, environment)
            others = [step for step in SHARES if step != "gpt"]
            minutes = {step: _SHORTER.get(step, 1.0) * plan.left for step in others}
            run_all(
                [
                    command(step, *plan.limit(minutes[step]), *_IN_COMPANY.get(step, ()))
                    for step in others
                ],
                shared,
            )
            if gpt.wait():
                raise click.ClickException("gpt failed; its message stands above")


@contextlib.contextmanager
def _mps() -> Iterator[dict[str, str]]:
    """What processes that share the GPU must have in their environment; a daemon meanwhile."""
    daemon = mps.start("auto", gpus.listed(), click.echo)
    try:
        yield {} if daemon is None else daemon.environment
    finally:
        if daemon is not None:
            daemon.stop()


def in_turn(plan: Plan, bundled: bool, count: int, environment: dict[str, str]) -> None:
    """On a processor, whose minutes are the steps' own processor time."""
    make_corpus(plan, bundled, count, environment)
    for step, share in SHARES.items():
        run_all([command(step, *plan.limit(plan.minutes * share))], environment)


@click.command()
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option(
    "--minutes",
    default=960.0,
    show_default=True,
    help="Of the clock on a GPU, everything included; else of processor time.",
)
@click.option("--steps", type=int, help="Stop each step after so many; for rehearsals.")
@click.option("--bundle", type=click.Path(exists=True, path_type=Path), help="From bundle.py.")
@click.option("--count", default=4_500, show_default=True, help="Texts a teacher, if no bundle.")
@click.option(
    "--parts",
    default=25,
    show_default=True,
    help="Hundreds of each teacher's texts whose sound is learned too, if from a bundle.",
)
@click.option("--processes", type=int, help="That speak the corpus; by default all cores but two.")
@click.option("--out", type=click.Path(path_type=Path), default=places.RUN / "demo_voice",
              help="For the finished voice.")  # fmt: skip
def main(
    device: str, minutes: float, steps: int | None, bundle: Path | None, count: int,
    parts: int, processes: int | None, out: Path,
) -> None:  # fmt: skip
    """Make the voice."""
    # As an exception, so that the steps are stopped too and save what they have.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    plan = Plan(device, minutes, steps, processes or max(1, (os.cpu_count() or 1) - 2), parts)
    places.RUN.mkdir(parents=True, exist_ok=True)
    environment = prepare(bundle)
    way = side_by_side if device == "cuda" else in_turn
    way(plan, bundle is not None, count, environment)
    run_all([command("export", "--out", str(out))], environment)
    for step in SHARES:
        click.echo(f"{step}: {json.loads((places.RUN / f'{step}.json').read_text())}")
    click.echo(f"{(time.monotonic() - plan.started) / 60:.1f} minutes; the voice is in {out}")


if __name__ == "__main__":
    main()
