"""``python -m gsv.bench``: stages in one process, beside plain float32 and the machine's limit."""

from __future__ import annotations

import click

from gsv.bench import acoustic, coverage, drawn, guard, kernels, semantic, turns, voices


@click.group()
def main() -> None:
    """Measure a stage with random weights of full size."""


main.add_command(semantic.main, "semantic")
main.add_command(acoustic.main, "acoustic")
main.add_command(kernels.main, "kernels")
main.add_command(turns.main, "turns")
main.add_command(voices.main, "voices")
main.add_command(guard.main, "guard")
main.add_command(coverage.main, "coverage")
main.add_command(drawn.main, "drawn")

if __name__ == "__main__":
    main(prog_name="python -m gsv.bench")
