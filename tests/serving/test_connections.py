"""Whose connections are ended when a public model's process has died."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gsv.serving.backend.callers_file import WRITE_SECONDS, Asked, CallersFile, read_callers
from gsv.serving.server.connections import end_waiting, names_of, own_ports


class Connections:
    """Callers of this process, and what it would tell of their requests."""

    def __init__(self, listener: socket.socket, stack: contextlib.ExitStack) -> None:
        self._listener, self._stack = listener, stack
        self.port = listener.getsockname()[1]

    def ask(self) -> tuple[socket.socket, socket.socket, Asked]:
        """A caller's connection, ours, and the request that has come on it."""
        caller = self._stack.enter_context(socket.create_connection(("127.0.0.1", self.port), 10))
        ours = self._stack.enter_context(self._listener.accept()[0])
        caller.sendall(b"x")
        assert ours.recv(1) == b"x"
        asked = Asked(time.monotonic())
        time.sleep(0.1)  # the kernel's clock has ticks of up to 10 ms
        return caller, ours, asked

    def end(self, quiet: float, **known: Any) -> int:
        answered = known.pop("answered", ())
        ended = end_waiting(
            os.getpid(), {self.port: True}, time.monotonic() - quiet,
            answered=lambda: answered, **known,
        )  # fmt: skip
        return ended.connections


@pytest.fixture
def connections() -> Iterator[Connections]:
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        yield Connections(listener, stack)


def is_open(caller: socket.socket) -> bool:
    caller.settimeout(0.05)
    try:
        return caller.recv(1) != b""
    except TimeoutError:
        return True


class TestEndWaiting:
    def test_all_that_are_quiet_where_nothing_is_known(self, connections: Connections) -> None:
        callers = [connections.ask()[0] for _ in range(2)]
        assert connections.end(0.05) == 2
        assert not any(map(is_open, callers))

    def test_who_is_answered_elsewhere_is_left_alone(self, connections: Connections) -> None:
        asked = [connections.ask() for _ in range(4)]
        living = [asked[0][2], asked[2][2]]
        assert connections.end(0.05, answered=living, lost=[asked[1][2]]) == 2
        assert [is_open(caller) for caller, *_ in asked] == [True, False, True, False]

    def test_a_stream_is_known_by_what_was_last_sent(self, connections: Connections) -> None:
        (heard, served, first), (lost, _, second) = connections.ask(), connections.ask()
        served.send(b"y")
        assert heard.recv(1) == b"y"
        streamed = Asked(first.came - 20.0, time.monotonic())
        time.sleep(0.1)
        assert connections.end(0.05, answered=[streamed], lost=[second]) == 1
        assert is_open(heard)
        assert not is_open(lost)

    def test_one_request_spares_one_connection(self, connections: Connections) -> None:
        callers = [connections.ask()[0] for _ in range(3)]
        assert connections.end(0.05, answered=[Asked(time.monotonic() - 0.1)]) == 2
        assert sum(map(is_open, callers)) == 1

    def test_a_request_of_another_time_spares_none(self, connections: Connections) -> None:
        caller, _, asked = connections.ask()
        others = [Asked(asked.came - 5.0), Asked(asked.came + 5.0), Asked(1.0, asked.came - 5.0)]
        assert connections.end(0.05, answered=others) == 1
        assert not is_open(caller)

    def test_who_came_later_has_nothing_to_do_with_it(self, connections: Connections) -> None:
        early = connections.ask()[0]
        there = names_of(os.getpid(), [connections.port])
        late = connections.ask()[0]
        assert connections.end(-math.inf, among=there) == 1
        assert not is_open(early)
        assert is_open(late)

    def test_ours_is_spared(self, connections: Connections) -> None:
        callers = [connections.ask()[0] for _ in range(2)]
        there = names_of(os.getpid(), [connections.port])
        own = frozenset({callers[0].getsockname()[1]})
        assert connections.end(-math.inf, among=there, spared=own) == 1
        assert [is_open(caller) for caller in callers] == [True, False]


def test_what_is_sent_late_ends_nobodys_waiting(connections: Connections) -> None:
    """A listener takes what was made before the death for long after it."""
    caller, served, _ = connections.ask()
    since = time.monotonic()
    time.sleep(0.1)
    served.sendall(b"y")
    assert caller.recv(1) == b"y"
    time.sleep(0.2)
    assert end_waiting(os.getpid(), {connections.port: True}, since).connections == 0
    late = end_waiting(os.getpid(), {connections.port: True}, since, later=0.2)
    assert late.connections == 1


def test_who_is_answered_while_it_is_looked_at_goes_on(connections: Connections) -> None:
    (caller, served, asked), (lost, _, other) = connections.ask(), connections.ask()
    answers = iter([[asked], []])

    def answered() -> list[Asked]:
        if not (left := next(answers)):
            served.sendall(b"y")  # and its request is in no file any more
        return left

    since = time.monotonic() - 0.05
    ended = end_waiting(
        os.getpid(), {connections.port: True}, since, lost=[other], answered=answered
    )
    assert ended == (1, 1)
    assert caller.recv(1) == b"y"
    assert is_open(caller)
    assert not is_open(lost)


def test_own_ports(connections: Connections) -> None:
    callers = [connections.ask()[0] for _ in range(2)]
    assert own_ports(connections.port) == {caller.getsockname()[1] for caller in callers}
    assert own_ports(callers[0].getsockname()[1]) == {connections.port}
    callers[0].close()
    assert own_ports(connections.port) == {callers[1].getsockname()[1]}


class TestCallersFile:
    @pytest.fixture
    def other(self) -> Iterator[int]:
        """The number of another process that lives."""
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            yield process.pid
            process.kill()

    def test_what_is_written_is_read(self, tmp_path: Path, other: int) -> None:
        prefix, now = f"{tmp_path}/x-", 10.0
        file = CallersFile(prefix, lambda: now)
        asked = [Asked(2.0, 3.0), Asked(1.0)]
        assert not file.write(asked)
        assert read_callers(prefix, dead=other) == ([], asked[::-1])
        assert file.write([]), "too soon: it is to be called again"
        assert read_callers(prefix, dead=other) == ([], asked[::-1])
        now += 2 * WRITE_SECONDS
        assert not file.write([])
        assert read_callers(prefix, dead=other) == ([], [])
        file.close()
        assert list(tmp_path.iterdir()) == []

    def test_the_file_of_the_dead_is_read_once(self, tmp_path: Path, other: int) -> None:
        prefix = f"{tmp_path}/x-"
        CallersFile(prefix).write([Asked(1.0)])
        (tmp_path / f"x-callers-{other}").write_text("[[2.0, 2.5]]")
        assert read_callers(prefix, dead=os.getpid()) == ([Asked(1.0)], [Asked(2.0, 2.5)])
        assert read_callers(prefix, dead=os.getpid()) == ([], [Asked(2.0, 2.5)])

    def test_what_others_left_goes_in_time(self, tmp_path: Path) -> None:
        left = tmp_path / "x-callers-4194305"  # above the highest number of a process
        left.write_text("[[1.0, null]]")
        assert read_callers(f"{tmp_path}/x-", dead=1) == ([], [])
        assert left.exists(), "somebody may be about to read it"
        os.utime(left, (1.0, 1.0))
        assert read_callers(f"{tmp_path}/x-", dead=1) == ([], [])
        assert not left.exists()

    def test_nobody_is_told_without_a_server(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        file = CallersFile("")
        assert not file.write([Asked(1.0)])
        assert not file.write([])
        file.close()
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_harms_nobody(self, tmp_path: Path) -> None:
        file = CallersFile(f"{tmp_path}/none/x-")
        file.write([Asked(1.0)])
        assert read_callers(f"{tmp_path}/none/x-", dead=1) == ([], [])
