"""The list of differences on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_text import text_frontend

from gsv.text.agreement import compare
from gsv.text.differences import DIFFERENCES, table


def test_the_table_is_markdown() -> None:
    rows = table().splitlines()
    assert len(rows) == len(DIFFERENCES) + 2
    assert all(row.startswith("|") and row.endswith("|") and row.count("|") == 3 for row in rows)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("一" * 510, True),
        ("一，" * 300, False),
        ("会议9:30-10:15举行", True),
        ("比分9:30", False),
        ("3개, 13개", True),
        ("13개와 3개", True),
        ("31개와 3개", True),
        ("13개 4명", False),
        ("普通的一句话。Hello, 1 2 3!", False),
    ],
)
def test_only_texts_that_can_differ_are_set_apart(text: str, shown: bool) -> None:
    found = any(d.shows and d.shows.search(text) for d in DIFFERENCES)
    assert found is shown


def test_a_difference_on_purpose_is_counted_apart(tmp_path: Path) -> None:
    path = tmp_path / "zh_clean.jsonl"
    case = '{"id": "1", "text": "%s", "lang": "zh", "ids": [1], "word2ph": [1]}\n'
    path.write_text(case % "9:30-10:15" + case % "十点", encoding="utf-8")
    report = compare(text_frontend(), path)
    assert report.on_purpose == ["1"]
    assert report.cases.total == 1
