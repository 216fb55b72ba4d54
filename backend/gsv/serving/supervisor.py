"""Brings models back whose process died.

When a stub process of the Python backend dies (killed, out of memory), Triton goes on reporting its
model READY while each request fails. Unloading and loading the model starts a new process, and the
ensembles that use it come back by themselves.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable

from gsv.errors import ServerError
from gsv.serving.launcher import WAIT_STEP_SECONDS, EmbeddedServer
from gsv.serving.processes import Stub, living_stubs
from gsv.serving.triton_versions import lost_its_process


@dataclasses.dataclass(frozen=True)
class RecoveryPolicy:
    """How often to look and how often to try; times are in seconds.

    A model that died more than ``attempts`` times within ``window`` is given up. The n-th attempt
    within it waits ``backoff`` · 2ⁿ⁻² first, the very first one not at all. ``grace`` is what the
    model's other instances get to finish their requests.
    """

    interval: float = 1.0
    attempts: int = 5
    window: float = 600.0
    backoff: float = 1.0
    grace: float = 5.0


class Supervisor:
    """Watches a running server until it is interrupted."""

    def __init__(
        self,
        server: EmbeddedServer,
        policy: RecoveryPolicy | None = None,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._server, self._policy, self._on_event = server, policy or RecoveryPolicy(), on_event
        self._stubs: dict[int, Stub] = {}
        self._deaths: dict[str, collections.deque[float]] = {}

    def run(self) -> None:
        """Until ``server.interrupt()``; ServerError when the server ends or a model is given up."""
        while not self._server.interrupted:
            if self._server.ended():
                raise ServerError(self._server.end_reason())
            dead = self.look()
            for model in dead + self._companions(dead):
                self._recover(model)
            if not self._server.interrupted:
                self._server.wait(self._policy.interval)

    def look(self) -> list[str]:
        """Models that are loaded although one of their processes is gone."""
        living = {stub.pid: stub for stub in living_stubs(self._server.pid)}
        running = {(stub.model, stub.instance) for stub in living.values()}
        gone = [s for s in self._stubs.values() if (s.model, s.instance) not in running]
        self._stubs = living
        # A model that somebody unloads loses its processes too.
        models = sorted({stub.model for stub in gone})
        return [model for model in models if lost_its_process(self._server.ask, model)]

    def _companions(self, dead: list[str]) -> list[str]:
        """Models that have to be started anew with the dead ones; their processes are ended.

        Under MPS the processes on a GPU share one context's fate: after a fatal fault of one the
        others' work fails as well, and the GPU takes none anew until all of them are gone.
        """
        if not (dead and self._server.shares_gpus):
            return []
        hurt = frozenset[int]().union(*map(self._server.gpus_of, dead))
        stubs = [stub for stub in self._stubs.values() if stub.model not in dead]
        others = sorted({s.model for s in stubs if hurt & self._server.gpus_of(s.model)})
        if others:
            self._on_event(
                f"MPS: {', '.join(others)}: on the same GPU as {', '.join(dead)}, started anew too"
            )
        self._kill({stub.pid for stub in stubs if stub.model in others})
        return others

    def _recover(self, model: str) -> None:
        policy = self._policy
        deaths = self._deaths.setdefault(model, collections.deque())
        while True:
            now = time.monotonic()
            deaths.append(now)
            while now - deaths[0] > policy.window:
                deaths.popleft()
            if len(deaths) > policy.attempts:
                raise ServerError(
                    f"model {model}: its process died or failed to load {len(deaths)} times within "
                    f"{policy.window:g} s; giving up (memory? see the log above)"
                )
            self._on_event(
                f"model {model}: its process died; loading it again "
                f"(attempt {len(deaths)} of {policy.attempts})"
            )
            if len(deaths) > 1:
                self._server.wait(policy.backoff * 2 ** (len(deaths) - 2))
            if self._server.interrupted or self._server.ended() or self._reload(model):
                return

    def _reload(self, model: str) -> bool:
        started = time.monotonic()
        siblings = {s.pid for s in living_stubs(self._server.pid) if s.model == model}
        self._server.request("POST", f"/v2/repository/models/{model}/unload", {})
        self._end(siblings)
        status = self._server.request(
            "POST",
            f"/v2/repository/models/{model}/load",
            {},
            timeout=self._server.options.ready_timeout,
        )
        seconds = time.monotonic() - started
        if status == 200:
            self._on_event(f"model {model}: ready again after {seconds:.1f} s")
            return True
        self._on_event(f"model {model}: loading failed after {seconds:.1f} s (HTTP {status})")
        return False

    def _end(self, stubs: set[int]) -> None:
        """Wait until these processes have ended; kill those that do not.

        A request that was lost with the dead instance keeps Triton from ending the others, and
        their memory (a GPU's, perhaps) is needed by those that come.
        """
        limit = time.monotonic() + self._policy.grace
        while stubs := stubs & {stub.pid for stub in living_stubs(self._server.pid)}:
            if time.monotonic() > limit or self._server.ended():
                break
            self._server.wait(WAIT_STEP_SECONDS)
        self._kill(stubs)

    def _kill(self, stubs: set[int]) -> None:
        for pid in stubs:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
