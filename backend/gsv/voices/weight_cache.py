"""Weights of voices in memory: loaded in the background, the least recently used out.

A request for weights that are not there waits without holding up others, and what is in use is
never thrown out. The budget is of bytes; a voice that does not fit waits until enough others are
idle, and if they never are, they take no more requests until it has had its turn. Weights whose
file has changed or gone are let go when nobody has used them for a while.
"""

from __future__ import annotations

import dataclasses
import logging
import stat
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from gsv.device import end_if_fatal, prepare
from gsv.errors import (
    Cancelled,
    CheckpointError,
    GsvError,
    InvalidRequest,
    Overloaded,
    VoiceError,
)
from gsv.voices import Voice, VoiceFolder
from gsv.voices.failures import Failures
from gsv.voices.metrics import VoiceMetrics

logger = logging.getLogger(__name__)

Weights = TypeVar("Weights")
Fail = Callable[[BaseException], None]
BASE = ""  # the key of the model's own weights, always there

_PINS = 1024  # versions of voices whose key is remembered
_BUSY_SECONDS = 0.05  # until weights in use are looked at again
_PATIENCE_SECONDS = 2.0  # until weights that are always in use have to make room
_SWEEP_SECONDS = 10.0  # between looks for weights whose file has changed or gone
_STALE_SECONDS = 60.0  # that those must be idle: a stream uses its voice's now and again


@dataclasses.dataclass
class _Entry(Generic[Weights]):
    """Weights that are there or about to be."""

    voice: Voice
    path: Path
    size: int
    since: float  # when they were asked for
    weights: Weights | None = None
    users: int = 0
    used: float = 0.0  # when the last user came or went
    leaving: bool = False  # whoever comes now waits until they are loaded again
    waiting: list[tuple[Callable[[str, Weights], None], Fail]] = dataclasses.field(
        default_factory=list
    )


@dataclasses.dataclass(frozen=True)
class _Found(Generic[Weights]):
    """Weights that are there, or None for those that are waited for."""

    weights: Weights | None


class WeightCache(Generic[Weights]):
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
        voice_metrics: where loads and memory are counted.
        clock: seconds.
        device: what ``load`` computes on.
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
        voice_metrics: VoiceMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        device: str = "cpu",
    ) -> None:
        self._name = name
        self._voice_metrics = voice_metrics or VoiceMetrics(voices)
        self._clock = clock
        self._voices = voices
        self._which = which
        self._size = size
        self._load = load
        self._unload = unload
        self._budget = budget
        self._waiting_limit = waiting_limit
        self._device = device
        self._entries: OrderedDict[str, _Entry[Weights]] = OrderedDict()  # least recent first
        self._pins: OrderedDict[str, str] = OrderedDict()
        self._failures = Failures(clock)
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
                self._entries[key].used = self._clock()
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
            if entry.weights is not None and not entry.leaving:
                entry.users += 1
                entry.used = self._clock()
                return _Found(entry.weights)
            if self._closing:
                raise Cancelled("the server is shutting down")
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
        key = BASE if path is None else _state_of(voice, path)
        with self._changed:
            self._pins[voice.pinned] = key
            while len(self._pins) > _PINS:
                self._pins.popitem(last=False)
            if path is not None and key not in self._entries:
                self._start(key, voice, path)
        return key

    def _start(self, key: str, voice: Voice, path: Path) -> None:
        self._failures.check(key)
        try:
            size = self._size(path)
        except Exception as error:  # whatever the file provokes, not to be met at every request
            if not isinstance(error, (OSError, GsvError)):
                logger.exception("%s: voice %s has no size", self._name, voice.label)
            self._voice_metrics.count("load_failures", voice.label)
            raise self._failures.remember(key, voice, path, error) from error
        if size > self._budget:
            raise VoiceError(
                f"voice {voice.label}: {path.name} needs {_mib(size)} MiB, more than the memory "
                f"budget of {_mib(self._budget)} MiB for all voices; the operator may raise "
                "memory_budget_mib in the model's config.pbtxt"
            )
        self._entries[key] = _Entry(voice, path, size, self._clock())
        self._queue.append(key)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _run(self) -> None:
        prepare(self._device)
        while (key := self._next()) is not None:
            with self._changed:
                entry = self._entries[key]
                spared = [(k, e) for k, e in self._entries.items() if e.leaving and not self._queue]
            for other in spared:
                self._serve(*other)
            started = time.monotonic()
            try:
                weights = self._load(key, entry.path)
                if not _is_current(key, entry):
                    self._unload(key, weights)
                    raise VoiceError(
                        f"voice {entry.voice.label}: was changed while it was loaded; send the "
                        "request again"
                    )
            except Exception as error:  # whatever it is, those who wait for it get it
                end_if_fatal(error)
                self._give_up(key, error)
                continue
            seconds = time.monotonic() - started
            logger.info(
                "%s: voice %s loaded in %.2f s (%s MiB)",
                self._name, entry.voice.label, seconds, _mib(entry.size),
            )  # fmt: skip
            self._voice_metrics.count("loads", entry.voice.label)
            self._voice_metrics.count("load_seconds", entry.voice.label, seconds)
            entry.weights = weights
            self._serve(key, entry)

    def _serve(self, key: str, entry: _Entry[Weights]) -> None:
        """Hand loaded weights to whoever waits for them."""
        with self._changed:
            weights = entry.weights
            if weights is None:  # thrown out meanwhile
                return
            entry.leaving = False
            waiting, entry.waiting = entry.waiting, []
            entry.users += len(waiting)
            entry.used = self._clock()
            self._tell_size(entry)
        for then, fail in waiting:
            try:
                then(key, weights)
            except Exception as error:  # whatever it is, its caller gets it
                fail(error)

    def _next(self) -> str | None:
        """The next key to load, once there is room for it; None when it is time to end."""
        with self._changed:
            while not self._changed.wait_for(
                lambda: self._closing or bool(self._queue), _SWEEP_SECONDS
            ):
                self._sweep()
            if self._closing:
                return None
            self._sweep()
            key = self._queue.popleft()
            entry = self._entries[key]
            while not self._make_room(entry.size):
                if self._clock() >= entry.since + _PATIENCE_SECONDS:
                    # For those behind it in the line as well: work in many voices ends at once.
                    wanted = entry.size + sum(self._entries[k].size for k in self._queue)
                    self._ask_to_leave(max(entry.size, min(wanted, self._budget // 2)))
                self._changed.wait(_BUSY_SECONDS)
                if self._closing:
                    return None
            return key

    def _make_room(self, size: int) -> bool:
        """Throw out idle weights until ``size`` bytes fit; whether they do."""
        loaded = {k: e for k, e in self._entries.items() if e.weights is not None}
        used = sum(entry.size for entry in loaded.values())
        # Those first that take no more users: whoever waits for them is then in the line again.
        for key, entry in sorted(loaded.items(), key=lambda item: not item[1].leaving):
            if used + size <= self._budget:
                break
            if self._throw_out(key, entry):
                used -= entry.size
        return used + size <= self._budget

    def _ask_to_leave(self, size: int) -> None:
        """Refuse new users to the weights that stand in the way of ``size`` bytes."""
        loaded = [entry for entry in self._entries.values() if entry.weights is not None]
        free = self._budget - sum(entry.size for entry in loaded)
        for entry in sorted(loaded, key=lambda entry: not entry.leaving):
            if free >= size:
                break
            entry.leaving = True
            free += entry.size

    def _sweep(self) -> None:
        """Let go of what nobody can ask for any more."""
        before = self._clock() - _STALE_SECONDS
        for key, entry in list(self._entries.items()):
            loaded = entry.weights is not None
            if loaded and entry.used <= before and not _is_current(key, entry):
                self._throw_out(key, entry)

    def _throw_out(self, key: str, entry: _Entry[Weights]) -> bool:
        """Unload idle weights; whether they are gone."""
        if entry.users or entry.weights is None:
            return False
        try:
            self._unload(key, entry.weights)
        except InvalidRequest:
            return False  # their last, cancelled work is about to leave
        logger.info("%s: voice %s unloaded", self._name, entry.voice.label)
        entry.weights = None
        if entry.waiting:
            entry.leaving = False
            entry.since = self._clock()
            self._queue.append(key)
        else:
            del self._entries[key]
        self._tell_size(entry)
        return True

    def _tell_size(self, entry: _Entry[Weights]) -> None:
        """Tell how much memory the voice has; two versions of it may be there at once."""
        label = entry.voice.label
        loaded = [e for e in self._entries.values() if e.weights is not None]
        mine = sum(e.size for e in loaded if e.voice.label == label)
        self._voice_metrics.set("resident_bytes", label, mine)

    def _give_up(self, key: str, error: Exception) -> None:
        with self._changed:
            entry = self._entries[key]
        if isinstance(error, CheckpointError):
            error = self._failures.remember(key, entry.voice, entry.path, error)
        elif not isinstance(error, GsvError):
            logger.exception("%s: voice %s can't be loaded", self._name, entry.voice.label)
            error = VoiceError(f"voice {entry.voice.label}: can't be loaded: {error}")
        logger.warning("%s: %s", self._name, error)
        self._voice_metrics.count("load_failures", entry.voice.label)
        with self._changed:
            waiting = self._entries.pop(key).waiting
        for _, fail in waiting:
            fail(error)


def _state_of(voice: Voice, path: Path) -> str:
    """A name for the file's content: unchanged by edits of ``voice.toml``."""
    try:
        state = path.stat()
    except OSError as error:
        raise VoiceError(f"voice {voice.label}: {path.name}: {error.strerror}") from error
    if not stat.S_ISREG(state.st_mode):
        raise VoiceError(f"voice {voice.label}: {path.name} is not a file")
    return f"{path}:{state.st_size}:{state.st_mtime_ns}"


def _is_current(key: str, entry: _Entry[Any]) -> bool:
    """Whether the file is still the one that the weights are from."""
    try:
        return _state_of(entry.voice, entry.path) == key
    except VoiceError:
        return False


def _mib(size: int) -> str:
    return f"{size / (1 << 20):,.1f}"
