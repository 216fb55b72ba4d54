"""The supervisor beside a program that answers as Triton of several releases does."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import http.client
import json
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from fake_triton import install, write_models

from gsv.errors import ServerError
from gsv.serving.backend.callers_file import Asked
from gsv.serving.backend.heartbeat import Heartbeat, beat_file, stopping_file
from gsv.serving.server import processes
from gsv.serving.server.connections import Traffic, UnreadConnections
from gsv.serving.server.instance_groups import replacement
from gsv.serving.server.launcher import EmbeddedServer, ServerOptions
from gsv.serving.server.processes import Stub
from gsv.serving.server.supervisor import RecoveryPolicy, Supervisor, _LostCallers

RELEASES = ["24.10", "25.12", "26.04"]
QUICK = RecoveryPolicy(
    interval=0.1, backoff=0.05, grace=0.2, stopped=0.3, silent=3.0, mute=0.5, calls=1_000
)


def wait_until(true: Callable[[], bool], seconds: float = 15.0) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


class Watched:
    """A server with its supervisor in a thread."""

    def __init__(self, server: EmbeddedServer, policy: RecoveryPolicy, probe: object = None):
        self.server, self.events = server, list[str]()
        self.supervisor = Supervisor(server, policy, self.events.append, probe)  # type: ignore[arg-type]
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.supervisor.run()
        except ServerError as error:
            self.error = error

    def stub(self, model: str) -> int:
        stubs = processes.living_stubs(self.server.pid)
        return next((stub.pid for stub in stubs if stub.model == model), 0)

    def stubs(self, model: str) -> dict[str, int]:
        stubs = processes.living_stubs(self.server.pid)
        return {stub.instance: stub.pid for stub in stubs if stub.model == model}

    def wait_for(self, words: str) -> None:
        wait_until(lambda: any(words in event for event in self.events))

    def lose(self, model: str) -> None:
        """Kill its process and wait until it has another one."""
        dead = self.stub(model)
        os.kill(dead, signal.SIGKILL)
        self.wait_for_another(model, dead)

    def wait_for_another(self, model: str, than: int) -> None:
        wait_until(lambda: self.stub(model) not in (0, than))


@contextlib.contextmanager
def watched(
    tmp_path: Path,
    release: str = "24.10",
    policy: RecoveryPolicy = QUICK,
    probe: object = None,
    instances: int = 1,
    apart: bool = False,
    models: tuple[str, ...] = ("a", "b"),
    before: Callable[[EmbeddedServer], None] = lambda server: None,
) -> Iterator[Watched]:
    """``before`` is called when the server is ready and nobody watches it yet."""
    repository = write_models(tmp_path / "repository", *models, instances=instances, apart=apart)
    options = ServerOptions(
        tritonserver=install(tmp_path / "triton", release), ready_timeout=10, exit_timeout=5
    )
    with EmbeddedServer(repository, options) as server:
        before(server)
        one = Watched(server, policy, probe)
        try:
            yield one
        finally:
            server.interrupt()
            one.thread.join(20)
            assert not one.thread.is_alive()


@pytest.mark.parametrize("release", RELEASES)
class TestEveryRelease:
    def test_a_killed_stub_comes_back(self, tmp_path: Path, release: str) -> None:
        with watched(tmp_path, release) as one:
            dead, other = one.stub("a"), one.stub("b")
            os.kill(dead, signal.SIGKILL)
            one.wait_for("model a: ready again")
            assert one.stub("a") not in (0, dead)
            assert one.stub("b") == other
            assert not beat_file(one.server.files, dead).exists()
        assert one.events[0] == ("model a: its process died; loading it again (attempt 1 of 5)")
        assert one.error is None

    def test_a_stopped_stub_is_ended_and_comes_back(self, tmp_path: Path, release: str) -> None:
        with watched(tmp_path, release) as one:
            stopped = one.stub("a")
            os.kill(stopped, signal.SIGSTOP)
            one.wait_for("model a: ready again")
            assert one.stub("a") not in (0, stopped)
            assert "its process was stopped for 0.3 s" in one.events[0]

    @pytest.mark.parametrize(
        ("state", "why"),
        [
            ("silent", "no sign of life for 1.2 s, and all its threads sleep;"),
            ("busy", "no sign of life for 3 s;"),
        ],
    )
    def test_a_hanging_stub_is_ended_and_comes_back(
        self, tmp_path: Path, release: str, state: str, why: str
    ) -> None:
        with watched(tmp_path, release) as one:
            hangs = one.server.repository / "a" / state
            hanging = one.stub("a")
            wait_until(beat_file(one.server.files, hanging).exists)
            hangs.touch()
            one.wait_for("model a: its process hangs")
            hangs.unlink()
            one.wait_for_another("a", hanging)
        assert f"its process hangs: {why} loading it again" in one.events[0]

    def test_tritonserver_comes_back(self, tmp_path: Path, release: str) -> None:
        with watched(tmp_path, release) as one:
            before, stubs = one.server.pid, processes.living_stubs(one.server.pid)
            os.kill(before, signal.SIGKILL)
            one.wait_for("tritonserver: ready again")
            assert one.server.pid != before
            assert one.server.request("GET", "/v2/health/ready") == 200
            assert all(processes.ended(stub.pid) for stub in stubs)
            again = one.stub("b")
            os.kill(again, signal.SIGKILL)  # the new one is watched too
            one.wait_for("model b: ready again")
        assert "was killed by SIGKILL" in one.events[0]
        assert "starting it again (attempt 1 of 5)" in one.events[0]

    def test_unloading_is_left_to_others(self, tmp_path: Path, release: str) -> None:
        with watched(tmp_path, release) as one:
            one.server.request("POST", "/v2/repository/models/a/unload", {})
            time.sleep(0.5)
            assert one.stub("a") == 0
            one.server.request("POST", "/v2/repository/models/a/load", {})
            time.sleep(0.3)
            assert one.stub("a") != 0
        assert one.events == []


def test_a_server_that_hangs_in_its_own_crash_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsv.serving.server.launcher.CRASH_SECONDS", 0.2)
    with watched(tmp_path) as one:
        before = one.server.pid
        (one.server.repository / "crash").touch()
        one.wait_for("tritonserver: ready again")
        assert one.server.pid != before
        assert one.server.log.crash is None
    assert one.events[0].startswith("tritonserver crashed with SIGABRT: Signal (6) received.; ")


def test_what_died_before_it_was_seen_comes_back(tmp_path: Path) -> None:
    """A model may be ready, and die, while others are still being loaded."""

    def lose_a(server: EmbeddedServer) -> None:
        (stub,) = (s for s in processes.living_stubs(server.pid) if s.model == "a")
        os.kill(stub.pid, signal.SIGKILL)
        wait_until(lambda: processes.ended(stub.pid))

    with watched(tmp_path, before=lose_a) as one:
        one.wait_for("model a: ready again")
        assert one.stub("a")
    assert [event.partition(" after")[0] for event in one.events] == [
        "model a: its process died; loading it again (attempt 1 of 5)", "model a: ready again"
    ]  # fmt: skip


def test_a_model_that_somebody_changes_is_no_loss(tmp_path: Path) -> None:
    """Triton starts the new process, and ends the old one when the new one is ready."""
    with watched(tmp_path) as one:
        repository, before = one.server.repository, one.stub("a")
        (repository / "a" / "changed").touch()
        groups = json.loads((repository / "a" / "config.pbtxt").read_text())
        body = {"parameters": {"config": json.dumps(groups)}}
        assert one.server.request("POST", "/v2/repository/models/a/load", body) == 200
        wait_until(lambda: processes.ended(before))
        time.sleep(0.5)  # some looks
        assert one.events == []
        one.lose("a")  # the new one is watched
        one.wait_for("ready again")


def test_fewer_instances_than_before_are_enough(tmp_path: Path) -> None:
    with watched(tmp_path, instances=2) as one:
        config = one.server.repository / "a" / "config.pbtxt"
        (group,) = json.loads(config.read_text())["instance_group"]
        config.write_text(json.dumps({"instance_group": [{**group, "count": 1}]}))
        os.kill(one.stub("a"), signal.SIGKILL)
        one.wait_for("model a: ready again")
        time.sleep(0.5)  # some looks
        assert len(one.stubs("a")) == 1
    assert sum("loading it again" in event for event in one.events) == 1


def test_what_dies_while_another_model_loads_is_seen_at_once(tmp_path: Path) -> None:
    with watched(tmp_path, policy=dataclasses.replace(QUICK, mute=60.0)) as one:
        (one.server.repository / "a" / "slow").touch()
        one.lose("a")
        began = time.monotonic()
        os.kill(one.stub("b"), signal.SIGKILL)
        one.wait_for("model b: its process died")
        assert time.monotonic() - began < 2.0  # of the 3 s that loading takes
        assert not any("ready again" in event for event in one.events)
        one.wait_for("model b: ready again")
        one.wait_for("model a: ready again")
    assert sum("loading it again" in event for event in one.events) == 2


def test_a_python_that_knows_no_process_handles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As conda's and uv's, which are built against old headers."""
    monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(ProcessLookupError):
        processes.open_process(2**22 + 1)
    with watched(tmp_path) as one:
        assert len(one.supervisor._watch.handles) == 3
        one.lose("a")
        one.wait_for("ready again")


def test_a_loss_is_remembered_while_triton_does_not_answer(tmp_path: Path) -> None:
    policy = RecoveryPolicy(interval=0.1, backoff=0.05, mute=60.0)
    with watched(tmp_path, policy=policy) as one:
        dead, mute = one.stub("a"), one.server.repository / "mute"
        mute.touch()
        os.kill(dead, signal.SIGKILL)
        time.sleep(1.0)
        mute.unlink()
        one.wait_for("model a: ready again")


def test_one_of_two_instances(tmp_path: Path) -> None:
    with watched(tmp_path, instances=2) as one:
        os.kill(one.stub("a"), signal.SIGKILL)
        one.wait_for("model a: ready again")
        stubs = processes.living_stubs(one.server.pid)
        assert sorted(stub.instance for stub in stubs) == ["a_0_0", "a_0_1", "b_0_0", "b_0_1"]


class TestInstancesThatTritonCanTellApart:
    def test_the_others_go_on(self, tmp_path: Path) -> None:
        with watched(tmp_path, instances=3, apart=True) as one:
            for names in (
                {"a_0_0", "a_2_0", "a_1_again1_0"},
                {"a_0_0", "a_2_0", "a_1_again2_0"},
            ):
                before = one.stubs("a")
                dead = next(name for name in before if name.startswith("a_1"))
                told = len(one.events)
                os.kill(before[dead], signal.SIGKILL)
                wait_until(lambda told=told: len(one.events) == told + 2)
                after = one.stubs("a")
                assert set(after) == names
                assert {n: after[n] for n in ("a_0_0", "a_2_0")} == {
                    n: before[n] for n in ("a_0_0", "a_2_0")
                }
                assert one.events[-1].endswith("its others went on")
            assert [event for event in one.events if "loading it again" in event] == [
                f"model a: its process died; loading it again (attempt {n} of 5)" for n in (1, 2)
            ]

    def test_others_that_triton_starts_anew_are_no_loss(self, tmp_path: Path) -> None:
        with watched(tmp_path, instances=3, apart=True) as one:
            (one.server.repository / "a" / "changed").touch()
            before = one.stubs("a")
            os.kill(before["a_1_0"], signal.SIGKILL)
            one.wait_for("its others were started anew too")
            wait_until(lambda: all(processes.ended(pid) for pid in before.values()))
            time.sleep(0.5)  # some looks
            assert set(one.stubs("a")) == {"a_0_0", "a_2_0", "a_1_again1_0"}
            again = one.stubs("a")["a_0_0"]
            os.kill(again, signal.SIGKILL)  # the new ones are watched
            one.wait_for("its others went on")
        assert sum("its process died" in event for event in one.events) == 2

    def test_two_at_once_are_loaded_with_the_model(self, tmp_path: Path) -> None:
        with watched(tmp_path, instances=3, apart=True) as one:
            before = one.stubs("a")
            for name in ("a_0_0", "a_2_0"):
                os.kill(before[name], signal.SIGKILL)
            one.wait_for("model a: ready again")
            wait_until(lambda: len(one.stubs("a")) == 3)
            lost = {before["a_0_0"], before["a_2_0"]}
            assert not lost & {*one.stubs("a").values()}
        assert one.error is None

    def test_one_that_can_not_be_replaced_is_loaded_with_the_model(self, tmp_path: Path) -> None:
        with watched(tmp_path, instances=2, apart=True) as one:
            (one.server.repository / "a" / "whole").touch()
            before = one.stubs("a")
            os.kill(before["a_0_0"], signal.SIGKILL)
            one.wait_for("the lost instance can't be replaced alone: Invalid argument: no")
            one.wait_for("model a: ready again")
            after = one.stubs("a")
            assert set(after) == set(before)
            assert not {*after.values()} & {*before.values()}

    def test_one_that_triton_can_not_leave_out_ends_in_a_restart(self, tmp_path: Path) -> None:
        policy = dataclasses.replace(QUICK, stuck=0.4, mute=60.0)
        with watched(tmp_path, policy=policy, instances=2, apart=True) as one:
            (stuck := one.server.repository / "a" / "stuck").touch()
            os.kill(one.stubs("a")["a_1_0"], signal.SIGKILL)
            one.wait_for("the lost instance can't be replaced: it has not begun within 0.4 s")
            stuck.unlink()
            one.wait_for("tritonserver: ready again")
            assert set(one.stubs("a")) == {"a_0_0", "a_1_0"}


class TestReplacement:
    GROUPS: ClassVar = [
        {"name": "m_0", "count": 1, "kind": "KIND_GPU", "gpus": [0]},
        {"name": "m_1", "count": 1, "kind": "KIND_GPU", "gpus": [1]},
    ]

    def groups(self, groups: list[dict[str, Any]], lost: str) -> list[list[str]] | None:
        found = replacement({"name": "m", "instance_group": groups}, lost)
        if found is None:
            return None
        loaded = [json.loads(config) for config in (found.without, found.complete)]
        assert all(config["name"] == "m" for config in loaded)
        return [[group["name"] for group in config["instance_group"]] for config in loaded]

    def test_a_gpu_of_its_own(self) -> None:
        assert self.groups(self.GROUPS, "m_1_0") == [["m_0"], ["m_0", "m_1_again1"]]

    @pytest.mark.parametrize(
        "groups",
        [
            [GROUPS[0]],
            [{**GROUPS[0], "gpus": [0, 1]}],
            [{**GROUPS[0], "gpus": [0, 2]}, GROUPS[1]],
            [{**GROUPS[0], "count": 2}, GROUPS[1]],
            [GROUPS[0], {**GROUPS[0], "name": "m_1"}],
        ],
    )
    def test_one_of_several_alike_can_not_be_named(self, groups: list[dict[str, Any]]) -> None:
        assert self.groups(groups, "m_0_0") is None


def test_two_instances_of_one_name_are_both_watched(tmp_path: Path) -> None:
    """As Triton names them where one group is on several GPUs."""
    with watched(tmp_path) as one:
        config = one.server.repository / "a" / "config.pbtxt"
        groups = json.loads(config.read_text())["instance_group"]
        config.write_text(json.dumps({"instance_group": groups * 2}))
        os.kill(one.stub("a"), signal.SIGKILL)
        one.wait_for("model a: ready again")
        for count in (2, 3):
            stubs = [s.pid for s in processes.living_stubs(one.server.pid) if s.model == "a"]
            assert len(stubs) == 2
            os.kill(stubs[count % 2], signal.SIGKILL)
            wait_until(
                lambda count=count: sum("ready again" in event for event in one.events) == count
            )


def test_what_a_replaced_instance_had_in_hand_counts_no_more(tmp_path: Path) -> None:
    with watched(tmp_path, policy=dataclasses.replace(QUICK, mute=60.0)) as one:
        (one.server.repository / "metrics").write_text(
            'gsv_requests_in_flight{model="a",model_instance="a_0_0"} 2\n'
            'gsv_requests_in_flight{model="a",model_instance="a_replaced_0"} 3\n'
        )
        assert one.server.requests_in_flight() == 2
        assert one.server.requests_in_flight("a") == 2
        assert one.server.requests_in_flight("b") == 0
        assert one.server.requests_in_flight("a", {"a_replaced_0"}) == 3


@pytest.mark.parametrize(("lost", "shortest", "longest"), [(1, 0.0, 2.9), (0, 3.0, 6.0)])
def test_instances_that_have_nothing_to_do_are_not_waited_for(
    tmp_path: Path, lost: int, shortest: float, longest: float
) -> None:
    """Where requests were lost with one instance, Triton does not end the others."""
    policy = dataclasses.replace(QUICK, grace=3.0, mute=60.0)
    with watched(tmp_path, policy=policy, instances=2) as one:
        (one.server.repository / "a" / "clings").touch()
        dead = next(s for s in processes.living_stubs(one.server.pid) if s.instance == "a_0_0")
        other = next(s for s in processes.living_stubs(one.server.pid) if s.instance == "a_0_1")
        (one.server.repository / "metrics").write_text(
            f'gsv_requests_in_flight{{model="a",model_instance="a_0_0"}} {lost}\n'
            'gsv_requests_in_flight{model="a",model_instance="a_0_1"} 0\n'
            'gsv_requests_in_flight{model="b",model_instance="b_0_0"} 7\n'
        )
        began = time.monotonic()
        os.kill(dead.pid, signal.SIGKILL)
        wait_until(lambda: processes.ended(other.pid))
        assert shortest <= time.monotonic() - began < longest
        one.wait_for("model a: ready again")


def test_who_waits_for_an_instance_that_is_given_up_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of instances that are alike all are started anew, whatever the others have in hand."""
    waited_for: list[str] = []
    monkeypatch.setattr(_LostCallers, "of", lambda self, stub: waited_for.append(stub.instance))
    model = "gpt_sovits_v4_stream"
    with watched(tmp_path, instances=2, models=(model, "b")) as one:
        (one.server.repository / model / "clings").touch()
        (one.server.repository / "metrics").write_text(
            "".join(
                f'gsv_requests_in_flight{{model="{model}",model_instance="{model}_0_{n}"}} 2\n'
                for n in range(2)
            )
        )
        os.kill(one.stubs(model)[f"{model}_0_0"], signal.SIGKILL)
        one.wait_for(f"model {model}: ready again")
    assert waited_for == [f"{model}_0_0", f"{model}_0_1"]


def test_a_server_that_is_stopped_while_it_loads_is_started_again(tmp_path: Path) -> None:
    with watched(tmp_path) as one:
        (one.server.repository / "a" / "slow").touch()
        server, dead = one.server.pid, one.stub("a")
        os.kill(dead, signal.SIGKILL)
        one.wait_for_another("a", dead)
        (one.server.repository / "a" / "slow").unlink()
        os.kill(server, signal.SIGSTOP)
        one.wait_for("tritonserver: ready again")
        assert one.server.pid != server
    assert any("tritonserver was stopped for 0.3 s" in event for event in one.events)


def test_a_model_that_dies_too_often_does_not_give_up_the_others(tmp_path: Path) -> None:
    policy = RecoveryPolicy(interval=0.05, attempts=2, window=4.0, backoff=0.05, grace=0.1)
    with watched(tmp_path, policy=policy) as one:
        for _ in range(2):
            one.lose("a")
        os.kill(one.stub("a"), signal.SIGKILL)
        one.wait_for("as 2 times before within 4 s; it is left out for")
        # Its callers are refused at once; Triton would let them wait for the process that is gone.
        wait_until(lambda: one.server.request("GET", "/v2/models/a/ready") == 400)
        os.kill(one.stub("b"), signal.SIGKILL)
        one.wait_for("model b: ready again")
        wait_until(lambda: one.stub("a") != 0)  # when the window has moved on
    assert one.error is None


@pytest.mark.parametrize("busy", [False, True])
def test_what_triton_keeps_of_the_dead_is_ended_with_it(tmp_path: Path, busy: bool) -> None:
    policy = dataclasses.replace(QUICK, kept=1 if busy else 2)
    with watched(tmp_path, policy=policy, models=("a", "b", "idle")) as one:
        metrics = one.server.repository / "metrics"
        metrics.write_text(
            'gsv_requests_in_flight{model="a",model_instance="a_0_0"} 3\n'
            'gsv_requests_in_flight{model="b",model_instance="b_0_0"} 1\n'
        )
        before = one.server.pid
        for model in ("idle", "a", "b"):
            one.lose(model)
        if not busy:
            time.sleep(0.5)
            assert one.server.pid == before, "somebody waits for an answer"
            metrics.unlink()
        one.wait_for(
            "memory and threads of 2 processes that died, and of 4 calls of theirs; starting"
        )
        one.wait_for("tritonserver: ready again")
        assert not stopping_file(one.server.files).exists()


def test_lost_calls_do_not_use_up_tritons_threads(tmp_path: Path) -> None:
    """Each call of a public model that died with its stage keeps one of the threads for them."""
    policy = dataclasses.replace(QUICK, kept=100, calls=3)
    with watched(tmp_path, policy=policy, models=("gpt_sovits_v4", "a")) as one:
        metrics = one.server.repository / "metrics"
        metrics.write_text(
            'gsv_requests_in_flight{model="gpt_sovits_v4",model_instance="gpt_sovits_v4_0_0"} 9\n'
            'gsv_requests_in_flight{model="a",model_instance="a_0_0"} 3\n'
        )
        before = one.server.pid
        one.lose("gpt_sovits_v4")  # whose own callers need no such thread
        metrics.write_text('gsv_requests_in_flight{model="a",model_instance="a_0_0"} 3\n')
        one.wait_for("gpt_sovits_v4: ready again")
        one.lose("a")
        one.wait_for("model a: ready again")
        assert one.server.pid == before
        metrics.unlink()
        one.wait_for("of 2 processes that died, and of 3 calls of theirs; starting")
        one.wait_for("tritonserver: ready again")


@pytest.mark.parametrize(("lasting", "waits"), [(0.0, False), (60.0, True)])
def test_only_a_model_that_dies_again_soon_waits(
    tmp_path: Path, lasting: float, waits: bool
) -> None:
    policy = dataclasses.replace(QUICK, backoff=1.5, lasting=lasting)
    with watched(tmp_path, policy=policy) as one:
        for attempt in (1, 2):
            dead, began = one.stub("a"), time.monotonic()
            os.kill(dead, signal.SIGKILL)
            one.wait_for(f"loading it again (attempt {attempt} of 5)")
            one.wait_for_another("a", dead)
        assert (time.monotonic() - began > 1.5) == waits


def test_somebody_else_may_load_a_model_that_waits(tmp_path: Path) -> None:
    policy = dataclasses.replace(QUICK, backoff=3.0)
    with watched(tmp_path, policy=policy) as one:
        one.lose("a")
        os.kill(one.stub("a"), signal.SIGKILL)
        one.wait_for("loading it again (attempt 2 of 5)")
        wait_until(lambda: one.server.request("GET", "/v2/models/a/ready") == 400)
        assert one.server.request("POST", "/v2/repository/models/a/load", {}) == 200
        again = one.stub("a")
        assert again != 0
        time.sleep(3.5)
        assert one.stub("a") == again


def test_a_model_that_can_not_be_loaded_ends_in_a_restart(tmp_path: Path) -> None:
    with watched(tmp_path) as one:
        broken = one.server.repository / "a" / "broken"
        broken.touch()
        os.kill(one.stub("a"), signal.SIGKILL)
        one.wait_for("model a can't be loaded: Internal: ValueError: broken; starting it again")
        broken.unlink()
        one.wait_for("tritonserver: ready again")
        assert one.stub("a") != 0
        assert one.stub("b") != 0
    assert sum("loading failed" in event for event in one.events) == 2


def test_a_load_that_does_not_begin_ends_in_a_restart(tmp_path: Path) -> None:
    policy = dataclasses.replace(QUICK, stuck=0.4, mute=60.0)
    with watched(tmp_path, policy=policy) as one:
        (stuck := one.server.repository / "a" / "stuck").touch()
        os.kill(one.stub("a"), signal.SIGKILL)
        one.wait_for("model a can't be loaded: it has not begun within 0.4 s; starting it again")
        stuck.unlink()
        one.wait_for("tritonserver: ready again")
        assert one.stub("a") != 0


@contextlib.contextmanager
def connections(server: EmbeddedServer, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    opened = [http.client.HTTPConnection(server.http_url, timeout=10) for _ in range(count)]
    try:
        yield opened
    finally:
        for connection in opened:
            connection.close()


class TestCallersOfAPublicModel:
    """Requests that a process had in hand when it died are never answered by Triton."""

    MODELS = ("gpt_sovits_v4", "gpt_sovits_v4_stream", "vocoder")
    POLICY = dataclasses.replace(QUICK, mute=60.0, lost=0.4)

    def test_they_see_their_connection_end(self, tmp_path: Path) -> None:
        with (
            watched(tmp_path, policy=self.POLICY, models=self.MODELS) as one,
            connections(one.server, 3) as (lost, other, idle),
        ):
            # One asks the model that dies, one asks after that, one has its answer.
            idle.request("GET", "/v2/health/live")
            idle.getresponse().read()
            lost.request("POST", "/v2/models/gpt_sovits_v4/infer")
            time.sleep(0.2)
            # Loading takes longer, and its request must not be ended with theirs.
            (slow := one.server.repository / "gpt_sovits_v4" / "stuck").touch()
            server, began = one.server.pid, time.monotonic()
            os.kill(one.stub("gpt_sovits_v4"), signal.SIGKILL)
            one.wait_for("model gpt_sovits_v4: its process died")
            time.sleep(0.1)  # the kernel's clock has ticks of up to 10 ms
            other.request("POST", "/v2/models/vocoder/infer")
            with pytest.raises(http.client.RemoteDisconnected):
                lost.getresponse()
            assert 0.3 < time.monotonic() - began < 3.0
            assert other.getresponse().status == 200
            idle.request("GET", "/v2/health/live")
            assert idle.getresponse().status == 200
            one.wait_for("model gpt_sovits_v4: 1 connections ended that waited in vain")
            slow.unlink()
            one.wait_for("model gpt_sovits_v4: ready again")
            assert one.server.pid == server

    def test_callers_of_models_behind_them_are_left_alone(self, tmp_path: Path) -> None:
        with (
            watched(tmp_path, policy=self.POLICY, models=self.MODELS) as one,
            connections(one.server, 1) as (waiting,),
        ):
            waiting.request("POST", "/v2/models/gpt_sovits_v4/infer")
            os.kill(one.stub("vocoder"), signal.SIGKILL)
            assert waiting.getresponse().status == 200
            one.wait_for("model vocoder: ready again")
        assert not any("in vain" in event for event in one.events)

    def test_one_that_was_not_counted_is_found_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
            port = listener.getsockname()[1]
            callers = []
            for _ in range(2):
                callers.append(stack.enter_context(socket.create_connection(("127.0.0.1", port))))
                served = stack.enter_context(listener.accept()[0])
                callers[-1].sendall(b"x")
                assert served.recv(1) == b"x"
                time.sleep(0.1)
            # A request that is answered just now came at about the time of the first one's.
            other = Asked(time.monotonic() - 0.2)
            looks = iter([[], [other], [other]])
            read = lambda files, dead: ([], next(looks, []))  # noqa: E731
            monkeypatch.setattr("gsv.serving.server.supervisor.read_callers", read)
            server = mock.Mock(pid=os.getpid(), ports=(port, 0, 0), own_connections=set())
            server.ended.return_value = False
            server.requests_in_flight.return_value = 1.0
            events: list[str] = []
            _LostCallers(server, 0.2, events.append).of(Stub(0, "gpt_sovits_v4_stream", "s_0"))
            wait_until(lambda: len(events) == 2)
            assert all("1 connections ended" in event for event in events)
            assert [caller.recv(1) for caller in callers] == [b"", b""]

    def test_where_the_kernel_does_not_allow_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("gsv.serving.server.supervisor.end_waiting", refuse)
        with watched(tmp_path, policy=self.POLICY, models=self.MODELS) as one:
            os.kill(one.stub("gpt_sovits_v4_stream"), signal.SIGKILL)
            one.wait_for("can't be ended here (Operation not permitted; a container needs")
            one.wait_for("model gpt_sovits_v4_stream: ready again")
        assert one.error is None


def test_who_waits_is_told_apart_by_when_bytes_came_and_went() -> None:
    asked, answering = Traffic(server=9.0, caller=3.0), Traffic(server=2.0, caller=9.0)
    answered = Traffic(server=5.0, caller=8.0)  # or an answer that began and went no further
    assert asked.waits_since(2.5, begun=False)
    assert not asked.waits_since(3.5, begun=False)
    assert not answered.waits_since(2.5, begun=False)
    assert answered.waits_since(2.5, begun=True)
    assert Traffic(server=9.0, caller=9.0).waits_since(2.5, begun=False)  # made and used at once
    assert not Traffic(server=9.0, caller=9.0, taken=120).waits_since(2.5, begun=False)
    assert not answering.waits_since(2.5, begun=True)
    # What was made before the death may have reached the caller later; or not yet.
    assert answering.waits_since(2.5, begun=True, later=1.0)
    held = dataclasses.replace(answering, held=True)
    assert not held.waits_since(2.5, begun=True, later=1.0)


class TestUnread:
    """Callers that take nothing of what is sent to them."""

    @pytest.fixture
    def listener(self) -> Iterator[socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            yield listener

    def test_who_takes_nothing_is_disconnected(self, listener: socket.socket) -> None:
        now = 0.0
        unread = UnreadConnections(5.0, lambda: now)
        port = listener.getsockname()[1]
        with contextlib.ExitStack() as stack:
            reader, sleeper, idle = (
                stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
                for _ in range(3)
            )
            served = [stack.enter_context(listener.accept()[0]) for _ in range(3)]
            for one in served[:2]:
                one.setblocking(False)
                while select.select([], [one], [], 0.3)[1]:  # until the kernel takes no more
                    one.send(bytes(65536))
            assert unread.end(os.getpid(), [port]) == 0
            reader.recv(1 << 20, socket.MSG_WAITALL)
            now = 4.0
            assert unread.end(os.getpid(), [port]) == 0
            now = 6.0
            assert unread.end(os.getpid(), [port]) == 1
            with pytest.raises(OSError, match="Broken pipe"):
                served[1].send(b"x")
            served[2].send(b"x")
            assert idle.recv(1) == b"x"
            assert sleeper.recv(1 << 20)  # what lay ready
            now = 60.0
            assert unread.end(os.getpid(), [port + 1]) == 0

    def test_the_supervisor_looks_and_tells(self, tmp_path: Path) -> None:
        policy = dataclasses.replace(QUICK, mute=60.0, unread=0.5)
        with (
            watched(tmp_path, policy=policy) as one,
            socket.create_connection(("127.0.0.1", one.server.ports[0]), 10) as asked,
        ):
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            asked.sendall(b"GET /v2/flood HTTP/1.1\r\n\r\n")
            one.wait_for("1 connections ended whose callers took nothing for 0.5 s")
            assert one.error is None

    def test_where_the_kernel_does_not_allow_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> int:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(UnreadConnections, "end", refuse)
        with watched(tmp_path) as one:
            one.wait_for("that read nothing of their answers can't be told here (Operation not")
            time.sleep(0.3)
            assert len(one.events) == 1


def test_looking_for_callers_that_read_nothing_goes_on_after_a_fault_that_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = list[int]()

    def refuse(*_: object) -> int:
        looks.append(1)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(UnreadConnections, "end", refuse)
    with watched(tmp_path, policy=dataclasses.replace(QUICK, mute=60.0, unread=0.5)) as one:
        wait_until(lambda: len(looks) > 2)
    assert one.events == []


def test_it_ends_when_nothing_helps(tmp_path: Path) -> None:
    policy = RecoveryPolicy(interval=0.05, attempts=2, backoff=0.05)
    with watched(tmp_path, policy=policy) as one:
        (one.server.repository / "a" / "broken").touch()
        os.kill(one.server.pid, signal.SIGKILL)
        one.thread.join(20)
        assert str(one.error) == (
            "model a failed to load: ValueError: broken; it was started anew 2 times within 600 s; "
            "giving up"
        )
    assert one.server.ended()


def test_nothing_is_brought_back_with_no_attempts(tmp_path: Path) -> None:
    with watched(tmp_path, policy=RecoveryPolicy(interval=0.05, attempts=0)) as one:
        os.kill(one.stub("a"), signal.SIGKILL)
        one.thread.join(20)
        assert "model a: its process died" in str(one.error)


def test_a_server_that_is_stopped_is_started_again(tmp_path: Path) -> None:
    with watched(tmp_path, policy=dataclasses.replace(QUICK, mute=60.0)) as one:
        before = one.server.pid
        os.kill(before, signal.SIGSTOP)
        one.wait_for("tritonserver was stopped for 0.3 s; starting it again")
        one.wait_for("tritonserver: ready again")
        assert one.server.pid != before


def test_a_server_that_does_not_answer_is_started_again(tmp_path: Path) -> None:
    with watched(tmp_path) as one:
        before = one.server.pid
        wait_until(lambda: one.supervisor._compared)
        (mute := one.server.repository / "mute").touch()
        one.wait_for("tritonserver has not answered for 0.5 s; starting it again")
        mute.unlink()  # the next one answers
        one.wait_for("tritonserver: ready again")
        assert one.server.pid != before


def test_own_probes_find_a_server_that_does_not_speak(tmp_path: Path) -> None:
    answers = iter([None, ServerError("silence"), ServerError("silence"), None, None])

    def probe() -> None:
        error = next(answers, None)
        if error:
            raise error

    policy = RecoveryPolicy(interval=0.05, probe=0.05)
    with watched(tmp_path, policy=policy, probe=probe) as one:
        one.wait_for("tritonserver does not speak: silence; starting it again")
        one.wait_for("tritonserver: ready again")
        time.sleep(0.5)
    assert len(one.events) == 2


def test_the_end_does_not_wait_for_triton(tmp_path: Path) -> None:
    with watched(tmp_path) as one:
        (one.server.repository / "holds").touch()
        started = time.monotonic()
    assert time.monotonic() - started < 3.0
    assert list(processes.SHARED_MEMORY.glob(f"{one.server.region_prefix}*")) == []


def test_a_killed_server_does_not_hold_up_the_end(tmp_path: Path) -> None:
    # A load that waits for a server whose stubs hold its connections was never answered.
    repository = write_models(tmp_path / "repository", "a")
    options = ServerOptions(tritonserver=install(tmp_path / "triton", "24.10"), exit_timeout=30)
    with EmbeddedServer(repository, options) as server:
        (repository / "mute").touch()
        threading.Timer(0.3, os.kill, (server.pid, signal.SIGKILL)).start()
        started = time.monotonic()
        assert server.request("POST", "/v2/repository/models/a/load", {}, timeout=60) == 0
        assert time.monotonic() - started < 3.0
    assert time.monotonic() - started < 6.0


class TestHeartbeat:
    def test_beats_until_closed(self, tmp_path: Path) -> None:
        heart = Heartbeat(f"{tmp_path}/x-").start()
        file = beat_file(f"{tmp_path}/x-", os.getpid())
        before = file.stat().st_mtime_ns
        wait_until(lambda: file.stat().st_mtime_ns != before)
        heart.close()
        assert list(tmp_path.iterdir()) == []

    def test_a_step_that_takes_too_long_is_no_sign_of_life(self, tmp_path: Path) -> None:
        heart = Heartbeat(f"{tmp_path}/x-").start()
        file = beat_file(f"{tmp_path}/x-", os.getpid())
        with heart.step(0.0):
            time.sleep(0.7)
            before = file.stat().st_mtime_ns
            time.sleep(0.8)
            assert file.stat().st_mtime_ns == before
        wait_until(lambda: file.stat().st_mtime_ns != before)
        heart.close()

    def test_tells_that_the_server_stops(self, tmp_path: Path) -> None:
        heart = Heartbeat(f"{tmp_path}/x-")
        assert not heart.stopping()
        stopping_file(f"{tmp_path}/x-").touch()
        assert heart.stopping()

    def test_nobody_watches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GSV_SERVER_FILES", raising=False)
        heart = Heartbeat().start()
        assert not heart.stopping()
        heart.close()

    def test_a_folder_that_is_not_there_is_no_fault(self, tmp_path: Path) -> None:
        heart = Heartbeat(f"{tmp_path}/nowhere/x-").start()
        heart.close()
