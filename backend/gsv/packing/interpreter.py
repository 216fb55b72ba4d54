"""A Python on this machine, and a copy of it that runs from any folder."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from gsv.errors import ConfigurationError

VERSIONS = ("3.10", "3.11", "3.12")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

Place = Callable[[Path, Path], None]
"""Puts the file (first) at a place (second): a copy or a hard link."""

_TIMEOUT = 60.0  # seconds for a question to an interpreter
_QUESTIONS = """
import json, os, sys, sysconfig
value = sysconfig.get_config_var
folders = [value("LIBDIR"), value("LIBPL")]
for place in (value("LIBDIR"), os.path.join(sys.base_prefix, "lib"), "/usr/lib", "/usr/local/lib"):
    folders += [place, os.path.join(place or "", value("MULTIARCH") or "")]
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
found = [os.path.join(f, name) for f in folders if f and os.path.isfile(os.path.join(f, name))]
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "executable": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "standard_library": sysconfig.get_path("stdlib"),
    "headers": sysconfig.get_path("include"),
    "library": found[0] if found else "",
    "debian": "deb_system" in sysconfig.get_scheme_names(),
}))
"""
# What packages carry that nobody imports. torch looks for its shared-memory manager when it is
# imported, and Triton's language compiles against headers of its own.
NEEDLESS = re.compile(
    r"(^|/)(tests|f2py|distutils|_examples)/|^(numpy/.*|torch)/include/|\.pyi$"
    r"|^torch/(test/|bin/(?!torch_shm_manager))"
)
# Of the standard library: what a server never imports, and caches of it.
_LEFT_OUT = re.compile(
    r"test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|config-.*|site-packages|dist-packages"
    r"|turtle\.py|nis\..*|_tkinter\..*|_curses.*|curses|readline\..*|_g?dbm\..*|_test.*|.*_test\..*\.so|xx.*"
)
# Libraries that belong to the machine: an older one than the machine's would break others.
_OF_THE_MACHINE = re.compile(
    r"(linux-vdso|ld-linux.*|libc|libm|libpthread|libdl|librt|libutil|libgcc_s|libstdc\+\+"
    r"|libpython.*)\.so.*"
)
_NEEDED = re.compile(r"^\s+(\S+) => (/\S+) \(0x", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """One Python.

    Attributes:
        version: such as ``3.11``.
        executable: the program itself, never that of a virtual environment.
        standard_library: its folder.
        headers: folder of C headers, which may not be there.
        library: the shared library, which Triton's stub is linked with.
        debian: whether it looks for packages in ``dist-packages``, as Debian's and Ubuntu's do.
    """

    version: str
    executable: Path
    standard_library: Path
    headers: Path
    library: Path
    debian: bool

    @classmethod
    def find(cls, version: str = RUNNING) -> Interpreter:
        """The Python of a version (the running one, one on ``PATH`` or one that uv knows).

        Args:
            version: such as ``3.12``, or the path of a program.

        Raises:
            ConfigurationError: there is none, or it has no shared library.
        """
        if os.sep in version:
            found = cls.at(version)
            if found.version not in VERSIONS:
                raise ConfigurationError(
                    f"{version}: is Python {found.version}; allowed: {', '.join(VERSIONS)}"
                )
            return found
        if version not in VERSIONS:
            raise ConfigurationError(
                f"Python: got {version!r}; allowed: {', '.join(VERSIONS)}, the one that the "
                "server's triton_python_backend_stub was built for, or the path of such a program"
            )
        tried = []
        for program in _candidates(version):
            try:
                found = cls.at(program)
            except ConfigurationError as error:
                tried.append(str(error))
                continue
            if found.version == version:
                return found
        if tried:
            raise ConfigurationError(
                f"{'; '.join(tried)}; give the path of a Python {version} that runs"
            )
        raise ConfigurationError(
            f"no Python {version} on this machine: neither python{version} on PATH nor one that uv "
            f"knows; install it (uv python install {version}; Debian: python{version}), give its "
            "path, or run gsv prepare where it is, such as in the server's image"
        )

    @classmethod
    def at(cls, program: str | Path) -> Interpreter:
        """What a program says of itself.

        Raises:
            ConfigurationError: it does not run, or has no shared library.
        """
        command = [str(program), "-I", "-S", "-c", _QUESTIONS]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT, check=True
            )
            answer = json.loads(done.stdout)
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
            raise ConfigurationError(f"{program}: not a Python that runs: {lines[0]}") from error
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise ConfigurationError(f"{program}: not a Python that runs: {error}") from error
        if not answer["library"]:
            version = answer["version"]
            raise ConfigurationError(
                f"{program} has no shared library, and Triton's Python backend needs "
                f"libpython{version}.so.1.0; install it (Debian: libpython{version}) or use a "
                "Python built with --enable-shared"
            )
        return cls(
            version=answer["version"],
            executable=Path(answer["executable"]),
            standard_library=Path(answer["standard_library"]),
            headers=Path(answer["headers"]),
            library=Path(answer["library"]),
            debian=answer["debian"],
        )

    @property
    def packages(self) -> str:
        """Where a copy of it looks for packages, below its own folder."""
        folder = "dist-packages" if self.debian else "site-packages"
        return f"lib/python{self.version}/{folder}"

    def copy(self, folder: Path, place: Place) -> None:
        """Make ``folder`` a Python of its own: program, shared library, standard library.

        Libraries that its extension modules are linked with come along, but for those of the C and
        C++ runtimes. Nothing in it names a path outside.
        """
        programs = folder / "bin"
        programs.mkdir(parents=True, exist_ok=True)
        # python3 is the file and the others are links to it: storage that knows no links keeps
        # what the stub looks for.
        place(self.executable, programs / "python3")
        for name in (f"python{self.version}", "python"):
            (programs / name).symlink_to("python3")
        libraries = folder / "lib"
        home = libraries / f"python{self.version}"
        _tree(self.standard_library, home, place)
        # Kernels in Triton's language are started by C code that is compiled on the server.
        _tree(self.headers, folder / "include" / f"python{self.version}", place)
        (folder / self.packages).mkdir(parents=True, exist_ok=True)
        place(self.library, libraries / self.library.name)
        modules = [*home.glob("lib-dynload/*.so"), self.executable]
        for name, path in _linked(modules):
            place(path.resolve(), libraries / name)


def _candidates(version: str) -> Iterator[str]:
    if version == RUNNING:
        yield sys.executable
    if found := shutil.which(f"python{version}"):
        yield found
    if uv := shutil.which("uv"):
        command = [uv, "python", "find", "--offline", "--no-project", version]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip():
            yield done.stdout.strip()


def _tree(source: Path, target: Path, place: Place) -> None:
    for file in _files(source):
        at = target / file.relative_to(source)
        at.parent.mkdir(parents=True, exist_ok=True)
        place(file, at)


def _files(folder: Path) -> Iterator[Path]:
    """Files of a folder of the interpreter's that are taken along."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _LEFT_OUT.fullmatch(name))
        yield from (Path(parent, name) for name in names if not _LEFT_OUT.fullmatch(name))


def _linked(modules: list[Path]) -> list[tuple[str, Path]]:
    """Name and place of the libraries that modules are linked with, without the machine's own."""
    done = subprocess.run(["ldd", *map(str, modules)], capture_output=True, text=True)
    found = dict(_NEEDED.findall(done.stdout))
    return [(n, Path(p)) for n, p in sorted(found.items()) if not _OF_THE_MACHINE.fullmatch(n)]
