"""Serve a real Triton on a GPU machine that has none, and stream from it.

    python tools/gpu_triton.py pack triton.tar.xz          (where nvidia-pytriton is installed)
    python tools/gpu_triton.py run triton.tar.xz --site SITE --out triton.json       (on the GPU)

The archive has the embedded tritonserver and its Python backend for one Python. The run makes a
repository with random weights of full size, whose text frontend and reference encoder are
placeholders with fixed answers, and starts the server as ``gsv serve`` does. See docs/gpu-check.md.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click
from gpu_steps import ROOT, own_python, server_archive
from gpu_steps.report import Deadline, Report, Section

FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Serve a real Triton on a GPU machine that has none."""


@main.command()
@click.argument("archive", type=FILE)
@click.option("--python", default="3.12", show_default=True, help="Of the machine that serves.")
@click.option("--wheels", type=FOLDER, help="Folder of wheels to take along.")
def pack(archive: Path, python: str, wheels: Path | None) -> None:
    """Write ARCHIVE (.tar.xz) with what serving needs."""
    try:
        packages = sorted(wheels.glob("*.whl")) if wheels else []
        size = server_archive.pack(archive, python, packages)
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{archive}: {size / 2**20:.1f} MiB")


@main.command()
@click.argument("archive", type=FILE)
@click.option("--device", default="cuda:0", show_default=True, help="Or cpu.")
@click.option("--dtype", default="", help="Of both generators.  [bfloat16; float32 on a CPU]")
@click.option("--quick", is_flag=True, help="Tiny networks and few requests.")
@click.option("--minutes", default=5.0, show_default=True, help="Later requests are skipped.")
@click.option(
    "--work",
    type=FOLDER,
    default=Path("build/gpu-check"),
    show_default=True,
    help="Folder for weights, repository and server; kept. May be that of gpu_check.py --work.",
)
@click.option(
    "--mps",
    type=click.Choice(["off", "on", "both"]),
    default="off",
    show_default=True,
    help="NVIDIA's Multi-Process Service; both serves twice.",
)
@click.option("--out", type=FILE, default=Path("gpu-triton.json"), show_default=True)
@click.option("--inner", is_flag=True, hidden=True)
def run(
    archive: Path,
    device: str,
    dtype: str,
    quick: bool,
    minutes: float,
    work: Path,
    mps: str,
    out: Path,
    inner: bool,
) -> None:
    """Unpack ARCHIVE, serve from it, and listen to streams."""
    work = work.absolute()
    site = work / "server"
    if not inner:
        _again_in_own_python(work / "python", site)
    started = time.monotonic()
    unpacked = _unpacked(archive, site)  # first: what is imported here may need its packages
    from gpu_steps import triton_streams
    from gpu_steps.machine import describe
    from gpu_steps.setup import Setup

    out.unlink(missing_ok=True)
    report = Report(out)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    setup = Setup(device, dtype, quick, work)
    report.content["options"] = {"device": device, "dtype": dtype, "quick": quick}
    report.content["started"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    report.content["machine"] = describe(setup)
    section = Section(report, "triton", Deadline(60 * minutes))
    section.put("unpacked_s", unpacked)
    modes = ["off", "on"] if mps == "both" else [mps]
    triton_streams.run(setup, site, modes, section, report)
    report.content["seconds"] = time.monotonic() - started
    report.save()
    click.echo(_table(report))


def _again_in_own_python(folder: Path, site: Path) -> None:
    """Run this command again with an interpreter whose packages the models' processes will see."""
    given = [Path(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    own = [ROOT / name for name in ("backend", "client", "tools")]
    site.mkdir(parents=True, exist_ok=True)
    python = own_python.make(folder, [*own, *given, site])
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.argv, "--inner"])


def _unpacked(archive: Path, site: Path) -> float:
    started = time.monotonic()
    if not (site / "pytriton").is_dir():
        server_archive.unpack(archive, site)
    return time.monotonic() - started


def _table(report: Report) -> str:
    """Loads, errors."""
    lines = [f"{'load':18}{'first ms':>10}{'p95':>8}{'smooth':>8}{'audio-s/s':>11}"]
    step = report.content["steps"]["triton"]
    for name, found in step["results"].items():
        if isinstance(found, dict) and "audio_s_per_s" in found:
            first = found["first_ms"]
            lines.append(
                f"{name:18}{first['p50']:10.0f}{first['p95']:8.0f}{found['smooth_share']:8.0%}"
                f"{found['audio_s_per_s']:11.1f}"
            )
    for kind in ("errors", "skipped"):
        for name, why in step.get(kind, {}).items():
            lines.append(f"{kind}: {name}: {why.strip().splitlines()[-1]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
