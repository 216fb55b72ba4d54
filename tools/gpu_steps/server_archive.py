"""The embedded tritonserver as one archive, with the Python backend for one Python."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from gsv.errors import ConfigurationError
from gsv.packing.interpreter import NEEDLESS, RUNNING, Interpreter

WHEEL = "nvidia-pytriton"
_CLIENT = ("service_pb2.py", "service_pb2_grpc.py", "model_config_pb2.py")
_EMPTY = b"# Made by tools/gpu_triton.py: only the files beside this one are used.\n"
# The generated code asks for the grpcio that it was tested with; what it calls is older.
_OWN_VERSION = re.compile(r"^GRPC_GENERATED_VERSION = .*$", re.MULTILINE)
_ANY_VERSION = "GRPC_GENERATED_VERSION = '1.63.0'"
_ICU = "libicudata"


def pack(target: Path, python: str, wheels: Sequence[Path] = ()) -> int:
    """Write the archive; its bytes.

    It unpacks into a folder of packages, in which the server is found as if its wheel were
    installed. Left out are the other Pythons' stubs and libraries, and ICU's tables, which only
    the parsers of XML read that neither server nor backend use.

    Args:
        target: the file.
        python: such as 3.12, of the machine that serves.
        wheels: packages that it lacks.

    Raises:
        FileNotFoundError: the wheel is not installed here, or has no stub for ``python``.
    """
    site, stub = _server(python)
    root, client = site / "pytriton" / "tritonserver", site / "tritonclient"
    files = [root / "bin" / "tritonserver", stub]
    for folder in (root / "backends" / "python", client / "utils"):
        files += [p for p in folder.glob("*.*") if p.is_file()]
    files += [
        p for p in (site / "nvidia_pytriton.libs").iterdir() if not p.name.startswith("libpython")
    ]
    version = importlib.metadata.version(WHEEL)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:xz", preset=9) as archive, tempfile.TemporaryDirectory() as made:
        for file in sorted(files):
            source = _without_tables(file, Path(made)) if file.name.startswith(_ICU) else file
            archive.add(source, file.relative_to(site).as_posix())
        _add(
            archive,
            f"nvidia_pytriton-{version}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {WHEEL}\nVersion: {version}\n".encode(),
        )
        for name in _CLIENT:
            code = (client / "grpc" / name).read_text(encoding="utf-8")
            _add(
                archive, f"tritonclient/grpc/{name}", _OWN_VERSION.sub(_ANY_VERSION, code).encode()
            )
        for package in ("pytriton", "tritonclient", "tritonclient/grpc"):
            _add(archive, f"{package}/__init__.py", _EMPTY)
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as opened:
                for name in opened.namelist():
                    if not name.endswith("/") and not NEEDLESS.search(name):
                        _add(archive, name, opened.read(name))
    return target.stat().st_size


def _server(python: str) -> tuple[Path, Path]:
    """Folder of packages with the wheel, and its stub."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{WHEEL} is not installed here")
    site = Path(spec.origin).parent.parent
    stubs = site / "pytriton" / "tritonserver" / "python_backend_stubs"
    stub = stubs / python / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted(path.parent.name for path in stubs.glob("*/*_stub"))
        raise FileNotFoundError(f"{WHEEL} has no stub for Python {python}; it has {known}")
    return site, stub


def _without_tables(library: Path, folder: Path) -> Path:
    """ICU's data library with the one symbol that others link to, and no data (29 MB less).

    The library itself where there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    found = re.search(r"\.so\.(\d+)", library.name)
    if compiler is None or found is None:
        return library
    source, made = folder / "icu.c", folder / library.name
    source.write_text(f"const char icudt{found[1]}_dat[64];\n", encoding="utf-8")
    soname = f"-Wl,-soname,{library.name}"
    subprocess.run([compiler, "-shared", "-fPIC", soname, str(source), "-o", str(made)], check=True)
    return made


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into ``folder``."""
    with tarfile.open(archive, "r:*") as opened:
        opened.extractall(folder, filter="data")


def libpython() -> Path | None:
    """The running Python's shared library, which the stub needs; None where there is none."""
    name = f"libpython{RUNNING}.so.1.0"
    try:
        return Interpreter.at(sys.executable).library
    except ConfigurationError:
        pass
    try:
        ctypes.CDLL(name)
    except OSError:
        return None
    return Path(name)  # the loader finds it by itself
