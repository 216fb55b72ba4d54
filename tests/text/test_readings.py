"""Texts that people write are read as the same texts written so that nothing can go wrong.

Pairs of our own (``tests/data/readings``) and those of ``../shared/golden_text/readings`` where
that folder is there.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_text import SHARED, TESTS, text_data_dir, text_frontend

from gsv.errors import ConfigurationError
from gsv.text import readings
from gsv.text.japanese import DictionaryMissing, find_dictionary
from gsv.text.readings import Case, check, read_cases

FOLDERS = [TESTS / "data" / "readings", SHARED / "golden_text" / "readings"]
CASES = [case for folder in FOLDERS if folder.is_dir() for case in read_cases(folder)]


def name(case: Case) -> str:
    return f"{case.language}:{case.text}"


@pytest.mark.golden_text
@pytest.mark.parametrize("case", CASES, ids=name)
def test_cases(case: Case) -> None:
    if "ja" in case.language:
        try:
            find_dictionary()
        except DictionaryMissing as error:
            pytest.skip(str(error))
    outcome = check(text_frontend(), case)
    assert outcome.right, f"{outcome.found}\n{outcome.expected}"


@pytest.mark.parametrize(
    ("text", "plain"),
    [("zh\t10元", "zh\t九元"), ("en\tＡＢＣ", "en\tABD")],
)
def test_a_wrong_pair_is_wrong(
    text: str, plain: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language, written = text.split("\t")
    expected = plain.split("\t")[1]
    (tmp_path / "pairs.tsv").write_text(f"{language}\t{written}\t{expected}\n", encoding="utf-8")
    (tmp_path / "refused.tsv").write_text("zh\t你好\n", encoding="utf-8")
    data = text_data_dir()
    options = ["--text-data", str(data)] if data else []
    assert readings.main([str(tmp_path), *options]) == 1
    shown = capsys.readouterr().out
    assert "WRONG pairs.tsv:1" in shown
    assert "pairs.tsv        0 of     1" in shown
    assert "WRONG refused.tsv:1" in shown


def test_files_of_another_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="neither pairs.tsv nor refused.tsv"):
        read_cases(tmp_path)
    (tmp_path / "pairs.tsv").write_text("fr\ta\tb\n")
    with pytest.raises(ConfigurationError, match="line 1: expected 3 fields"):
        read_cases(tmp_path)
    assert readings.main([str(tmp_path)]) == 2
    assert "line 1" in capsys.readouterr().err


def test_upstreams_reading_keeps_what_it_loses() -> None:
    """The parameter really chooses: upstream's own reading of the same texts."""
    upstream, corrected = text_frontend("upstream"), text_frontend()
    for language, text in (("zh", "10元"), ("en", "I’m here"), ("zh", "约10,000人")):
        theirs = [s.symbols for s in upstream.analyze(text, language)]
        assert theirs != [s.symbols for s in corrected.analyze(text, language)]
    assert upstream.analyze("10元", "zh")[0].norm_text == "零点一零元."
