"""What differs between releases of Triton, as far as it changes what we do.

Only 24.10 (tritonserver 2.51.0, which the package nvidia-pytriton brings) has been run with this
project. The rest is read from NVIDIA's release notes and from the sources of server and
python_backend (branches r24.10 to r26.07). docs/versions.md says what was run.
"""

from __future__ import annotations

import dataclasses
import re

from gsv.errors import ConfigurationError


@dataclasses.dataclass(frozen=True, order=True)
class Release:
    """A monthly release of NVIDIA's image, such as 24.10."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> Release:
        """From ``24.10``.

        Raises:
            ConfigurationError: it is not of that form.
        """
        found = re.fullmatch(r"(\d\d)\.(0[1-9]|1[0-2])", text)
        if not found:
            raise ConfigurationError(
                f"Triton release: got {text!r}; allowed: year and month, such as 24.10"
            )
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.year}.{self.month:02}"


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a release does.

    Attributes:
        python: of the stub in NVIDIA's image.
        glibc: minor version of the C library in the image, 35 for 2.35.
        reads_numpy_2: its stub understands arrays of NumPy 2 (pybind11 2.12); an older one misreads
            them.
        runs_activate: the stub's environment is what ``bin/activate`` makes of it; a later release
            only puts the environment's ``bin`` and ``lib`` first.
        ready_without_process: a model whose process died is still READY for everybody.
        reaps_processes: the server waits for the processes that died, so that none is left to see.
        health_sees_models: ``/v2/health/ready`` fails while a model's process is dead.
    """

    python: str
    glibc: int
    reads_numpy_2: bool
    runs_activate: bool
    ready_without_process: bool
    reaps_processes: bool
    health_sees_models: bool


def facts(release: Release) -> Facts:
    """What a release does."""
    new_image = release >= Release(24, 11)  # Ubuntu 24.04
    notices_death = release >= Release(25, 12)
    return Facts(
        python="3.12" if new_image else "3.10",
        glibc=39 if new_image else 35,
        reads_numpy_2=new_image,
        runs_activate=release < Release(25, 8),
        ready_without_process=not notices_death,
        reaps_processes=notices_death,
        health_sees_models=release >= Release(26, 4),
    )


def oldest_glibc(python: str) -> int | None:
    """The oldest C library (35 for 2.35) of the images with this Python; None: no image has it."""
    images = [facts(Release(24, 10)), facts(Release(24, 11))]
    return min((image.glibc for image in images if image.python == python), default=None)
