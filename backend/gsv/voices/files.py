"""Files of the voice folder, whose writers are not trusted."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path, folder: int | None = None, flags: int = 0) -> BinaryIO:
    """Open a file for reading, only if it is a regular one: a pipe would let the reader wait.

    Args:
        path: the file.
        folder: descriptor of the folder that a relative path begins in.
        flags: further ones for ``os.open``.

    Raises:
        OSError: it is not there, can't be read, or is not a regular file.
    """
    flags |= os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(handle, "rb")
