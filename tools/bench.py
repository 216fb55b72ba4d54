"""The load test behind `make bench`: serve demo weights and run `gsv bench` against them.

    .venv/bin/python tools/bench.py [--size voice|tiny|full] [--dtype auto] [options of gsv bench]

Writes out/bench.json and plots into out/: whole answers and streams, one and four callers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
from demo_server import OUT, SIZES, demo_server, voice_of

from gsv.errors import GsvError


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--size", type=click.Choice(SIZES), default="tiny", show_default=True)
@click.option("--dtype", default="float32", show_default=True, help="Of both generators.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(size: str, dtype: str, options: tuple[str, ...]) -> None:
    """Measure demo weights on this machine; OPTIONS go to gsv bench."""
    OUT.mkdir(exist_ok=True)
    try:
        with demo_server(size, dtype) as server:
            command = [str(Path(sys.executable).parent / "gsv"), "bench", "--unary", "--stream"]
            address = [f"--url=grpc://{server.grpc_url}", f"--metrics-url={server.metrics_url}"]
            files = [f"--output={OUT / 'bench.json'}", f"--plots={OUT}"]
            load = ["--concurrency=1,4", "--requests=12", f"--voice={voice_of(size)}"]
            done = subprocess.run([*command, *address, *files, *load, *options])
    except (GsvError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if done.returncode:
        raise click.ClickException("gsv bench failed; its message stands above")


if __name__ == "__main__":
    main()
