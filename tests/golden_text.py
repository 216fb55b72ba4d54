"""Upstream's front end on recorded texts, and the data that it was recorded with.

The cases' folder comes from ``GSV_GOLDEN_TEXT`` (default ``../shared/golden_text/open``, else
``tests/data/golden_text/open``), the text data from ``GSV_TEXT_DATA`` (default
``../shared/text_data``; without it the packages' data is used and less is asked of the results).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from gsv.text.frontend import TextFrontend

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
            raise FileNotFoundError(f"GSV_TEXT_DATA: {folder} is no folder")
        return folder
    shared = SHARED / "text_data"
    return shared if shared.is_dir() else None


@functools.cache
def text_frontend() -> TextFrontend:
    """One front end for all tests: its dictionaries take a while to load."""
    return TextFrontend(text_data_dir())
