"""A virtual environment whose only packages are other folders.

The Python backend's stub starts an interpreter that ignores ``PYTHONPATH``; it reads the packages
of the first ``python3`` on ``PATH``. So that nothing has to be installed, that one is ours.
"""

from __future__ import annotations

import site
import sysconfig
import venv
from collections.abc import Sequence
from pathlib import Path


def make(folder: Path, first: Sequence[Path]) -> Path:
    """Make it in ``folder``; its interpreter.

    Args:
        folder: of the environment.
        first: folders of packages, before those of the running Python.
    """
    if not (folder / "bin" / "python3").exists():
        venv.create(folder, symlinks=True, with_pip=False)
    purelib = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    paths = [*map(str, first), *site.getsitepackages()]
    Path(purelib, "packages.pth").write_text("\n".join(paths) + "\n", encoding="utf-8")
    return folder / "bin" / "python3"
