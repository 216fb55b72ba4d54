"""The border of this room: whatever a file does to its reader comes out as one kind of error."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from gsv.checkpoints.unpickle import brief
from gsv.errors import CheckpointError, GsvError

logger = logging.getLogger(__name__)

Others = ParamSpec("Others")
Result = TypeVar("Result")


def guarded(
    read: Callable[Concatenate[Path, Others], Result],
) -> Callable[Concatenate[Path, Others], Result]:
    """Let a function that reads the file ``path``, its first argument, raise CheckpointError only.

    The checks inside name what is wrong with a file. This is for what they have not foreseen:
    servers remember a CheckpointError, so that a file that is broken in a new way is not read again
    for every request, and callers get a message with the file's name instead of an internal error.
    """

    @functools.wraps(read)
    def checked(path: Path, /, *args: Others.args, **kwargs: Others.kwargs) -> Result:
        try:
            return read(path, *args, **kwargs)
        except GsvError:
            raise
        except OSError as error:
            raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error
        except Exception as error:  # whatever a hostile file provokes, its reader must say which
            logger.warning("%s: a fault that no check has foreseen", path, exc_info=True)
            raise CheckpointError(
                f"{path}: can't be read ({type(error).__name__}: {brief(error)}); it is damaged "
                "or made to do harm: get the file again"
            ) from error

    return checked
