"""Who waits for the device, and what went wrong: by file and function, not by line."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

import gsv
from pretend_cuda.faults import DeviceFault

PRODUCT = str(Path(gsv.__file__).parent) + os.sep
# Frames that are nobody's own decision to wait.
PASSED_OVER = (
    str(Path(__file__).parent) + os.sep,
    str(Path(torch.__file__).parent.parent) + os.sep,  # with all other packages
    str(Path(threading.__file__).parent) + os.sep,
)


class Site(NamedTuple):
    """A function of the product, or of a test."""

    file: str  # relative to the package gsv, as "engine/runner.py"; of others the name alone
    function: str


class Wait(NamedTuple):
    """One way in which a site lets the host wait for the device."""

    site: Site
    what: str  # such as "tolist" or "copy to the device"


@dataclasses.dataclass
class Log:
    """What happened on the device since the log was made or cleared.

    Args:
        loading: functions beneath which waiting is free: nobody listens yet.

    Attributes:
        waits: how often the host waited in which way.
        lines: file and line of each wait, when it was last seen.
        loaded: those of ``loading`` beneath which something has waited.
        faults: also those that the product caught.
        captures: begun since the start.
        replays: of all graphs.
    """

    loading: Collection[Site] = ()
    waits: Counter[Wait] = dataclasses.field(default_factory=Counter)
    lines: dict[Wait, str] = dataclasses.field(default_factory=dict)
    loaded: set[Site] = dataclasses.field(default_factory=set)
    faults: list[DeviceFault] = dataclasses.field(default_factory=list)
    captures: int = 0
    replays: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.RLock()  # a fault may be found while memory is freed, at any time

    def wait(self, what: str) -> None:
        """Count a wait of the calling thread."""
        sites = list(_sites())
        if loading := {site for site, _ in sites} & set(self.loading):
            self.loaded |= loading
            return
        site, line = sites[0] if sites else (Site("?", "?"), "?")
        with self._lock:
            self.waits[Wait(site, what)] += 1
            self.lines[Wait(site, what)] = line

    def fault(self, fault: DeviceFault) -> DeviceFault:
        """Keep a fault, with the place that caused it; to be raised by the caller."""
        sites = " < ".join(line for _, line in list(_sites())[:4])
        fault.args = (f"{fault.args[0]} (at {sites})",)
        with self._lock:
            self.faults.append(fault)
        return fault

    @property
    def sites(self) -> set[Site]:
        """Every function that waited."""
        return {wait.site for wait in self.waits}

    def clear(self) -> None:
        """Forget the waits, not the faults."""
        with self._lock:
            self.waits.clear()
            self.lines.clear()


def _sites() -> Iterator[tuple[Site, str]]:
    """The calling functions, innermost first, with file and line."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        # A comprehension is a frame of its own up to Python 3.11; it belongs to its function.
        ours = code.co_filename.startswith(PRODUCT)
        if (code.co_name[0] != "<" or code.co_name == "<module>") and (
            ours or not code.co_filename.startswith(PASSED_OVER)
        ):
            file = code.co_filename.removeprefix(PRODUCT) if ours else Path(code.co_filename).name
            yield Site(file, code.co_name), f"{file}:{frame.f_lineno}"
        frame = frame.f_back
