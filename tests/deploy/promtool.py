"""Debian's package prometheus, whose programs some tests run."""

from __future__ import annotations

import os
import shutil

import pytest


def program(name: str) -> str:
    """The path of ``promtool`` or ``prometheus``; skips where there is none, in plain words."""
    found = shutil.which(name)
    if found is None:
        told = f"NOT RUN: {name} is not installed (Debian: prometheus)"
        if os.environ.get("GSV_REQUIRE_ORACLE"):
            pytest.fail(told)
        pytest.skip(told)
    return found
