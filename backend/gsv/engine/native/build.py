"""Compile a kernel once for this machine and load it."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
# Contraction and no errno change no result beyond rounding, and let loops become vectors.
OPTIMIZE = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi")
FLAGS = (*OPTIMIZE, "-fopenmp", "-shared", "-fPIC")
TIMEOUT = 120  # seconds for the compiler


def load_kernel(name: str, cache: Path | None = None) -> ctypes.CDLL | None:
    """The library of ``name.c``; None, with a line in the log, where it can't be had.

    Args:
        name: file name beside this module, without ``.c``.
        cache: folder that keeps compiled libraries; by default the user's cache folder.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.info("no C compiler found: %s runs in PyTorch", name)
        return None
    source = FOLDER / f"{name}.c"
    key = hashlib.sha256("\n".join([compiler, *FLAGS, _machine()]).encode() + source.read_bytes())
    library = (cache or _user_cache()) / f"{name}-{key.hexdigest()[:16]}.so"
    try:
        if not library.is_file():
            _compile(compiler, source, library)
        return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or b""
        detail = output.decode(errors="replace").strip()[-500:]
        logger.warning("%s can't be compiled and runs in PyTorch: %s %s", name, error, detail)
        return None


def _compile(compiler: str, source: Path, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Written beside and then renamed: another process never sees half a library.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        output = Path(folder) / library.name
        command = [compiler, *FLAGS, str(source), "-o", str(output), "-lm"]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
        output.replace(library)


def _machine() -> str:
    """What -march=native depends on; homes may be shared between different processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    relevant = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return platform.machine() + "".join(sorted(set(relevant)))


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if not os.access(base if os.path.isdir(base) else os.path.dirname(base), os.W_OK):
        # No writable home, as in many containers: compile for this process's user and machine.
        base = os.path.join(tempfile.gettempdir(), f"gsv-{os.getuid()}")
    return Path(base) / "gsv"
