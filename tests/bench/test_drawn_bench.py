"""Counting bad sentences without making their sound."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from gsv.bench.drawn import counts, main
from gsv.checkpoints.demo import make_demo
from gsv.checkpoints.prepare import Files, prepare
from gsv.checkpoints.text_data import Sources
from gsv.engine.gpt.judge import Bounds, BoundsTable


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A prepared repository with tiny random weights, which holds every sentence for too short."""
    make_demo("tiny", tmp_path / "demo")
    made = tmp_path / "repository"
    prepare(
        Files.find(tmp_path / "demo"), made, voices=tmp_path / "voices", text=Sources(),
        replace=False, demo=True, report=lambda line: None,
    )  # fmt: skip
    bounds = BoundsTable({"en": Bounds(fewest=100.0, expected=101.0, most=102.0)})
    bounds.save(made / "semantic_gpt" / "1")
    return made


def test_what_counts_as_bad_long_and_drawn_again() -> None:
    fine = {"tokens": 20, "expected": 15.0, "drawn": 20, "retries": [], "signals": []}
    mended = {**fine, "drawn": 90, "retries": ["loop"]}
    endless = {**fine, "tokens": 31, "drawn": 93, "retries": ["limit"] * 2, "signals": ["limit"]}
    assert counts([fine, mended, endless]) == {
        "sentences": 3, "bad": 1, "long": 1, "retried": 2, "tokens": 71, "drawn": 203,
        "signals": {"limit": 1}, "causes": {"loop": 1, "limit": 2},
    }  # fmt: skip


def test_both_ways_are_drawn(repository: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.json"
    texts.write_text(json.dumps([{"text": "We walked slowly along the river."}, {"text": "Two."}]))
    asked = [str(repository), str(texts), "--voice", "sample", "--seeds", "2"]
    done = CliRunner().invoke(main, asked)
    assert done.exit_code == 0, done.output
    told = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert [one["guard"] for one in told] == [False, True]
    without, with_guard = told
    assert without["sentences"] == with_guard["sentences"] == 4  # two in all, two seeds
    assert without["retried"] == 0
    assert without["drawn"] == without["tokens"] > 0
    assert with_guard["bad"] == with_guard["retried"] == 4
    assert with_guard["drawn"] > with_guard["tokens"]
