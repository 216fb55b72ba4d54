"""Extras and pins that messages, documents and scripts name are those of the package."""

from __future__ import annotations

import ast
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


# What comes with a declared package; what is installed by another name.
BROUGHT_ALONG = {
    "starlette": "fastapi",
    "pydantic": "fastapi",
    "grpc": "tritonclient",
    "tokenizers": "transformers",
    "triton": "torch",
    "triton_python_backend_utils": "gsv",  # in the processes of models
}
INSTALLED_AS = {"mecab": "python-mecab-ko"}


def declared(name: str) -> set[str]:
    table = project(name)
    extras = [r for extra in table["optional-dependencies"].values() for r in extra]
    wanted = [*table["dependencies"], *extras]
    return {normal(re.split(r"[\s\[<>=!~;]", requirement)[0]) for requirement in wanted}


@pytest.mark.parametrize(("name", "package"), [("gsv", "gsv"), ("gsv-client", "gsv_client")])
def test_every_package_that_is_imported_is_declared(name: str, package: str) -> None:
    """Also where the import is late, and a missing package would be noticed by a user only."""
    known = declared(name) | {normal(package)}
    if name == "gsv":
        known |= {"matplotlib"}  # of gsv-client's extra, which `gsv calibrate` asks for by name
    missing = {
        f"{module} in {path.relative_to(ROOT)}"
        for path in (PROJECTS[name] / package).rglob("*.py")
        for module in imports(path)
        if normal(INSTALLED_AS.get(module, module)) not in known
        and BROUGHT_ALONG.get(module) not in known
    }
    assert missing == set()


def imports(path: Path) -> set[str]:
    """Packages that a module imports, but for what only type checkers read."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {name.split(".")[0] for name in found} - sys.stdlib_module_names
