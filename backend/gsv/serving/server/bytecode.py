"""Compiles the models' ``model.py`` before Triton looks at the repository.

Python writes a module's bytecode beside it when it is first imported. In a model's folder that
counts as a change of the model: Triton, told to replace one lost instance, then starts all others
anew as well (2.51), and their requests are lost.
"""

from __future__ import annotations

import contextlib
import importlib.util
import py_compile
import struct
from pathlib import Path


def compile_models(repository: Path) -> None:
    """Write the bytecode of every model that this Python will import, where it is not up to date.

    What is up to date stays, since another server may run on the same repository. The loader of
    Python's own imports doesn't serve here: it heeds ``PYTHONDONTWRITEBYTECODE``, which Triton's
    stubs (2.51) do not. A repository that can't be written stays as it is; no model's process can
    change it either.
    """
    for source in repository.glob("*/*/model.py"):
        if not _is_current(source):
            with contextlib.suppress(OSError, py_compile.PyCompileError):
                py_compile.compile(str(source), doraise=True)


def _is_current(source: Path) -> bool:
    """Whether an import would leave the bytecode alone: it holds the source's time and size."""
    cached = Path(importlib.util.cache_from_source(str(source)))
    try:
        head = cached.read_bytes()[:16]
        status = source.stat()
    except OSError:
        return False
    time_and_size = (int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    return head == importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, *time_and_size)
