"""Whether an alignment tells swallowed and repeated speech from good speech.

    python -m gsv.bench coverage build/demo_voice/model_repository --language en

Draws the calibration's sentences, keeps those that the guard finds good, and spoils copies of them:
the tokens of some phonemes are taken out, said twice, or the end is missing. Each measure of the
alignment is then asked, at every threshold, how many spoiled ones it finds and how many of those
that it finds are spoiled.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from gsv.commands.calibrate import Checkpoint, Drawn
from gsv.commands.calibration_texts import TEXTS
from gsv.engine.gpt.alignment import Alignment
from gsv.engine.gpt.judge import BoundsTable, Judge

KINDS = ("swallowed 2", "swallowed 4", "swallowed 8", "repeated 4", "repeated 8", "no end")
MOST_FALSE = 0.01  # share of good sentences that a signal may find
Measure = Callable[[Alignment], float]
# What grows with trouble.
MEASURES: dict[str, Measure] = {
    "passed_over": lambda found: found.passed_over / (len(found.borders) - 1),
    "jump_back": lambda found: float(found.jump_back),
    "distrust": lambda found: 1 - found.confidence,
}


@dataclasses.dataclass(frozen=True)
class Figures:
    """How well a measure finds one kind of trouble, at the best threshold with few false alarms.

    Attributes:
        threshold: from which on it is an alarm.
        recall: share of spoiled sentences that are found.
        precision: share of spoiled ones among those found, where both kinds are as frequent.
        false_alarms: share of good sentences that are found.
    """

    threshold: float
    recall: float
    precision: float
    false_alarms: float


def spoil(kind: str, tokens: NDArray[np.int32], borders: NDArray[np.float64]) -> NDArray[np.int32]:
    """A copy of a sentence with trouble in its middle, or without its end.

    Args:
        kind: one of ``KINDS``; the number is of phonemes.
        tokens: int32 [T].
        borders: float64 [P + 1], where its phonemes begin and the last one ends, in tokens.
    """
    what, _, number = kind.partition(" ")
    phonemes = len(borders) - 1
    if what == "no":
        return tokens[: int(borders[-1] * 0.7)]
    count = min(int(number), phonemes - 2)
    first = max(1, (phonemes - count) // 2)
    begin, end = round(borders[first]), round(borders[first + count])
    times = 0 if what == "swallowed" else 2
    return np.concatenate([tokens[:begin], *[tokens[begin:end]] * times, tokens[end:]])


def judge(good: Sequence[float], spoiled: Sequence[float]) -> Figures:
    """The figures of a measure at the lowest threshold that keeps false alarms rare."""
    thresholds = sorted({*good, *spoiled})
    for threshold in (*thresholds, thresholds[-1] + 1):
        false = float(np.mean(np.array(good) >= threshold))
        if false <= MOST_FALSE:
            break
    recall = float(np.mean(np.array(spoiled) >= threshold))
    precision = recall / (recall + false) if recall else 0.0
    return Figures(threshold, recall, precision, false)


def is_good(sentence: Drawn, table: BoundsTable) -> bool:
    """Whether the guard finds nothing wrong with it."""
    limits = table.limits({sentence.language: sentence.phonemes}, sentence.silent)
    judge = Judge(limits)
    judge.read(sentence.tokens.tolist())
    return not judge.end().signals


def measure(
    checkpoint: Checkpoint, language: str, texts: Sequence[str], seeds: int
) -> tuple[int, dict[str, dict[str, Figures]]]:
    """How many good sentences there were; of each kind of trouble and each measure its figures."""
    table = BoundsTable.load(checkpoint.folder)
    drawn = checkpoint.draw(language, texts, range(1, seeds + 1))
    sentences = [one for one in drawn if is_good(one, table) and one.phonemes >= 10]
    found = [checkpoint.align(one, one.tokens) for one in sentences]
    good = {name: [of(one) for one in found] for name, of in MEASURES.items()}
    figures: dict[str, dict[str, Figures]] = {}
    for kind in KINDS:
        spoiled = [
            checkpoint.align(sentence, spoil(kind, sentence.tokens, alignment.borders))
            for sentence, alignment in zip(sentences, found, strict=True)
        ]
        figures[kind] = {
            name: judge(good[name], [of(one) for one in spoiled]) for name, of in MEASURES.items()
        }
    return len(sentences), figures


@click.command()
@click.argument("repository", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--voice", default="", help="That speaks.  [default: the repository's]")
@click.option("--language", default="en", show_default=True, type=click.Choice(sorted(TEXTS)))
@click.option("--seeds", default=10, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(repository: Path, voice: str, language: str, seeds: int, as_json: bool) -> None:
    """Measure an alignment's precision and recall as a signal of the guard."""
    checkpoint = Checkpoint(repository, voice, "cpu")
    try:
        count, figures = measure(checkpoint, language, TEXTS[language], seeds)
    finally:
        checkpoint.close()
    if as_json:
        plain = {k: {n: dataclasses.asdict(f) for n, f in v.items()} for k, v in figures.items()}
        click.echo(json.dumps({"sentences": count, "kinds": plain}))
        return
    click.echo(f"{count} good sentences; false alarms at most {MOST_FALSE:.0%}")
    for kind, measured in figures.items():
        for name, one in measured.items():
            click.echo(
                f"{kind:12} {name:12} from {one.threshold:5.2f}: recall {one.recall:4.0%}, "
                f"precision {one.precision:4.0%}, false alarms {one.false_alarms:5.1%}"
            )
