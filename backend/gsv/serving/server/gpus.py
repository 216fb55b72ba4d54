"""The NVIDIA GPUs of this machine, as ``nvidia-smi`` lists them."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess

SMI = "nvidia-smi"
_SECONDS = 30.0  # a driver that isn't loaded yet takes some


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: as the driver counts.
        name: of the product.
        mig: whether it is partitioned (multi-instance GPU).
    """

    index: int
    name: str
    mig: bool


def listed() -> list[Gpu]:
    """All GPUs; none where there is no driver or it does not answer."""
    program = shutil.which(SMI)
    if program is None:
        return []
    query = [program, "--query-gpu=index,mig.mode.current,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    rows = (line.split(",", 2) for line in done.stdout.splitlines())
    return [
        Gpu(int(index), name.strip(), mig.strip() == "Enabled")
        for index, mig, name in (row for row in rows if len(row) == 3)
    ]
