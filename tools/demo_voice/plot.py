"""Draws what the steps logged: one curve a loss, all steps in one picture.

    .venv/bin/python tools/demo_voice/plot.py

Writes ``<run>/curves.png``.
"""

from __future__ import annotations

import csv

import click
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import places

_STEPS = ("hubert", "gpt", "sovits", "vocoder")


@click.command()
def main() -> None:
    """Draw the curves of the steps that have run."""
    paths = {step: places.RUN / f"{step}.csv" for step in _STEPS}
    found = {step: path for step, path in paths.items() if path.is_file()}
    if not found:
        raise click.ClickException(f"{places.RUN}: no step has logged anything")
    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axis, (step, path) in zip(axes[0], found.items(), strict=True):
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for name in rows[0]:
            if name != "step":
                steps = [int(row["step"]) for row in rows]
                axis.plot(steps, [float(row[name]) for row in rows], label=name)
        axis.set(title=step, xlabel="step", yscale="log")
        axis.legend()
    figure.tight_layout()
    figure.savefig(places.RUN / "curves.png", dpi=80)


if __name__ == "__main__":
    main()
