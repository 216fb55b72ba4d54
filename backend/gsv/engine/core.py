"""What every engine is built around: one thread that takes turns of work until it is stopped.

Whoever submits work from any thread is answered exactly once, on the engine's thread: with results,
with one error of the work's own, with Cancelled when the engine is stopped, or with what broke it.
Work may be submitted before the start; it waits for it. A stopped engine may be started again, a
broken one refuses all work.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Protocol

import torch

from gsv.device import end_if_served, prepare
from gsv.engine.give_way import GiveWay
from gsv.errors import Cancelled, ConfigurationError, GsvError

logger = logging.getLogger(__name__)

OnWait = Callable[[float], None]  # gets the seconds that a piece of work waited in line
_REST_SECONDS = 0.002  # between looks whether the engine is still to give way


def ignore_wait(seconds: float) -> None:
    """An :data:`OnWait` for those who don't measure."""


@dataclasses.dataclass(frozen=True)
class Handle:
    """Work that was submitted, for its caller."""

    _give_up: Callable[[], None]
    _wake: Callable[[], None]

    def cancel(self) -> None:
        """Give up: room is free within one step, and the error callback gets Cancelled.

        Without effect on work that is over. May be called from any thread.
        """
        self._give_up()
        self._wake()


class EngineCore(Protocol):
    """The part of an engine that differs: its work."""

    def has_work(self) -> bool:
        """Whether a turn is wanted; called with the lock held."""
        ...

    def can_rest(self) -> bool:
        """Whether no listener waits for any of the work; called with the lock held."""
        ...

    def take_turn(self) -> None:
        """Do a step's work, on the engine's thread and without the lock.

        Errors of single pieces of work are answered here; whatever is raised breaks the engine.
        """
        ...

    def abandon(self, error: GsvError) -> None:
        """Answer everybody who is left with ``error``; called once nothing runs any more."""
        ...


class EngineThread:
    """The life of an engine's thread.

    Args:
        name: of the engine, for messages.
        device: that its thread works on.
        core: what it does.
        give_way: whether work for which no listener waits is to rest.

    Attributes:
        changed: guards what callers and the thread share, and wakes the thread. May be taken again
            by whoever holds it.
    """

    def __init__(
        self, name: str, device: torch.device, core: EngineCore, give_way: GiveWay | None = None
    ) -> None:
        self._name = name
        self._device = device
        self._core = core
        self._give_way = give_way or GiveWay()
        self.changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._broken: BaseException | None = None

    def start(self) -> None:
        """Start the thread, for the first time or after a stop.

        Raises:
            ConfigurationError: it runs already.
            GsvError: the engine is broken.
        """
        with self.changed:
            if self._thread is not None:
                raise ConfigurationError(f"the {self._name} engine runs already")
            if self._broken is not None:
                raise self._what_broke() from self._broken
            self._stopping = False
            name = self._name.replace(" ", "-")
            self._thread = threading.Thread(target=self._run, name=f"{name}-engine", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread after its present step; whoever still waits gets Cancelled."""
        with self.changed:
            thread, self._stopping = self._thread, True
            self.changed.notify_all()
        if thread is None:
            self._core.abandon(self._stopped())
        elif thread is not threading.current_thread():
            thread.join()
            self._thread = None

    def submit(self, add: Callable[[], None]) -> None:
        """Call ``add``, which puts work in line, with the lock held, and wake the thread.

        Raises:
            GsvError: the engine has been stopped or is broken.
        """
        with self.changed:
            if self._broken is not None:
                raise self._what_broke() from self._broken
            if self._stopping:
                raise GsvError(f"the {self._name} engine has been stopped; it doesn't run")
            add()
            self.changed.notify_all()

    @property
    def started(self) -> bool:
        """Whether a thread is there to answer."""
        return self._thread is not None

    def wake(self) -> None:
        """Look again whether there is work; from any thread."""
        with self.changed:
            self.changed.notify_all()

    def require_started(self) -> None:
        """GsvError where a caller would wait for ever, because nobody has started the engine."""
        if self._thread is None and not self._stopping:
            raise GsvError(f"the {self._name} engine has not been started")

    @torch.inference_mode()
    def _run(self) -> None:
        try:
            prepare(self._device)
            while self._wait_for_work():
                self._core.take_turn()
        except BaseException as error:  # nobody may wait for a thread that is gone
            end_if_served(error, f"the {self._name} engine")
            logger.exception("the %s engine broke", self._name)
            with self.changed:
                self._broken = error
            self._core.abandon(self._what_broke())
        else:
            self._core.abandon(self._stopped())

    def _wait_for_work(self) -> bool:
        """Whether there is a turn to take; false when the engine is to stop."""
        with self.changed:
            while not self._stopping:
                has_work = self._core.has_work()
                if self._give_way.rests(able=has_work and self._core.can_rest()):
                    self.changed.wait(_REST_SECONDS)
                elif has_work:
                    return True
                else:
                    self.changed.wait()
            return False

    def _stopped(self) -> Cancelled:
        return Cancelled(f"the {self._name} engine has been stopped")

    def _what_broke(self) -> GsvError:
        error = self._broken
        broken = GsvError(f"the {self._name} engine broke: {str(error) or repr(error)}")
        broken.__cause__ = error
        return broken
