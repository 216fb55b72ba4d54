"""Brings back what died: a model whose process is gone or hangs, and tritonserver itself.

Triton's life cycle says which models are loaded; each of their instances must have a living
process. When such a process dies (killed, out of memory), no version of Triton starts another. The
supervisor then replaces the instance that was lost, where Triton can tell it from the model's
others; else it unloads the model and loads it again. If that fails, it restarts tritonserver; if
that fails too, it gives up and ends.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable

from gsv.constants import PUBLIC_PREFIX, STREAM_MODEL
from gsv.errors import Cancelled, ServerError
from gsv.serving.backend.callers_file import read_callers
from gsv.serving.server.connections import UnreadConnections, end_waiting, names_of
from gsv.serving.server.instance_groups import instances, replacement
from gsv.serving.server.launcher import REQUEST_SECONDS, WAIT_STEP_SECONDS, EmbeddedServer
from gsv.serving.server.options import call_threads
from gsv.serving.server.processes import Stub, living_stubs, state
from gsv.serving.server.stub_watch import Loss, StubWatch

LOADS_BEFORE_RESTART = 2  # of one model that fail one after the other
PROBES_BEFORE_RESTART = 2
DYING_SECONDS = 0.1  # by which tritonserver's processes may be gone before it is, when it dies
LEAVE_SECONDS = 5.0  # for an instance that died to be left out; it takes up to 2 on a busy machine
LONGEST_BACKOFF_SECONDS = 10.0
CALLERS_LOOKS = 3  # at least, for connections of a dead process's callers
MOST_CALLERS_LOOKS = 40  # while there are fewer than it had requests
SENDING_SHARE = 0.1  # of what they wait: as long what it sent may come after its death
READER_LOOKS = 10  # at each connection, before its caller counts as one that reads nothing


@dataclasses.dataclass(frozen=True)
class RecoveryPolicy:
    """How often to look and how often to try; times are in seconds.

    Within ``window`` a model is brought back up to ``attempts`` times, and so is tritonserver.
    That comes at once, but what dies within ``lasting`` seconds of being ready again, for the n-th
    time in a row, waits ``backoff`` · 2ⁿ⁻¹ seconds, 10 at most. A model that dies more often stays
    away until the window has moved on; the others go on. ``grace`` is
    what the model's other instances get to finish their requests. ``stopped`` is how long a
    process may be stopped, ``silent`` how long it may show no heartbeat, ``mute`` how long
    tritonserver may not answer. After every ``probe`` seconds without a request (0: never) the
    server is asked to speak. A load that has not begun after ``stuck`` never will. Callers of a
    public model whose process died wait ``lost``; those that take nothing of their answer for
    ``unread`` are disconnected (0: never). Triton never lets go of a process that died with
    requests in hand (2.51: its shared memory, and a thread for each call that it might have made).
    After ``kept`` of these it is started anew once nothing is under way, after twice as many in
    any case. The same holds for ``calls`` that public models had made of a model that died: each
    keeps one of the threads that such calls need (0: a third of them).
    """

    interval: float = 0.5
    attempts: int = 5
    window: float = 600.0
    lasting: float = 5.0
    backoff: float = 1.0
    grace: float = 5.0
    stopped: float = 1.0
    silent: float = 4.0
    mute: float = 15.0
    probe: float = 0.0
    stuck: float = 10.0
    lost: float = 1.5
    unread: float = 60.0
    kept: int = 25
    calls: int = 0


class _Budget:
    """Times within a window that something was brought back."""

    def __init__(self, policy: RecoveryPolicy) -> None:
        self._policy = policy
        self._times: collections.deque[float] = collections.deque()
        self._ready = -math.inf  # since when it is; never while it is being brought back
        self._in_a_row = 0  # times too soon after one another

    def take(self) -> float | None:
        """One more; seconds to wait before it, None when there were too many already."""
        if self.is_spent():
            return None
        now = time.monotonic()
        self._times.append(now)
        lived, self._ready = now - self._ready, math.inf
        if lived > self._policy.lasting:
            self._in_a_row = 0
            return 0.0
        self._in_a_row += 1
        wait: float = self._policy.backoff * 2.0 ** (self._in_a_row - 1)
        return min(wait, LONGEST_BACKOFF_SECONDS)

    def is_spent(self) -> bool:
        """Whether there were too many already."""
        while self._times and time.monotonic() - self._times[0] > self._policy.window:
            self._times.popleft()
        return len(self._times) >= self._policy.attempts

    def ready_again(self) -> None:
        """It was brought back; it may die again."""
        self._ready = time.monotonic()

    @property
    def spent(self) -> int:
        """How many there were, up to the last :meth:`take`."""
        return len(self._times)

    def free_in(self) -> float:
        """Seconds until one more is allowed."""
        if not self._times:
            return self._policy.window
        return self._times[0] + self._policy.window - time.monotonic()


@dataclasses.dataclass
class _Case:
    """A model that has to be brought back."""

    due: float  # when to try, by time.monotonic
    lost: list[str] = dataclasses.field(default_factory=list)  # instances; empty: not known
    stubs: int = 0  # processes that the model had, should Triton not tell
    failed: int = 0  # attempts to load it that failed in a row
    unloaded: bool = False  # by us, so that Triton no longer lists it as wanted
    others_anew: bool = False  # Triton started all instances anew, not the lost one alone


class Supervisor:
    """Watches a running server until it is interrupted.

    Args:
        server: has been started.
        on_event: gets a line for people.
        probe: lets the server speak; raises an error when it doesn't.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        policy: RecoveryPolicy | None = None,
        on_event: Callable[[str], None] = lambda text: None,
        probe: Callable[[], None] | None = None,
    ) -> None:
        self._server, self._policy, self._on_event = server, policy or RecoveryPolicy(), on_event
        self._cases: dict[str, _Case] = {}
        self._budgets: dict[str, _Budget] = {}
        self._restarts = _Budget(self._policy)
        self._probe = _OwnProbe(probe, self._policy.probe) if probe else None
        self._callers = _LostCallers(server, self._policy.lost, on_event)
        self._readers = _Readers(server, self._policy.unread, on_event)
        self._answered = time.monotonic()
        self._kept = 0  # processes that tritonserver doesn't let go of
        self._lost_calls = 0.0  # of public models, which keep a thread of tritonserver's each
        self._compared = False  # what it has loaded with its processes, since it started
        self._watch = self._new_watch()

    def run(self) -> None:
        """Until ``server.interrupt()``; ServerError when nothing helped."""
        try:
            while not self._server.interrupted:
                if reason := self._fault():
                    self._restart(reason)
                    continue
                self.look()
                self._readers.look()
                for model in self._due():
                    self._recover(model)
                self._refuse_callers()
                if not (self._server.interrupted or self._server.ended()):
                    self._server.wait(self._pause(), self._watch.handles)
        finally:
            self._watch.close()

    def look(self, loading: str = "") -> list[str]:
        """Note what was lost since the last look; the models that are to be brought back.

        Args:
            loading: a model that is being loaded; its processes come and go.
        """
        # On a busy machine the questions to Triton between two looks take up to a second.
        losses = self._watch.look(2 * self._policy.interval + 1.0, loading)
        if losses and self._server.ends_within(DYING_SECONDS):
            return []  # its stubs are nobody's children any more
        self._kill({loss.stub.pid for loss in losses})
        for model in dict.fromkeys(loss.stub.model for loss in losses):
            self._look_at(model, [loss for loss in losses if loss.stub.model == model])
        self._note_companions(sorted({loss.stub.model for loss in losses} & self._cases.keys()))
        if not self._compared:
            self._compare()
        return sorted(self._cases)

    def _look_at(self, model: str, losses: list[Loss]) -> None:
        """Note losses of one model, unless it has others in place of the lost."""
        living = len(self._watched(model))
        wanted = self._wanted(model)
        if wanted is not None and living >= wanted:
            return  # somebody has loaded it anew, or with fewer instances
        had = living + len(losses)
        for loss in losses:
            self._note(loss, had if wanted is None else min(had, wanted))
            self._note_requests(loss.stub)

    def _note_requests(self, stub: Stub) -> None:
        """Note what a process had in hand that has ended, and have its callers' waiting ended."""
        self._callers.of(stub)  # first: it notes which connections there are
        in_hand = self._server.requests_in_flight(stub.model, {stub.instance}) or 0.0
        self._kept += bool(in_hand)
        if not stub.model.startswith(PUBLIC_PREFIX):
            self._lost_calls += in_hand

    def _compare(self) -> None:
        """Note what died before it was ever seen: while other models were still being loaded."""
        index = self._index()
        self._compared = bool(index)
        for model, states in index.items():
            wanted = self._wanted(model) if ("READY", "") in states else None
            if wanted and len(self._watched(model)) < wanted and model not in self._cases:
                self._note(Loss(Stub(0, model, ""), "its process died"), 0)

    def _watched(self, model: str) -> list[Stub]:
        """Processes of a model that lived at the last look."""
        return [stub for stub in self._watch.stubs if stub.model == model]

    def _wanted(self, model: str) -> int | None:
        """How many processes Triton says that a model should have; None where it doesn't."""
        versions = [state for state, _ in self._index().get(model, ())].count("READY")
        if not versions:
            return None
        status, text = self._server.ask("GET", f"/v2/models/{model}/config")
        each = instances(json.loads(text)) if status == 200 else None
        return None if each is None else versions * each

    def _new_watch(self) -> StubWatch:
        watch = StubWatch(
            self._server.pid,
            self._server.files,
            stopped_seconds=self._policy.stopped,
            silent_seconds=self._policy.silent,
        )
        watch.look()
        return watch

    def _fault(self) -> str:
        """Why tritonserver itself has to be started anew; empty while it is well."""
        if self._server.ended():
            return self._server.end_reason()
        if self._watch.server_stopped > self._policy.stopped:
            return f"tritonserver was stopped for {self._policy.stopped:g} s"
        now = time.monotonic()
        timeout = min(REQUEST_SECONDS, self._policy.mute)

        def is_stopped() -> bool:
            return state(self._server.pid) == "T"

        path = "/v2/health/live"
        if self._server.ask("GET", path, timeout=timeout, give_up=is_stopped)[0]:
            self._answered = now
        elif not self._server.ended() and now - self._answered > self._policy.mute:
            return f"tritonserver has not answered for {self._policy.mute:g} s"
        if self._cases:
            return ""
        return self._burden() or (self._probe.fault(self._server) if self._probe else "")

    def _burden(self) -> str:
        """Why tritonserver is to be started anew before what it keeps of the dead harms it."""
        if not self._kept:
            return ""
        most = self._policy.calls or call_threads(self._server.repository) / 3
        burden = max(self._kept / self._policy.kept, self._lost_calls / most)
        if burden < 1 or self._restarts.is_spent():
            return ""
        if burden >= 2:
            self._server.finish_requests(self._policy.grace)
        elif self._server.requests_in_flight() != 0:
            return ""
        return (
            f"tritonserver keeps the memory and threads of {self._kept} processes that died, and "
            f"of {self._lost_calls:.0f} calls of theirs"
        )

    def _note(self, loss: Loss, stubs: int) -> None:
        """Note that one of a model's processes was lost; ``stubs`` is how many it had."""
        model = loss.stub.model
        if case := self._cases.get(model):
            case.lost.append(loss.stub.instance)
            return
        if self._is_unwanted(model):
            return
        if not self._policy.attempts:
            raise ServerError(f"model {model}: {loss.reason}; nothing is to be brought back")
        budget = self._budgets.setdefault(model, _Budget(self._policy))
        wait = budget.take()
        if wait is None:
            wait = max(budget.free_in(), 0.0)
            self._on_event(
                f"model {model}: {loss.reason}, as {budget.spent} times before within "
                f"{self._policy.window:g} s; it is left out for {wait:.0f} s (memory? see the log)"
            )
        else:
            self._on_event(
                f"model {model}: {loss.reason}; loading it again "
                f"(attempt {budget.spent} of {self._policy.attempts})"
            )
        self._cases[model] = _Case(time.monotonic() + wait, [loss.stub.instance], stubs)

    def _note_companions(self, dead: list[str]) -> None:
        """Models that have to be started anew with the dead ones; their processes are ended.

        Under MPS the processes on a GPU share one context's fate: after a fatal fault of one the
        others' work fails as well, and the GPU takes none anew until all of them are gone.
        """
        if not (dead and self._server.shares_gpus):
            return
        hurt = frozenset[int]().union(*map(self._server.gpus_of, dead))
        stubs = [stub for stub in self._watch.stubs if stub.model not in dead]
        others = sorted({s.model for s in stubs if hurt & self._server.gpus_of(s.model)})
        if others:
            self._on_event(
                f"MPS: {', '.join(others)}: on the same GPU as {', '.join(dead)}, started anew too"
            )
        for model in others:
            own = {stub.pid for stub in stubs if stub.model == model}
            self._cases.setdefault(model, _Case(time.monotonic(), stubs=len(own)))
            self._watch.release(own)  # their end is no loss of its own
            self._kill(own)

    def _is_unwanted(self, model: str) -> bool:
        """Whether somebody has unloaded it; no, when Triton does not say."""
        state, reason = self._lifecycle().get(model, ("READY", ""))
        return state == "UNLOADING" or (state == "UNAVAILABLE" and reason in ("unloaded", ""))

    def _is_back(self, model: str, case: _Case) -> bool:
        """Whether somebody else has loaded it meanwhile."""
        enough = [number for number in (self._wanted(model), case.stubs) if number]
        return bool(enough) and len(self._watched(model)) >= min(enough)

    def _lifecycle(self) -> dict[str, tuple[str, str]]:
        """What Triton was told to have loaded: state and reason of each model's last version."""
        return {model: states[-1] for model, states in self._index().items()}

    def _index(self) -> dict[str, list[tuple[str, str]]]:
        """State and reason of each version of each model; empty when Triton does not answer."""
        status, text = self._server.ask("POST", "/v2/repository/index", {})
        found: dict[str, list[tuple[str, str]]] = {}
        for entry in json.loads(text) if status == 200 else ():
            state = entry.get("state", "UNAVAILABLE"), entry.get("reason", "")
            found.setdefault(entry["name"], []).append(state)
        return found

    def _refuse_callers(self) -> None:
        """Unload what is to be brought back later, so that Triton refuses its callers at once.

        Triton calls a model whose process is gone ready, and keeps its callers for seconds (2.51).
        """
        later = time.monotonic() + self._policy.interval
        for model, case in self._cases.items():
            waits = case.due > later and not case.unloaded
            if waits and not self._stubs_of(model) and not self._server.ended():
                case.unloaded = self._unload(model) == 200

    def _due(self) -> list[str]:
        now = time.monotonic()
        return sorted(model for model, case in self._cases.items() if case.due <= now)

    def _pause(self) -> float:
        waits = [case.due - time.monotonic() for case in self._cases.values()]
        return max(0.0, min([self._policy.interval, *waits]))

    def _recover(self, model: str) -> None:
        case = self._cases.get(model)
        if case is None or self._server.interrupted or self._server.ended():
            return
        if self._is_back(model, case) or not case.unloaded and self._is_unwanted(model):
            self._end_case(model)
            return
        if self._lifecycle().get(model, ("", ""))[0] == "LOADING":  # somebody else's
            case.due = time.monotonic() + self._policy.interval
            return
        started = time.monotonic()
        if (replaced := self._replace(model, case)) is not None:
            if replaced:
                self._restart(f"model {model}: {replaced}")
            elif not (self._server.interrupted or self._server.ended()):
                seconds = time.monotonic() - started
                others = "were started anew too" if case.others_anew else "went on"
                text = f"ready again after {seconds:.1f} s; its others {others}"
                self._on_event(f"model {model}: {text}")
            return
        loaded, why = self._reload(model, case)
        seconds = time.monotonic() - started
        if loaded:
            self._end_case(model)
            self._on_event(f"model {model}: ready again after {seconds:.1f} s")
            if case.stubs and not self._is_back(model, case):
                lost = Stub(0, model, "")  # so soon that it was never seen
                self._note(Loss(lost, "its process died"), case.stubs)
        elif not (self._server.interrupted or self._server.ended()):
            case.failed += 1
            self._on_event(f"model {model}: loading failed after {seconds:.1f} s ({why})")
            case.due = time.monotonic() + self._policy.backoff * 2 ** (case.failed - 1)
            if loaded is None or case.failed >= LOADS_BEFORE_RESTART:
                self._restart(f"model {model} can't be loaded: {why}")

    def _end_case(self, model: str) -> None:
        del self._cases[model]
        if budget := self._budgets.get(model):
            budget.ready_again()

    def _replace(self, model: str, case: _Case) -> str | None:
        """Put a new instance in the place of the lost one while the model's others go on.

        Returns:
            None if that can't be done, and nothing is lost but time; empty when it is done; else
            why tritonserver has to be started anew.
        """
        others = self._stubs_of(model)
        if len(case.lost) != 1 or not others or case.failed or case.unloaded:
            return None
        status, text = self._server.ask("GET", f"/v2/models/{model}/config")
        found = replacement(json.loads(text), case.lost[0]) if status == 200 else None
        if found is None:
            return None
        for config, patience in (
            (found.without, min(LEAVE_SECONDS, self._policy.stuck)),
            (found.complete, self._policy.stuck),
        ):
            loaded, why = self._load(model, others, config, patience)
            if self._server.interrupted or self._server.ended():
                return ""
            if loaded is None:  # a process that was killed in a bad moment keeps a lock of Triton's
                return f"the lost instance can't be replaced: {why}"
            if not loaded:
                self._on_event(f"model {model}: the lost instance can't be replaced alone: {why}")
                return None
            if config is found.without and self._stubs_of(model) - others:
                # A file of the model has changed since Triton loaded it.
                case.others_anew = True
                self._watch.release(others)
        self._end_case(model)  # what is lost from now on is another case
        self.look()
        if model not in self._cases and len(self._stubs_of(model)) < case.stubs:
            lost = Stub(0, model, case.lost[0])  # so soon that it was never seen
            self._note(Loss(lost, "its process died"), case.stubs)
        return ""

    def _reload(self, model: str, case: _Case) -> tuple[bool | None, str]:
        """As :meth:`_load`."""
        others = [stub for stub in living_stubs(self._server.pid) if stub.model == model]
        siblings = {stub.pid for stub in others}
        lost = self._server.requests_in_flight(model, case.lost)
        case.unloaded = True
        if not self._unload(model):
            return None, "Triton does not answer"
        working = {stub.instance for stub in others} if lost else None
        self._end(siblings, model, working)
        for stub in others:
            if self._server.requests_in_flight(model, {stub.instance}):
                self._note_requests(stub)  # it was given up with the one that died
        answer = self._load(model, siblings, None, self._policy.stuck)
        self.look()  # the processes that are new, and what was lost meanwhile
        return answer

    def _unload(self, model: str) -> int:
        """Have a model unloaded; HTTP status (0: no answer)."""
        return self._server.request("POST", f"/v2/repository/models/{model}/unload", {})

    def _load(
        self, model: str, known: set[int], config: str | None, patience: float
    ) -> tuple[bool | None, str]:
        """Have a model loaded; whether it is (None: no answer), and why not.

        Args:
            model: its name.
            known: its processes that are there already.
            config: in place of that in its folder.
            patience: seconds until it must have begun, or be over.
        """
        started = time.monotonic()
        stuck = ""

        def is_stuck() -> bool:
            nonlocal stuck
            # Ending a process that died with requests in hand can stop Triton's own thread for
            # good (2.51); a load that begins at all starts its processes at once.
            waited = time.monotonic() - started
            if waited > patience and not self._stubs_of(model) - known:
                stuck = f"it has not begun within {patience:g} s"
                return True
            # Loading may take long, and other models may die meanwhile: their callers are not to
            # wait for it.
            if not self._server.ended():
                self.look(loading=model)
            if self._watch.server_stopped > self._policy.stopped:
                stuck = f"tritonserver was stopped for {self._policy.stopped:g} s"
            return bool(stuck)

        limit = self._server.options.ready_timeout
        loaded, why = self._server.load(model, config, limit, is_stuck)
        if loaded is not None:
            self._answered = time.monotonic()
        elif stuck:
            why = stuck
        else:
            said = f" ({why})" if why else ""
            why = f"no answer after {time.monotonic() - started:.0f} s{said}"
        return loaded, why

    def _restart(self, reason: str) -> None:
        """Start tritonserver anew until it is ready; ServerError when it was tried too often."""
        self._server.kill()
        self._watch.close()
        while not self._server.interrupted:
            wait = self._restarts.take()
            if wait is None:
                times = f"{self._restarts.spent} times within {self._policy.window:g} s"
                gave_up = f"it was started anew {times}; giving up"
                raise ServerError(f"{reason}; {gave_up}" if self._policy.attempts else reason)
            self._on_event(
                f"{reason}; starting it again"
                f" (attempt {self._restarts.spent} of {self._policy.attempts})"
            )
            self._rest(wait)
            started = time.monotonic()
            try:
                self._server.restart()
            except Cancelled:
                return
            except ServerError as error:
                reason = str(error)
                continue
            self._cases.clear()
            self._kept, self._lost_calls = 0, 0.0
            self._compared = False
            self._restarts.ready_again()
            self._answered = time.monotonic()
            self._watch = self._new_watch()
            self._on_event(f"tritonserver: ready again after {self._answered - started:.1f} s")
            return

    def _rest(self, seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not self._server.interrupted and (left := limit - time.monotonic()) > 0:
            self._server.wait(left)

    def _stubs_of(self, model: str) -> set[int]:
        return {s.pid for s in living_stubs(self._server.pid) if s.model == model}

    def _end(self, stubs: set[int], model: str, working: set[str] | None) -> None:
        """Wait until these processes have ended; kill those that do not.

        A request that was lost with the dead instance keeps Triton from ending the others, and
        their memory (a GPU's, perhaps) is needed by those that come.

        Args:
            stubs: of other instances of the model.
            model: whose.
            working: those instances, if requests were lost: nothing but their own requests is then
                worth waiting for. None: Triton will end them.
        """
        limit = time.monotonic() + self._policy.grace
        while stubs := stubs & {stub.pid for stub in living_stubs(self._server.pid)}:
            if time.monotonic() > limit or self._server.ended():
                break
            self._server.wait(WAIT_STEP_SECONDS)
            if working and self._server.requests_in_flight(model, working) == 0:
                break
        self._kill(stubs)

    def _kill(self, stubs: set[int]) -> None:
        for pid in stubs & {stub.pid for stub in living_stubs(self._server.pid)}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class _LostCallers:
    """Ends the connections of those who wait for a public model whose process died.

    In threads of its own, since loading the model again may take longer.
    """

    def __init__(
        self, server: EmbeddedServer, seconds: float, on_event: Callable[[str], None]
    ) -> None:
        self._server, self._seconds, self._on_event = server, seconds, on_event

    def of(self, stub: Stub) -> None:
        """Note a death; without effect for models that answer other models only."""
        if stub.model.startswith(PUBLIC_PREFIX):
            # A daemon: nobody waits any more once the server has ended.
            arguments = stub, self._server.pid, time.monotonic()
            threading.Thread(target=self._run, args=arguments, name="callers", daemon=True).start()

    def _run(self, stub: Stub, server: int, died: float) -> None:
        model = stub.model
        http, grpc, _ = self._server.ports
        ports = {http: model == STREAM_MODEL, grpc: True}
        # What it had sent may still have been on its way.
        died += self._seconds * SENDING_SHARE
        ended = 0
        try:
            # First of all: who comes later has nothing to do with it.
            there = names_of(server, [http, grpc])
            lost, _ = read_callers(self._server.files, stub.pid)
            waiting = self._server.requests_in_flight(model, {stub.instance}) or 0  # as it said
            missing = 0.0
            for look in range(MOST_CALLERS_LOOKS):
                if look >= CALLERS_LOOKS and missing <= 0:
                    break
                time.sleep(self._seconds)
                if self._server.ended() or self._server.pid != server:
                    return
                own = frozenset(self._server.own_connections)
                some = end_waiting(
                    server, ports, died,
                    # What was made before the death may reach a slow listener long after it.
                    later=look * self._seconds,
                    among=there, spared=own, lost=lost,
                    answered=lambda: read_callers(self._server.files, stub.pid)[1],
                )  # fmt: skip
                found = some.connections
                unknown = bool(lost) and not some.of_lost  # what was ended may have been idle
                if not look and (found < waiting or unknown):
                    # The others share a gRPC connection with calls that go on, and can't be told
                    # apart.
                    rest = end_waiting(server, {grpc: True}, math.inf, among=there, spared=own)
                    found += rest.connections
                ended += found
                missing = waiting - ended
                if found:
                    self._on_event(f"model {model}: {found} connections ended that waited in vain")
        except OSError as error:
            self._on_event(
                f"model {model}: its callers wait until their own time limit, because their "
                f"connections can't be ended here ({error.strerror}; a container needs SYS_PTRACE)"
            )


class _Readers:
    """Disconnects callers that take nothing of their answers for ``seconds`` (0: nobody)."""

    def __init__(
        self, server: EmbeddedServer, seconds: float, on_event: Callable[[str], None]
    ) -> None:
        self._server, self._seconds, self._on_event = server, seconds, on_event
        self._unread = UnreadConnections(seconds)
        self._next = 0.0

    def look(self) -> None:
        """Look at the connections, if it is time to."""
        if not self._seconds or time.monotonic() < self._next or self._server.ended():
            return
        self._next = time.monotonic() + self._seconds / READER_LOOKS
        try:
            ended = self._unread.end(self._server.pid, self._server.ports[:2])
        except OSError as error:
            # Anything else passes: the server has ended, or too many files are open.
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS):
                self._seconds = 0.0
                self._on_event(
                    "callers that read nothing of their answers can't be told here "
                    f"({error.strerror}; a container needs SYS_PTRACE)"
                )
        else:
            if ended:
                self._on_event(
                    f"{ended} connections ended whose callers took nothing for {self._seconds:g} s"
                )


class _OwnProbe:
    """Asks an idle server to speak now and then, in a thread of its own."""

    def __init__(self, probe: Callable[[], None], seconds: float) -> None:
        self._probe, self._seconds = probe, seconds
        self._running: threading.Thread | None = None
        self._error: Exception | None = None
        self._last = time.monotonic()
        self._failed = 0

    def fault(self, server: EmbeddedServer) -> str:
        """Why the server has to be started anew, after probes that failed; empty otherwise."""
        if self._running is not None:
            if self._running.is_alive():
                return ""
            self._running = None
            self._last = time.monotonic()
            self._failed = self._failed + 1 if self._error else 0
            if self._failed >= PROBES_BEFORE_RESTART:
                self._failed = 0
                return f"tritonserver does not speak: {self._error}"
        elif time.monotonic() - self._last >= self._seconds:
            if server.requests_in_flight() == 0:
                # Not to be waited for: nobody wants to know of a probe while the server stops.
                self._running = threading.Thread(target=self._ask, name="own-probe", daemon=True)
                self._running.start()
            else:
                self._last = time.monotonic()
        return ""

    def _ask(self) -> None:
        self._error = None
        try:
            self._probe()
        except Exception as error:  # whatever it is, the server did not speak
            self._error = error
