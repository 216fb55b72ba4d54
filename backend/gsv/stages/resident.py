"""Weights of voices in memory: loaded in the background, the least recently used out.

A request for weights that are not there waits without holding up others, and what is in use is
never thrown out. The budget is of bytes; a voice that does not fit waits until enough others are
idle.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from gsv.errors import Cancelled, GsvError, InvalidRequest, Overloaded, VoiceError
from gsv.voices import Voice, VoiceFolder

logger = logging.getLogger(__name__)

Weights = TypeVar("Weights")
Fail = Callable[[BaseException], None]
BASE = ""  # the key of the model's own weights, always there

_PINS = 1024  # versions of voices whose key is remembered
_BUSY_SECONDS = 0.05  # until weights in use are looked at again


@dataclasses.dataclass
class _Entry(Generic[Weights]):
    """Weights that are there or about to be."""

    voice: Voice
    path: Path
    size: int
    weights: Weights | None = None
    users: int = 0
    waiting: list[tuple[Callable[[str, Weights], None], Fail]] = dataclasses.field(
        default_factory=list
    )


@dataclasses.dataclass(frozen=True)
class _Found(Generic[Weights]):
    """Weights that are there, or None for those that are waited for."""

    weights: Weights | None


class Residents(Generic[Weights]):
    """One model's weights of voices.

    Args:
        name: of the thread and in the log.
        voices: where voices are looked up.
        which: the file of a voice that holds this model's weights, None if it has none.
        size: bytes in memory of a file's weights.
        load: makes a file's weights usable under a key, on a thread of its own; never None.
        unload: undoes that; InvalidRequest while they are still in use.
        budget: bytes of all voices' weights together.
        waiting_limit: requests that may wait for weights.
    """

    def __init__(
        self,
        name: str,
        voices: VoiceFolder,
        which: Callable[[Voice], Path | None],
        size: Callable[[Path], int],
        load: Callable[[str, Path], Weights],
        unload: Callable[[str, Weights], None],
        budget: int,
        waiting_limit: int,
    ) -> None:
        self._name = name
        self._voices = voices
        self._which = which
        self._size = size
        self._load = load
        self._unload = unload
        self._budget = budget
        self._waiting_limit = waiting_limit
        self._entries: OrderedDict[str, _Entry[Weights]] = OrderedDict()  # least recent first
        self._pins: OrderedDict[str, str] = OrderedDict()
        self._queue: deque[str] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    @property
    def resident(self) -> list[str]:
        """Names of the voices whose weights are loaded, least recently used first."""
        with self._changed:
            return [e.voice.name for e in self._entries.values() if e.weights is not None]

    def use(self, voice: str, then: Callable[[str, Weights | None], None], fail: Fail) -> None:
        """Call ``then`` with the key and the weights of ``voice``: at once, or when loaded.

        For other weights than the base's (key ``BASE``, weights None), :meth:`release` must be
        called once for each call of ``then``, also for one that raises.

        Args:
            voice: a name, pinned or not; "" for the base's weights.
            then: on this thread if the weights are there, else on the loader's.
            fail: gets the error of loading, or one that ``then`` raises on the loader's thread.

        Raises:
            InvalidRequest, VoiceError: the voice can't be used.
            Overloaded: too many wait already.
        """
        found = None
        while found is None:  # what was there may be thrown out before it is taken
            key = self._key(voice)
            if key == BASE:
                then(BASE, None)
                return
            found = self._take(key, then, fail)
        if found.weights is not None:
            then(key, found.weights)

    def release(self, key: str) -> None:
        """One use of ``key`` is over."""
        with self._changed:
            if key in self._entries:
                self._entries[key].users -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """End the loader; whoever waits gets an error."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        for entry in self._entries.values():
            for _, fail in entry.waiting:
                fail(Cancelled("the server is shutting down"))

    def _take(
        self, key: str, then: Callable[[str, Weights], None], fail: Fail
    ) -> _Found[Weights] | None:
        """Count one more user of the weights, or let it wait for them; None if they are gone."""
        with self._changed:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            if entry.weights is not None:
                entry.users += 1
                return _Found(entry.weights)
            if sum(len(e.waiting) for e in self._entries.values()) >= self._waiting_limit:
                raise Overloaded("too many requests wait for voices to load; try again later")
            entry.waiting.append((then, fail))
            return _Found(None)

    def _key(self, name: str) -> str:
        """The key of a voice's weights, its entry being there and loading if need be."""
        if not name:
            return BASE
        with self._changed:
            key = self._pins.get(name)
            if key is not None and (key == BASE or key in self._entries):
                return key
        voice = self._voices.get(name)
        path = self._which(voice)
        key = BASE if path is None else _state_of(path)
        with self._changed:
            self._pins[voice.pinned] = key
            while len(self._pins) > _PINS:
                self._pins.popitem(last=False)
            if path is not None and key not in self._entries:
                self._start(key, voice, path)
        return key

    def _start(self, key: str, voice: Voice, path: Path) -> None:
        size = self._size(path)
        if size > self._budget:
            raise VoiceError(
                f"voice {voice.name}: {path.name} needs {size >> 20:,} MiB, more than the memory "
                f"budget of {self._budget >> 20:,} MiB; raise memory_budget_mib"
            )
        self._entries[key] = _Entry(voice, path, size)
        self._queue.append(key)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        while (key := self._next()) is not None:
            entry = self._entries[key]
            started = time.monotonic()
            try:
                weights = self._load(key, entry.path)
                try:
                    # It may have been replaced while it was read.
                    self._voices.get(entry.voice.pinned, fresh=True)
                except GsvError:
                    self._unload(key, weights)
                    raise
            except Exception as error:
                self._give_up(key, error)
                continue
            logger.info(
                "%s: voice %s loaded in %.2f s (%d MiB)",
                self._name, entry.voice.name, time.monotonic() - started, entry.size >> 20,
            )  # fmt: skip
            with self._changed:
                entry.weights = weights
                waiting, entry.waiting = entry.waiting, []
                entry.users += len(waiting)
            for then, fail in waiting:
                try:
                    then(key, weights)
                except Exception as error:
                    fail(error)

    def _next(self) -> str | None:
        """The next key to load, once there is room for it; None when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._queue)
            if self._closing:
                return None
            key = self._queue.popleft()
            while not self._make_room(self._entries[key].size):
                self._changed.wait(_BUSY_SECONDS)
                if self._closing:
                    return None
            return key

    def _make_room(self, size: int) -> bool:
        """Throw out idle weights until ``size`` bytes fit; whether they do."""
        loaded = {k: e for k, e in self._entries.items() if e.weights is not None}
        used = sum(entry.size for entry in loaded.values())
        for key, entry in loaded.items():
            if used + size <= self._budget:
                break
            if entry.users or entry.weights is None:
                continue
            try:
                self._unload(key, entry.weights)
            except InvalidRequest:
                continue  # its last, cancelled work is about to leave
            logger.info("%s: voice %s unloaded", self._name, entry.voice.name)
            del self._entries[key]
            used -= entry.size
        return used + size <= self._budget

    def _give_up(self, key: str, error: Exception) -> None:
        if not isinstance(error, GsvError):
            logger.exception("%s: a voice can't be loaded", self._name)
            error = VoiceError(f"voice weights can't be loaded: {error}")
        else:
            logger.warning("%s: %s", self._name, error)
        with self._changed:
            waiting = self._entries.pop(key).waiting
        for _, fail in waiting:
            fail(error)


def _state_of(path: Path) -> str:
    """A name for the file's content: unchanged by edits of ``voice.toml``."""
    try:
        state = path.stat()
    except OSError as error:
        raise VoiceError(f"{path.name}: {error.strerror}") from error
    return f"{path}:{state.st_size}:{state.st_mtime_ns}"
