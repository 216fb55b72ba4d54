"""Releases of Triton: what we know of them."""

from __future__ import annotations

import pytest

from gsv.errors import ConfigurationError
from gsv.serving.triton_versions import (
    Release,
    facts,
    oldest_glibc,
)

RELEASES = ["24.10", "25.11", "25.12", "26.04"]


def test_releases_are_in_order() -> None:
    assert [str(Release.parse(text)) for text in RELEASES] == RELEASES
    assert Release.parse("24.10") < Release.parse("24.11") < Release.parse("25.01")
    for wrong in ("2.51", "24.13", "24.1", "latest"):
        with pytest.raises(ConfigurationError, match="year and month, such as 24.10"):
            Release.parse(wrong)


@pytest.mark.parametrize(
    ("release", "python", "numpy_2", "activate", "ready", "health"),
    [
        ("24.10", "3.10", False, True, True, False),
        ("24.11", "3.12", True, True, True, False),
        ("25.08", "3.12", True, False, True, False),
        ("25.12", "3.12", True, False, False, False),
        ("26.04", "3.12", True, False, False, True),
    ],
)
def test_what_changed_when(
    release: str, python: str, numpy_2: bool, activate: bool, ready: bool, health: bool
) -> None:
    known = facts(Release.parse(release))
    assert known.python == python
    assert known.reads_numpy_2 is numpy_2
    assert known.runs_activate is activate
    assert known.ready_without_process is ready
    assert known.reaps_processes is not ready
    assert known.health_sees_models is health


def test_the_c_library_of_images() -> None:
    assert [oldest_glibc(python) for python in ("3.10", "3.11", "3.12")] == [35, None, 39]
