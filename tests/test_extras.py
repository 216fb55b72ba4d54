"""Extras and pins that messages, documents and scripts name are those of the package."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECTS = {"gsv": ROOT / "backend", "backend": ROOT / "backend", "gsv-client": ROOT / "client"}
TEXTS = [
    *sorted((ROOT / "backend" / "gsv").rglob("*.py")),
    *sorted((ROOT / "client" / "gsv_client").rglob("*.py")),
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "tools").glob("*.*")),
    ROOT / "docker" / "Dockerfile",
]
NAMED = re.compile(r"\b(gsv-client|gsv|backend)\[([a-z0-9,-]+)\]")
PINNED = re.compile(r"\b([A-Za-z][\w.-]+)==([0-9][\w.]*)")


def project(name: str) -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((PROJECTS[name] / "pyproject.toml").read_text("utf-8"))
    return table["project"]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> Iterator[str]:
    for name in ("gsv", "gsv-client"):
        table = project(name)
        yield from table["dependencies"]
        for extra in table["optional-dependencies"].values():
            yield from extra


def pins() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for requirement in requirements():
        if match := PINNED.match(requirement):
            found.setdefault(normal(match[1]), set()).add(match[2])
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_extras_that_are_named_exist(path: Path) -> None:
    for name, extras in NAMED.findall(path.read_text(encoding="utf-8")):
        for extra in extras.split(","):
            assert extra in project(name)["optional-dependencies"], f"{name}[{extra}]"


def test_messages_name_extras() -> None:
    named = {
        extra
        for path in TEXTS
        for _, extras in NAMED.findall(path.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {"text", "japanese", "japanese-wheels", "g2pw"} <= named


def test_pins_in_messages_are_the_packages() -> None:
    known = pins()
    for path in sorted((ROOT / "backend" / "gsv" / "text").rglob("*.py")):
        for name, version in PINNED.findall(path.read_text(encoding="utf-8")):
            if normal(name) in known:
                assert version in known[normal(name)], f"{path.name}: {name}=={version}"


def test_the_locked_versions_fit() -> None:
    locked: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if match := PINNED.match(line):
            locked.setdefault(normal(match[1]), set()).add(match[2])
    for name, versions in pins().items():
        if name != "pyopenjtalk-plus":  # the second choice, not installed beside the first
            assert locked[name] == versions, name
