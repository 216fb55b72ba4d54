"""The list of deviations from upstream on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_text import text_frontend

from gsv.text.data_files import TextData
from gsv.text.deviations import CORRECTIONS, DEVIATIONS, corrections_table, table
from gsv.text.parity import compare
from gsv.text.readings import Case, check


def test_the_documentation_has_the_tables() -> None:
    path = Path(__file__).parents[2] / "docs" / "upstream-differences.md"
    page = path.read_text(encoding="utf-8")
    for name, expected in (("deviations", table()), ("corrections", corrections_table())):
        _, _, rest = page.partition(f"<!-- {name}: gsv.text.deviations -->\n")
        assert rest.partition(f"<!-- end of {name} -->")[0] == expected


def test_the_tables_are_markdown() -> None:
    for made, count, columns in (
        (table(), len(DEVIATIONS), 2),
        (corrections_table(), len(CORRECTIONS), 4),
    ):
        rows = made.splitlines()
        assert len(rows) == count + 2
        assert all(row.startswith("|") and row.endswith("|") for row in rows)
        assert all(row.count("|") == columns + 1 for row in rows)


EXAMPLES = [example for correction in CORRECTIONS for example in correction.examples]


@pytest.mark.parametrize(("language", "text", "plain"), EXAMPLES)
def test_each_example_is_read_so_and_otherwise_by_upstream(
    language: str, text: str, plain: str
) -> None:
    if language in ("ja", "auto") and TextData.find().japanese_words is None:
        pytest.skip("upstream's Japanese dictionaries: python -m gsv.checkpoints.text_install")
    outcome = check(text_frontend(), Case("example", language, text, plain))
    assert outcome.right, f"{outcome.found}\n{outcome.expected}"
    theirs = check(text_frontend("upstream"), Case("example", language, text, plain))
    assert theirs.found != outcome.found


@pytest.mark.parametrize(
    ("text", "mode", "shown"),
    [
        ("一" * 510, "auto", True),
        ("一，" * 300, "auto", False),
        ("会议9:30-10:15举行", "auto", True),
        ("会议9:30-10:15举行", "all_yue", True),
        ("会议9:30-10:15举行", "ja", False),
        ("比分9:30", "auto", False),
        ("排行榜", "zh", True),
        ("排行榜", "all_ja", False),
        ("3개, 13개", "all_ko", True),
        ("3개, 13개", "zh", False),
        ("兙", "zh", False),
        ("3개, 13개", "auto", True),
        ("13개와 3개", "auto", True),
        ("31개와 3개", "auto", True),
        ("13개 4명", "auto", False),
        ("普通的一句话。Hello, 1 2 3!", "auto", False),
    ],
)
def test_only_texts_that_can_differ_are_set_apart(text: str, mode: str, shown: bool) -> None:
    assert any(d.can_show(text, mode) for d in DEVIATIONS) is shown


def test_a_difference_on_purpose_is_counted_apart(tmp_path: Path) -> None:
    path = tmp_path / "zh_clean.jsonl"
    case = '{"id": "1", "text": "%s", "lang": "zh", "ids": [1], "word2ph": [1]}\n'
    path.write_text(case % "9:30-10:15" + case % "十点", encoding="utf-8")
    report = compare(text_frontend("upstream"), path)
    assert report.on_purpose == ["1"]
    assert report.cases.total == 1
