"""The structure of the source: imports go down only, the client is light, broad excepts say why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BACKEND = ROOT / "backend" / "gsv"

# A part may import those on a lower floor, itself, and what stands beside it only where allowed.
FLOORS = [
    {"constants", "config", "errors", "reply", "timings"},
    {"audio", "device", "options", "precision", "repository", "toml_file"},
    {"models", "text"},
    {"voices"},  # a voice may have a lexicon, which the text frontend reads
    {"engine"},
    {"checkpoints"},
    {"stages"},
    {"offline", "serving"},
    {"packing"},
    {"bench", "commands"},
]
FLOOR_OF = {part: number for number, floor in enumerate(FLOORS) for part in floor}
BESIDE = {("config", "errors"), ("options", "errors"), ("bench", "commands")}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of nesting."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (
                [f"gsv.{alias.name}" for alias in node.names]
                if node.module == "gsv"
                else [node.module]
            )


def part_of(path: Path) -> str:
    return path.relative_to(BACKEND).parts[0].removesuffix(".py")


SOURCES = [p for p in sorted(BACKEND.rglob("*.py")) if p != BACKEND / "__init__.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(BACKEND)))
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    assert part in FLOOR_OF, f"{part} has no floor; give it one in FLOORS"
    for module in imports(path):
        if not module.startswith("gsv.") or module == "gsv.__version__":
            continue
        other = module.split(".")[1]
        if other == part or (part, other) in BESIDE:
            continue
        assert FLOOR_OF[other] < FLOOR_OF[part], f"{part} imports {module} from above or beside"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(BACKEND)))
def test_triton_and_torch_stay_where_they_belong(path: Path) -> None:
    modules = {module.split(".")[0] for module in imports(path)}
    if part_of(path) != "serving":
        assert "triton_python_backend_utils" not in modules
    if part_of(path) == "text":
        assert "torch" not in modules


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(BACKEND)))
def test_the_server_reads_only_the_clients_limits(path: Path) -> None:
    """And what judges recordings, which the gateway does too; it needs no more than numpy."""
    if part_of(path) not in ("commands", "bench"):
        ours = {module for module in imports(path) if module.startswith("gsv_client")}
        assert ours <= {"gsv_client.limits", "gsv_client.quality"}


def test_the_client_is_light() -> None:
    sources = list((ROOT / "client").rglob("*.py"))
    assert sources
    for path in sources:
        modules = {module.split(".")[0] for module in imports(path)}
        assert not modules & {"gsv", "torch", "transformers"}, path


def test_model_files_are_thin() -> None:
    sources = list((ROOT / "model_repository").glob("*/*/model.py"))
    assert sources
    for path in sources:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 25, path


# A bare `except`, or one of Exception or BaseException, without a comment on its line.
UNEXPLAINED = re.compile(r"^\s*except( \(?(Base)?Exception\b[^:]*)?:\s*$", re.MULTILINE)


@pytest.mark.parametrize("folder", ["backend", "client", "tools", "model_repository"])
def test_a_broad_except_says_why(folder: str) -> None:
    sources = list((ROOT / folder).rglob("*.py"))
    assert sources
    found = {
        str(path.relative_to(ROOT)): [match.group().strip() for match in matches]
        for path in sources
        if (matches := list(UNEXPLAINED.finditer(path.read_text(encoding="utf-8"))))
    }
    assert found == {}


def test_an_except_without_a_reason_is_found() -> None:
    assert UNEXPLAINED.search("    except Exception as error:\n")
    assert UNEXPLAINED.search("except BaseException:\n")
    assert UNEXPLAINED.search("except (Exception, SystemExit) as error:\n")
    assert UNEXPLAINED.search("except:\n")
    assert not UNEXPLAINED.search("except Exception:  # the watch must go on\n")
    assert not UNEXPLAINED.search("except ValueError:\n")


def graph(package: Path) -> dict[str, set[str]]:
    """Which modules of a package import which others, at any depth of nesting."""
    paths = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in package.rglob("*.py")
    }
    edges: dict[str, set[str]] = {}
    for module, path in paths.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                # A module of a package is imported itself, anything else from the package.
                found |= inner & set(paths)
                found |= {node.module} if inner - set(paths) else set()
        edges[module] = found & set(paths) - {module}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules that are left when those that import nothing left over are taken away."""
    left = dict(edges)
    while free := [module for module, imported in left.items() if not imported & set(left)]:
        for module in free:
            del left[module]
    return sorted(left)


@pytest.mark.parametrize("package", ["backend/gsv", "client/gsv_client"])
def test_no_modules_import_each_other(package: str) -> None:
    assert circle(graph(ROOT / package)) == []


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
