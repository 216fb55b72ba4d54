"""The embedded tritonserver as one archive, with the Python backend for one Python."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import importlib.util
import io
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

WHEEL = "nvidia-pytriton"
_CLIENT = ("service_pb2.py", "service_pb2_grpc.py", "model_config_pb2.py")
_EMPTY = "# Made by tools/gpu_triton.py: only the files beside this one are used.\n"


def pack(target: Path, python: str) -> int:
    """Write the archive; its bytes.

    It unpacks into a folder for ``PYTHONPATH``, in which the server is found as if the wheel were
    installed. Left out are the other Pythons' stubs and libraries.

    Raises:
        FileNotFoundError: the wheel is not installed here, or has no stub for ``python``.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{WHEEL} is not installed here")
    site = Path(spec.origin).parent.parent
    root = site / "pytriton" / "tritonserver"
    stub = root / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted(p.parent.name for p in root.glob("python_backend_stubs/*/*_stub"))
        raise FileNotFoundError(f"{WHEEL} has no stub for Python {python}; it has {known}")
    files = [root / "bin" / "tritonserver", stub]
    files += [p for p in (root / "backends" / "python").glob("*.*") if p.is_file()]
    files += [
        p for p in (site / "nvidia_pytriton.libs").iterdir() if not p.name.startswith("libpython")
    ]
    client = site / "tritonclient"
    files += [client / "grpc" / name for name in _CLIENT]
    files += [p for p in (client / "utils").glob("*.py") if p.is_file()]
    version = importlib.metadata.version(WHEEL)
    metadata = f"Metadata-Version: 2.1\nName: {WHEEL}\nVersion: {version}\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w:xz", preset=9) as archive:
        for file in sorted(files):
            archive.add(file, file.relative_to(site).as_posix())
        _add(archive, f"nvidia_pytriton-{version}.dist-info/METADATA", metadata)
        for package in ("pytriton", "tritonclient", "tritonclient/grpc"):
            _add(archive, f"{package}/__init__.py", _EMPTY)
    return target.stat().st_size


def _add(archive: tarfile.TarFile, name: str, content: str) -> None:
    data = content.encode()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack into ``folder``."""
    with tarfile.open(archive, "r:*") as opened:
        opened.extractall(folder, filter="data")


def libpython() -> Path | None:
    """The running Python's shared library, which the stub needs; None where there is none."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    for folder in _folders():
        if (folder / name).is_file():
            return folder / name
    try:
        ctypes.CDLL(name)
    except OSError:
        return None
    return Path(name)  # the loader finds it by itself


def _folders() -> Iterator[Path]:
    for variable in ("LIBDIR", "LIBPL", "srcdir"):
        if value := sysconfig.get_config_var(variable):
            yield Path(value)
    for prefix in (sys.base_prefix, sys.prefix, "/usr", "/usr/local"):
        yield Path(prefix, "lib")
        yield Path(prefix, "lib", "x86_64-linux-gnu")
