"""The priority of threads: in processes of their own, since it can't be raised again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from gsv.serving.backend.priority import NICENESS, lower_priority

STEPS = """
import os, sys, threading
from gsv.serving.backend.priority import lower_priority
shown, go_on = [], threading.Event()
def show():
    shown.append(os.getpriority(os.PRIO_PROCESS, 0))
def wait_and_show():
    go_on.wait()
    show()
before = threading.Thread(target=wait_and_show)
before.start()
lower_priority(sys.argv[1])
lower_priority("")
go_on.set()
before.join()
after = threading.Thread(target=show)
after.start()
after.join()
show()
print(*shown)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="tritonserver runs on Linux")
@pytest.mark.parametrize(("prefix", "nicer"), [("/dev/shm/server-", NICENESS), ("", 0)])
def test_all_threads_of_a_process_that_is_watched_are_lowered(prefix: str, nicer: int) -> None:
    command = [sys.executable, "-c", STEPS, prefix]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wanted = min(os.getpriority(os.PRIO_PROCESS, 0) + nicer, 19)
    assert done.stdout.split() == [str(wanted)] * 3


def test_a_sandbox_that_forbids_it_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", refuse)
    lower_priority("/dev/shm/server-")
