"""Memory that a process keeps for its next tensors: page faults of a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from gsv.serving.backend import memory

# Like the scores of a small network's heads: more together than glibc keeps by itself.
STEPS = """
import resource, sys
import numpy
from gsv.serving.backend.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    return [numpy.ones(330_000, numpy.float32) for _ in range(6)]
for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, mode], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_tensors_get_the_memory_of_earlier_ones() -> None:
    assert page_faults("keep") < page_faults("as it comes") / 10


def test_without_mallopt_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()


IMPORTS = """
import gc, sys
sys.modules["triton_python_backend_utils"] = type(sys)("triton_python_backend_utils")
import gsv.serving.backend.adapter
print(gc.isenabled(), gc.get_freeze_count() > 0)
try:
    gsv.serving.backend.adapter.StreamingModel().initialize({})
except KeyError:
    print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


def test_no_garbage_is_collected_while_a_models_process_imports() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "True", "True"], done.stderr
