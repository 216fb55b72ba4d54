"""The installed packages that serving needs: which they are, and where their files lie."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gsv import __version__
from gsv.errors import ConfigurationError
from gsv.packing.interpreter import NEEDLESS, RUNNING, Interpreter, Place


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(package)
    return Path(spec.origin).parent


OWN = {"gsv": _folder("gsv"), "gsv-client": _folder("gsv_client")}
# Of what serving can use but does without; taken along where it is installed.
OPTIONAL = ("text", "japanese", "japanese-wheels", "g2pw")
_NOT_OURS = ("__pycache__", "*.egg-info", "_model_repository", "_voices")
_CONSTRAINTS = OWN["gsv"].parent.parent / "constraints.txt"


@dataclasses.dataclass(frozen=True)
class Package:
    """One installed distribution, with its files below the folder of packages."""

    name: str
    version: str
    files: tuple[tuple[Path, str], ...]


def needed(folders: Sequence[str] | None = None, python: str = RUNNING) -> list[Package]:
    """Everything that serving imports besides our own packages, dependencies of dependencies too.

    Args:
        folders: folders of packages to look in; the running Python's if not given.
        python: version of the Python that they are for.

    Raises:
        ConfigurationError: one is missing, or says nothing of its files.
    """
    found: dict[str, Package] = {}
    todo = list(_own_requirements(python))
    asked: set[tuple[str, str]] = set()
    while todo:
        requirement, must = todo.pop()
        name = canonicalize_name(requirement.name)
        distribution = _distribution(name, folders)
        if distribution is None:
            if must:
                raise ConfigurationError(
                    f"the package {requirement} is not installed, and the server needs it; "
                    "install gsv with all it requires"
                )
            continue
        if name not in found:
            found[name] = Package(name, distribution.version, tuple(_files(distribution)))
        for extra in ("", *requirement.extras):
            if (name, extra) in asked:
                continue
            asked.add((name, extra))
            for text in distribution.requires or ():
                inner = Requirement(text)
                if _applies(inner, extra, python):
                    todo.append((inner, must))
    return sorted(found.values(), key=lambda package: package.name)


def _own_requirements(python: str) -> Iterator[tuple[Requirement, bool]]:
    """What our two packages ask for; whether it must be there."""
    for own in OWN:
        for text in importlib.metadata.requires(own) or ():
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) in OWN:
                continue
            if _applies(requirement, "", python):
                yield requirement, True
            elif own == "gsv" and any(_applies(requirement, e, python) for e in OPTIONAL):
                yield requirement, False


def _applies(requirement: Requirement, extra: str, python: str) -> bool:
    about = {"extra": extra, "python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(about)


def _distribution(
    name: str, folders: Sequence[str] | None
) -> importlib.metadata.Distribution | None:
    path = list(sys.path if folders is None else folders)
    return next(iter(importlib.metadata.distributions(name=name, path=path)), None)


def _files(distribution: importlib.metadata.Distribution) -> Iterator[tuple[Path, str]]:
    if distribution.files is None:
        raise ConfigurationError(
            f"the package {distribution.name} says nothing of its files (no RECORD): it was not "
            "installed by pip; install gsv in a virtual environment of its own"
        )
    for file in distribution.files:
        path = Path(str(distribution.locate_file(file)))
        # Programs and manuals lie outside the folder of packages.
        if ".." not in file.parts and not NEEDLESS.search(file.as_posix()) and path.is_file():
            yield path, file.as_posix()


def copy(packages: Sequence[Package], folder: Path, place: Place) -> None:
    """Put packages and our own two into a folder of packages."""
    for package in packages:
        for source, name in package.files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():  # namespace packages share files
                place(source, target)
    for name, source in OWN.items():
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns(*_NOT_OURS))
        distribution = importlib.metadata.distribution(name)
        about = folder / f"{source.name}-{__version__}.dist-info"
        about.mkdir()
        # An editable install has it under its older name.
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        (about / "METADATA").write_text(text, encoding="utf-8")


class Installed:
    """A virtual environment that pip fills for another Python or another build of torch.

    Use it as a context manager; it is removed at the end.
    """

    def __init__(self, interpreter: Interpreter, torch_index: str, beside: Path) -> None:
        """Nothing is done yet; ``beside`` is a folder with room for all packages."""
        self._interpreter, self._torch_index = interpreter, torch_index
        self._work = tempfile.TemporaryDirectory(prefix=".packages-", dir=beside)

    def __enter__(self) -> list[str]:
        """Install; the folders of packages.

        Raises:
            ConfigurationError: pip can't.
        """
        try:
            return self._install(Path(self._work.name))
        except BaseException:  # Ctrl-C too: __exit__ isn't called after this
            self._work.cleanup()
            raise

    def __exit__(self, *_: object) -> None:
        self._work.cleanup()

    def _install(self, work: Path) -> list[str]:
        program = self._interpreter.executable
        _run([str(program), "-m", "venv", "--without-pip", "--copies", str(work / "venv")])
        pip = [sys.executable, "-m", "pip", "--python", str(work / "venv" / "bin" / "python3")]
        pip += ["--disable-pip-version-check", "--quiet", "install"]
        pip += ["--constraint", str(self._constraints(work))]
        index = ["--index-url", self._torch_index] if self._torch_index else []
        _run([*pip, *index, "torch"])
        wanted = [
            f"{r.name}[{','.join(sorted(r.extras))}]{r.specifier}"
            for r, must in _own_requirements(self._interpreter.version)
            if must or _distribution(canonicalize_name(r.name), None) is not None
        ]
        _run([*pip, *wanted])
        return [str(work / "venv" / "lib" / f"python{self._interpreter.version}" / "site-packages")]

    @staticmethod
    def _constraints(work: Path) -> Path:
        """The versions that this project is tested with, else those that are installed here."""
        if _CONSTRAINTS.is_file():
            return _CONSTRAINTS
        pins = [f"{p.name}=={p.version.partition('+')[0]}\n" for p in needed()]
        (work / "constraints.txt").write_text("".join(pins), encoding="utf-8")
        return work / "constraints.txt"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        # Of pip's lines the first error says what is wrong, the last one where to read on.
        errors = [line for line in lines if line.startswith("ERROR:")] or lines[-1:]
        why = errors[0] if errors else f"exit code {done.returncode}"
        raise ConfigurationError(f"{' '.join(command[:3])}: {why}")
