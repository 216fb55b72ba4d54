"""Phoneme for phoneme as upstream, counted by ``gsv.text.parity``."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest
from golden_text import golden_text_dir, text_data_dir, text_frontend

from gsv.text.data_files import TextData
from gsv.text.frontend import TextFrontend
from gsv.text.parity import Report, compare

FILES = {path.stem: path for path in sorted(golden_text_dir().glob("*.jsonl"))}
EXACT = {"cut", "pre_seg", "punct", "helpers"}  # splitting and marks need no data
DEMANDED = 99.5  # per cent, of every file and of every language mode in it
# Per cent that a first attempt reached with what Python packages bring, substitutes included. Other
# cases than those it was tried on have other rare words: so much less is let pass there.
OTHER_CASES = 15.0
TRIED = {
    **{"zh": 161, "en": 125, "ja": 149, "ko": 142, "yue": 135, "mixed": 166},
    **{"zh_clean": 94, "en_clean": 94, "ja_clean": 87, "ko_clean": 83, "yue_clean": 79},
}
PACKAGES_ONLY = {
    **{"zh": 95.7, "en": 80.8, "ja": 57.0, "ko": 100.0, "yue": 91.9, "mixed": 82.5},
    **{"zh_clean": 100.0, "en_clean": 79.7, "ja_clean": 55.1, "ko_clean": 100.0},
    **{"yue_clean": 97.4},
}


@pytest.mark.golden_text
@pytest.mark.parametrize("name", FILES)
def test_parity(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if text_data_dir() is None and name not in EXACT:
        pytest.skip("needs upstream's text data: set GSV_TEXT_DATA")
    report = compare(text_frontend("upstream"), FILES[name])
    with capsys.disabled():
        sys.stdout.write(f"\n{report.line()}\n")
    assert report.cases.total + report.substitutes.total > 0, f"{FILES[name]} has no cases"
    assert report.cases.percent >= (100 if name in EXACT else DEMANDED), _mismatches(report)
    for mode, tally in report.modes.items():
        assert tally.percent >= DEMANDED, f"{mode}: {_mismatches(report)}"


@functools.cache
def packages_only() -> TextFrontend:
    return TextFrontend(TextData.of_packages(), reading="upstream")


@pytest.mark.golden_text
@pytest.mark.parametrize("name", sorted(FILES.keys() & PACKAGES_ONLY))
def test_parity_of_packages_alone(name: str) -> None:
    report = compare(packages_only(), FILES[name])
    if not report.cases.total + report.substitutes.total:
        pytest.skip("no such cases")
    exact = report.cases.exact + report.substitutes.exact
    total = report.cases.total + report.substitutes.total
    expected = PACKAGES_ONLY[name] - (0 if total == TRIED[name] else OTHER_CASES)
    assert 100 * exact / total >= expected, _mismatches(report)


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
    report = compare(text_frontend("upstream"), path)
    assert (report.cases.exact, report.cases.total) == (0, 1)
    assert (report.substitutes.exact, report.substitutes.total) == (0, 1)
    assert [name for name, *_ in report.mismatches] == ["1", "1"]
