"""Bounds from a checkpoint's own sentences."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gsv.checkpoints.prepare import GUARD_FILE
from gsv.commands.calibrate import FEWEST_SENTENCES, Drawn, draw_plot, fit
from gsv.commands.calibration_texts import TEXTS
from gsv.engine.gpt.judge import BOUNDS_FILE, LANGUAGES, Bounds, BoundsTable, Judge
from gsv.errors import ConfigurationError
from gsv_client.bench.quality import everyday_texts

RNG = np.random.default_rng(6)
SILENT = frozenset([2])


def sentence(ratio: float, phonemes: int = 40) -> Drawn:
    tokens = RNG.integers(3, 1024, round(ratio * phonemes)).astype(np.int32)
    return Drawn("en", phonemes, tokens, SILENT)


NORMAL = [sentence(ratio) for ratio in RNG.normal(2.4, 0.15, 200)]


def test_bounds_keep_what_is_normal_and_refuse_what_is_not() -> None:
    spoiled = [sentence(30), sentence(20), sentence(12), sentence(0.3)]
    bounds = fit([*NORMAL, *spoiled])
    assert bounds.expected == pytest.approx(2.4, abs=0.05)
    limits = BoundsTable({"en": bounds}).limits({"en": 40}, SILENT)
    for one, bad in [*((one, False) for one in NORMAL), *((one, True) for one in spoiled)]:
        judge = Judge(limits)
        judge.read(one.tokens.tolist())
        assert bool(judge.end().signals) == bad
    # Nothing gets longer than twice what is expected of a sentence of usual length.
    assert limits.most < 2.01 * limits.expected


def test_streaks_of_the_voice_get_room() -> None:
    held = np.concatenate([NORMAL[0].tokens, np.full(30, 500, np.int32)])
    voices = [dataclasses.replace(NORMAL[0], tokens=held)] * FEWEST_SENTENCES
    bounds = fit(voices)
    assert (bounds.run, bounds.loop) == (45, 44)
    assert fit(NORMAL).run == Bounds().run
    pauses = np.concatenate([NORMAL[0].tokens, np.full(40, 2, np.int32)])
    assert fit([dataclasses.replace(NORMAL[0], tokens=pauses)] * FEWEST_SENTENCES).silence == 60


def test_few_sentences_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="19 sentences are too few"):
        fit(NORMAL[:19])


def test_every_language_has_sentences() -> None:
    assert set(TEXTS) == set(LANGUAGES)
    assert all(len(texts) * 5 >= FEWEST_SENTENCES for texts in TEXTS.values())


def test_the_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "guard.png"
    draw_plot({"en": NORMAL}, BoundsTable({"en": fit(NORMAL)}), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_demo_voice_has_bounds_of_its_own() -> None:
    folder = Path(__file__).parents[2] / "demo_voice" / "pretrained"
    assert BoundsTable.load(folder).of("en") != Bounds()


def test_prepare_knows_the_file_by_its_name() -> None:
    assert GUARD_FILE == BOUNDS_FILE


def test_quality_is_measured_with_texts_that_nothing_was_calibrated_on() -> None:
    spoken = {text.text.lower() for text in everyday_texts()}
    assert not spoken & {text.lower() for texts in TEXTS.values() for text in texts}
