"""The environment as a whole: made, described, and named in the models' configurations."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from gsv import __version__
from gsv.checkpoints.store import exchange
from gsv.errors import ConfigurationError
from gsv.packing import packages
from gsv.packing.interpreter import RUNNING, Interpreter
from gsv.serving.triton_versions import oldest_glibc

PARAMETER = "EXECUTION_ENV_PATH"
DESCRIPTION = "environment.json"
# Triton up to 25.07 runs this file in bash; later ones only look whether it is there, and put bin
# and lib into the two paths by themselves (python_backend, ParseActivationScript).
_ACTIVATE = """\
# Made by gsv prepare --pack-env. Triton's Python backend runs it before a model's process starts.
gsv_environment="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PATH="$gsv_environment/bin:$PATH"
export PYTHONNOUSERSITE=1
unset PYTHONHOME PYTHONPATH gsv_environment
"""
_GLIBC = re.compile(rb"GLIBC_2\.(\d{1,2})\b")
_ENTRY = re.compile(rf'parameters {{ key: "{PARAMETER}" value: {{ string_value: "[^"]*" }} }}\n')


@dataclasses.dataclass(frozen=True)
class Choices:
    """How an environment is made.

    Attributes:
        python: version of the Python that the server's stub was built for, or a program's path.
        torch_index: package index to take torch from, for a build for CUDA; empty: torch as it is
            installed here, where the Python is the running one.
        links: hard links in place of copies where the file system can: no space and little time,
            for a trial on this machine; changes of installed files change the environment too.
    """

    python: str = RUNNING
    torch_index: str = ""
    links: bool = False


def pack(folder: Path, choices: Choices, *, replace: bool, report: Callable[[str], None]) -> None:
    """Make ``folder`` an environment for the Python backend; complete or not there at all.

    Args:
        folder: to make.
        choices: of what.
        replace: take the place of an earlier environment.
        report: called with lines for people.

    Raises:
        ConfigurationError: no such Python, packages that are missing, a folder that may not be
            replaced or that Triton could not use.
        OSError: it can't be written.
    """
    folder = folder.absolute()
    interpreter = Interpreter.find(choices.python)
    _check(folder, replace)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = choices.torch_index or interpreter.version != RUNNING
    place = link if choices.links or fresh else copy
    with contextlib.ExitStack() as stack:
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        made = work / "new"
        report(f"environment: Python {interpreter.version} of {interpreter.executable}")
        interpreter.copy(made, link if choices.links else copy)
        sites = None
        if fresh:
            report("environment: pip installs packages for it")
            installed = packages.Installed(interpreter, choices.torch_index, work)
            sites = stack.enter_context(installed)
        found = packages.needed(sites, interpreter.version)
        packages.copy(found, made / interpreter.packages, place)
        (made / "bin" / "activate").write_text(_ACTIVATE, encoding="utf-8")
        _compile(made)
        _describe(made, interpreter, found, report)
        made.chmod(0o755)
        exchange(folder, made, work / "old")
    report(f"environment: {folder}")


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where there can be none."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        copy(source, target)


def copy(source: Path, target: Path) -> None:
    """A copy with the same times, so that compiled modules are still those of their sources."""
    shutil.copy2(source, target)


def point_models_at(repository: Path, folder: Path) -> list[str]:
    """Let every Python model run in the environment; their names.

    The path is relative to the model's folder: repository and environment can move together.
    """
    changed = []
    for config in sorted(repository.glob("*/config.pbtxt")):
        text = config.read_text(encoding="utf-8")
        if not re.search(r'^backend: "python"', text, re.MULTILINE):
            continue
        place = os.path.relpath(folder.absolute(), config.parent.absolute())
        value = f"$$TRITON_MODEL_DIRECTORY/{place}"
        entry = f'parameters {{ key: "{PARAMETER}" value: {{ string_value: "{value}" }} }}\n'
        config.write_text(_ENTRY.sub("", text).rstrip("\n") + "\n" + entry, encoding="utf-8")
        changed.append(config.parent.name)
    return changed


def check_place(folder: Path, repository: Path) -> None:
    """Refuse an environment inside the repository, where Triton takes every folder for a model."""
    if folder.absolute().is_relative_to(repository.absolute()):
        raise ConfigurationError(
            f"{folder}: lies in the model repository, where Triton takes every folder for a model; "
            "choose one beside it"
        )


def _check(folder: Path, replace: bool) -> None:
    if shlex.quote(str(folder)) != str(folder):
        raise ConfigurationError(
            f"{folder}: Triton hands this path to a shell without quotes; choose one without "
            "spaces and special characters"
        )
    if not folder.exists():
        return
    if not replace:
        raise ConfigurationError(f"{folder}: exists already; choose another folder or use --force")
    if not (folder / DESCRIPTION).is_file():
        raise ConfigurationError(
            f"{folder}: is not an environment that gsv made (no {DESCRIPTION}); choose another "
            "folder"
        )


def _compile(folder: Path) -> None:
    """Compile the modules that are not yet: a server may have no right to write here."""
    command = [str(folder / "bin" / "python3"), "-I", "-m", "compileall", "-q", "-j", "0"]
    # Modules for other Pythons and templates don't compile; nobody imports them here.
    subprocess.run(
        [*command, str(folder / "lib")],
        env={"PATH": os.defpath, "LD_LIBRARY_PATH": str(folder / "lib")},
        capture_output=True,
    )


def _describe(
    folder: Path,
    interpreter: Interpreter,
    found: list[packages.Package],
    report: Callable[[str], None],
) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files)
    glibc = max((minor for path in files for minor in _glibc(path)), default=0)
    versions = {package.name: package.version for package in found}
    content = {
        "made_by": f"gsv {__version__}",
        "python": interpreter.version,
        "glibc": f"2.{glibc}",
        "bytes": size,
        "packages": versions,
    }
    (folder / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    report(
        f"environment: {size / 2**20:,.0f} MiB, {len(found)} packages, torch "
        f"{versions.get('torch')}; needs glibc 2.{glibc} or later"
    )
    there = oldest_glibc(interpreter.version)
    if there is not None and glibc > there:
        report(
            f"warning: NVIDIA's images with Python {interpreter.version} have glibc 2.{there}; run "
            "gsv prepare in such an image, or with a Python that uv installs"
        )


def _glibc(path: Path) -> Iterator[int]:
    """Minor versions of the C library whose symbols a binary asks for."""
    if ".so" not in path.name and path.parent.name != "bin":
        return
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield from {int(minor) for minor in _GLIBC.findall(content)}
