"""The JSON file of a check: written anew after every measurement, whole or not at all."""

from __future__ import annotations

import json
import math
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
_TRACE_LINES = 12  # frames of a traceback that are kept


class OutOfTimeError(Exception):
    """A step's time is up; what is left of it is skipped."""


class BrokenDeviceError(Exception):
    """The CUDA context answers nothing any more: this process can measure nothing else."""


class Deadline:
    """A moment on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` from now."""
        self._at = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; below 0 afterwards."""
        return self._at - time.monotonic()

    def check(self, needed: float = 0.0) -> None:
        """OutOfTimeError unless ``needed`` seconds are left."""
        if self.left <= needed:
            raise OutOfTimeError(f"{max(self.left, 0.0):.1f} s left")


class Section:
    """What one step found.

    Attributes:
        results: by name of the measurement.
        deadline: the step's own.
    """

    def __init__(self, report: Report, name: str, deadline: Deadline) -> None:
        self._report = report
        self._content = report.content["steps"].setdefault(name, {})
        self.deadline = deadline
        self.results: dict[str, Any] = self._content.setdefault("results", {})

    def put(self, name: str, value: Any) -> None:
        """Keep a result, on disk too."""
        self.results[name] = plain(value)
        self._report.save()

    def note(self, kind: str, name: str, text: str) -> None:
        """Keep why there is no result: ``errors`` or ``skipped``."""
        self._content.setdefault(kind, {})[name] = text
        self._report.save()

    def attempt(self, name: str, function: Callable[[], Any], needed: float = 0.0) -> Any:
        """Call ``function`` and keep its result, or its error; the others go on either way.

        Args:
            name: of the measurement.
            function: may return None, of which nothing is kept.
            needed: seconds that it takes; with less left it is skipped.

        Returns:
            The result; None after an error or without time.

        Raises:
            BrokenDeviceError: the device answers nothing any more.
        """
        started = time.monotonic()
        try:
            self.deadline.check(needed)
            found = function()
        except OutOfTimeError as error:
            self.note("skipped", name, str(error))
            return None
        except BrokenDeviceError:
            raise
        except Exception:  # one measurement's fault must not end the others
            self.note("errors", name, traceback.format_exc(limit=-_TRACE_LINES))
            require_device()
            return None
        finally:
            took = self._content.setdefault("took_s", {})
            took[name] = time.monotonic() - started
        if found is not None:
            self.put(name, found)
        return found


class Report:
    """The file.

    Attributes:
        content: what it holds; see docs/gpu-check.md.
    """

    def __init__(self, path: Path) -> None:
        """Go on with the file at ``path``, or begin it."""
        self._path = path
        if path.is_file():
            self.content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        else:
            self.content = {"format": FORMAT, "machine": {}, "steps": {}, "goals": []}

    def save(self) -> None:
        """Write it; whoever reads at any time finds a whole file."""
        text = json.dumps(plain(self.content), indent=1, allow_nan=False)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.part")
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, self._path)

    def results(self, step: str) -> dict[str, Any]:
        """What a step has found so far; empty when it did not run."""
        found: dict[str, Any] = self.content["steps"].get(step, {}).get("results", {})
        return found


def require_device() -> None:
    """BrokenDeviceError when CUDA was in use and no longer answers."""
    import torch

    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").sum().item()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            return
        raise BrokenDeviceError(str(error)) from error


def plain(value: Any) -> Any:
    """``value`` of plain types, floats to six digits; numbers that JSON lacks become texts."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
