"""Where a tritonserver lies and what its surroundings must look like.

Two kinds: the binary inside the wheel ``nvidia-pytriton`` (``embedded``), which needs a backend
directory laid out for the running Python, and one that is installed already (``installed``), which
brings its own backends.
"""

from __future__ import annotations

import ctypes.util
import dataclasses
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from gsv.errors import ServerError

WHEEL = "nvidia-pytriton"
STUB = "triton_python_backend_stub"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclasses.dataclass(frozen=True)
class Installation:
    """One tritonserver: its binary, its backends, and the variables that it must run with."""

    name: str
    binary: Path
    backend_directory: Path | None  # None: the one compiled into the binary
    environment: dict[str, str]


def embedded(cache: Path | None = None) -> Installation:
    """The tritonserver inside the wheel, with a backend directory for the running Python.

    The layout is made once in ``cache`` (default: ``cache_folder()``), never in site-packages.
    ServerError when the wheel is absent or has no stub for this Python.
    """
    wheel = _find_wheel()
    version = importlib.metadata.version(WHEEL)
    root = wheel / "tritonserver"
    stub = root / "python_backend_stubs" / PYTHON / STUB
    if not stub.is_file():
        known = sorted(p.parent.name for p in root.glob(f"python_backend_stubs/*/{STUB}"))
        raise ServerError(
            f"{WHEEL} {version} has no Python backend for Python {PYTHON}; it has {known}; "
            "make the virtual environment with one of these"
        )
    _require_shared_python()
    name = f"triton-backends-{version}-py{PYTHON}"
    files = [*(root / "backends" / "python").glob("*.*"), stub]
    libraries = [str(wheel.parent / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    return Installation(
        name=f"embedded, {WHEEL} {version}",
        binary=root / "bin" / "tritonserver",
        backend_directory=_lay_out(name, files, cache or cache_folder()),
        environment={
            **_python_first(),
            "LD_LIBRARY_PATH": _join(*libraries, os.environ.get("LD_LIBRARY_PATH", "")),
            # Every model is a process; threads that spin while they wait starve those of the
            # others (three times slower matrix products seen on two cores).
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "0"),
        },
    )


def installed(binary: Path) -> Installation:
    """An installed tritonserver, such as /opt/tritonserver/bin/tritonserver.

    ServerError when it is not a program, or its Python backend was built for another Python.
    """
    binary = Path(shutil.which(binary) or binary).absolute()
    if not (binary.is_file() and os.access(binary, os.X_OK)):
        raise ServerError(f"{binary}: not an executable file; give the path of tritonserver")
    backends = binary.parent.parent / "backends"
    stub = backends / "python" / STUB
    if stub.is_file():
        # The stub is linked against one libpython, and finds our packages only with that version.
        match = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
        if match and match[1].decode() != PYTHON:
            raise ServerError(
                f"{stub} is built for Python {match[1].decode()}, but gsv runs on Python {PYTHON}; "
                f"install gsv with Python {match[1].decode()}"
            )
    return Installation(
        name=str(binary),
        binary=binary,
        backend_directory=backends if backends.is_dir() else None,
        environment={**_python_first(), **_own_library()},
    )


def cache_folder() -> Path:
    """``$GSV_CACHE``, else ``gsv`` in the user's cache folder.

    Raises:
        ServerError: the user has no home folder, and the variables name none.
    """
    if given := os.environ.get("GSV_CACHE"):
        return Path(given)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "gsv"
    try:
        return Path.home() / ".cache" / "gsv"
    except RuntimeError as error:
        raise ServerError(
            f"no cache folder: user {os.getuid()} has no home folder; "
            "give a writable folder in GSV_CACHE"
        ) from error


def _find_wheel() -> Path:
    # Its Python API is neither needed nor imported: only the place of its files.
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ServerError(
            f"no embedded tritonserver: the package {WHEEL} is not installed; "
            "run pip install 'nvidia-pytriton==0.7.0', or give --tritonserver PATH"
        )
    return Path(spec.origin).parent


def _require_shared_python() -> None:
    library = f"libpython{PYTHON}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR") or ""
    if not Path(folder, library).exists() and not ctypes.util.find_library(f"python{PYTHON}"):
        raise ServerError(
            f"{sys.executable} has no shared library, and Triton's Python backend needs {library}; "
            f"install it (Debian: libpython{PYTHON}) or use a Python built with --enable-shared"
        )


def _own_library() -> dict[str, str]:
    # The stub's libpython must be this Python's and not another of the same version in the system.
    # Last, so that nothing else of that folder is preferred; a system's own is found anyway.
    folder = sysconfig.get_config_var("LIBDIR") or ""
    is_systems = folder.startswith(("/lib", "/usr/lib"))
    if is_systems or not Path(folder, f"libpython{PYTHON}.so.1.0").is_file():
        return {}
    return {"LD_LIBRARY_PATH": _join(os.environ.get("LD_LIBRARY_PATH", ""), folder)}


def _python_first() -> dict[str, str]:
    # The stub asks the first python3 on PATH where packages are; PYTHONPATH is not enough.
    return {"PATH": _join(str(Path(sys.executable).parent), os.environ.get("PATH", ""))}


def _join(*folders: str) -> str:
    return os.pathsep.join(f for f in folders if f)


def _lay_out(name: str, files: list[Path], cache: Path) -> Path:
    """``cache/name`` holding ``python/`` with copies of ``files``; made whole or not at all."""
    target = cache / name
    if all(_same(target / "python" / f.name, f) for f in files):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        (made / "python").mkdir()
        for file in files:
            shutil.copy2(file, made / "python" / file.name)
        made.chmod(0o755)
        if target.exists():
            shutil.rmtree(target, ignore_errors=True)
        try:
            made.rename(target)
        except OSError:
            # Another process was quicker: its layout is as good as ours.
            shutil.rmtree(made, ignore_errors=True)
            if not target.is_dir():
                raise
    except OSError as error:
        raise ServerError(
            f"can't lay out Triton's backends in {cache}: {error}; "
            "give a writable folder in GSV_CACHE"
        ) from error
    return target


def _same(copy: Path, original: Path) -> bool:
    return copy.is_file() and copy.stat().st_size == original.stat().st_size
