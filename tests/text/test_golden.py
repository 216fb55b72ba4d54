"""Phoneme for phoneme as upstream, counted by ``gsv.text.agreement``."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from golden_text import golden_text_dir, text_data_dir, text_frontend

from gsv.text.agreement import Report, compare

FILES = sorted(golden_text_dir().glob("*.jsonl"))
EXACT = {"cut", "pre_seg", "punct", "helpers"}  # splitting and marks need no data
# Per cent that a first attempt reached with the data of Python packages alone.
PACKAGES_ONLY = {"zh": 95.7, "en": 80.8, "ja": 57.0, "ko": 100.0, "yue": 91.9, "mixed": 82.5}


def demanded(name: str) -> float:
    """The share of exact cases that a file must reach, in per cent."""
    if name in EXACT:
        return 100.0
    if text_data_dir() is not None:
        return 99.0
    return PACKAGES_ONLY.get(name.removesuffix("_clean"), min(PACKAGES_ONLY.values()))


@pytest.mark.golden_text
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_agreement(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = compare(text_frontend(), path)
    with capsys.disabled():
        sys.stdout.write(f"\n{report.line()}\n")
    assert report.cases.total + report.substitutes.total > 0, f"{path} has no cases"
    assert report.cases.percent >= demanded(report.name), _mismatches(report)
    if text_data_dir() is not None:
        for mode, tally in report.modes.items():
            assert tally.percent >= demanded(report.name), f"{mode}: {_mismatches(report)}"


def _mismatches(report: Report) -> str:
    return "\n".join(
        f"{name} {text[:60]!r}\n  here     {ours}\n  upstream {theirs}"
        for name, text, ours, theirs in report.mismatches
    )


def test_a_wrong_answer_is_counted(tmp_path: Path) -> None:
    """The count itself can fail: a case whose ids are another's is a mismatch."""
    path = tmp_path / "en.jsonl"
    case = '{"id": "1", "text": "Hello there.", "lang": "en", "ids": [1], "word2ph": null, %s}\n'
    path.write_text(case % '"oracle": "reference"' + case % '"oracle": "reference-substitute:x"')
    report = compare(text_frontend(), path)
    assert (report.cases.exact, report.cases.total) == (0, 1)
    assert (report.substitutes.exact, report.substitutes.total) == (0, 1)
    assert [name for name, *_ in report.mismatches] == ["1", "1"]
