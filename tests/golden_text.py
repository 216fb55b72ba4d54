"""Upstream's front end on recorded texts, and the data that it was recorded with.

The cases' folder comes from ``GSV_GOLDEN_TEXT`` (default ``../shared/golden_text/open``, else
``tests/data/golden_text/open``), the text data from ``GSV_TEXT_DATA`` (default
``../shared/text_data``, else what `make venv` has brought; without either the packages' data is
used and less is asked of the results).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gsv.text.deviations import DEVIATIONS
from gsv.text.frontend import TextFrontend
from gsv.text.installed import installed_folder

TESTS = Path(__file__).parent
BUNDLED = TESTS / "data" / "golden_text" / "open"
SHARED = TESTS.parent.parent / "shared"


def golden_text_dir() -> Path:
    """The folder of cases."""
    if given := os.environ.get("GSV_GOLDEN_TEXT"):
        folder = Path(given)
        if not list(folder.glob("*.jsonl")):
            raise FileNotFoundError(f"GSV_GOLDEN_TEXT: {folder} holds no .jsonl file")
        return folder
    shared = SHARED / "golden_text" / "open"
    return shared if shared.is_dir() else BUNDLED


def text_data_dir() -> Path | None:
    """The folder of text data, None where there is none."""
    if given := os.environ.get("GSV_TEXT_DATA"):
        folder = Path(given)
        if not folder.is_dir():
            raise FileNotFoundError(f"GSV_TEXT_DATA: {folder} is not a folder")
        return folder
    return next((f for f in (SHARED / "text_data", installed_folder()) if f.is_dir()), None)


@functools.cache
def text_frontend(reading: str = "corrected") -> TextFrontend:
    """One front end of each reading for all tests: its dictionaries take a while to load."""
    return TextFrontend(text_data_dir(), reading=reading)


def check_clean_cases(
    name: str, answer: Callable[[str], dict[str, Any]], without: str = ""
) -> None:
    """Compare one language's class with the cases of texts that need no segmenting.

    Args:
        name: the language; its file may be missing in a folder of other cases.
        answer: fields of a case (``norm_text``, ``phones``, ``word2ph``) for a text.
        without: texts with one of these characters are left out.
    """
    path = golden_text_dir() / f"{name}_clean.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name} among the cases")
    cases = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    cases = [c for c in cases if "error" not in c and not set(without) & set(c["text"])]
    assert cases
    different = []
    for case in cases:
        ours = answer(case["text"])
        theirs = {field: case[field] for field in ours}
        if ours != theirs and not any(d.can_show(case["text"], name) for d in DEVIATIONS):
            different.append((case["text"], ours, theirs))
    assert 100 * len(different) <= len(cases), different[:3]
