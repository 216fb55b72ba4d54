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
    """The library of ``name.c``; None, with a line in the log, where it can't be compiled.

    Args:
        name: file name beside this module, without ``.c``.
        cache: folder that keeps compiled libraries; by default the user's cache folder. Where it
            can't be written, the library is compiled for this process alone.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        logger.info("no C compiler found: %s runs in PyTorch", name)
        return None
    source = FOLDER / f"{name}.c"
    key = hashlib.sha256("\n".join([compiler, *FLAGS, _machine()]).encode() + source.read_bytes())
    file = f"{name}-{key.hexdigest()[:16]}.so"
    cache = cache or _user_cache()
    try:
        if (cache / file).is_file():
            return ctypes.CDLL(str(cache / file))
        with tempfile.TemporaryDirectory() as folder:  # the loaded library outlives its file
            library = _compile(compiler, source, Path(folder) / file)
            _keep(library, cache)
            return ctypes.CDLL(str(library))
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or b""
        detail = output.decode(errors="replace").strip()[-500:]
        logger.warning("%s can't be compiled and runs in PyTorch: %s %s", name, error, detail)
        return None


def _compile(compiler: str, source: Path, library: Path) -> Path:
    command = [compiler, *FLAGS, str(source), "-o", str(library), "-lm"]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    return library


def _keep(library: Path, cache: Path) -> None:
    """Put a copy into the cache; written beside and renamed, so that nobody loads half of it."""
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, beside = tempfile.mkstemp(dir=cache, suffix=".part")
        os.close(handle)
        shutil.copyfile(library, beside)
        os.replace(beside, cache / library.name)
    except OSError as error:
        logger.info("%s can't be kept for the next start: %s", library.name, error)


def _machine() -> str:
    """What -march=native depends on; homes may be shared between different processors."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    relevant = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return platform.machine() + "".join(sorted(set(relevant)))


def _user_cache() -> Path:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "gsv"
    try:
        return Path.home() / ".cache" / "gsv"
    except RuntimeError:  # a user without a home, as in some containers
        return Path(os.devnull) / "gsv"  # can't be written, which ``_keep`` takes in its stride
