"""Weights of voices: loaded aside, within a budget, the least recently used out; errors, ends."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from voices.voice_files import make_voice

from gsv.errors import (
    Cancelled,
    CheckpointError,
    GsvError,
    InvalidRequest,
    Overloaded,
    VoiceError,
)
from gsv.voices import VoiceFolder
from gsv.voices import weight_cache as resident
from gsv.voices.lease import start_in_voice
from gsv.voices.metrics import VoiceMetrics
from gsv.voices.weight_cache import BASE, WeightCache

WAIT = 10.0


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Store:
    """A place for weights that tests can hold up and look into."""

    def __init__(self, folder: Path, budget: int = 250, waiting_limit: int = 8) -> None:
        self.clock = Clock()
        self.attempts = 0
        self.folder = folder
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.busy: set[str] = set()
        self.voices = VoiceFolder(folder)
        self.weight_cache: WeightCache[str] = WeightCache(
            "test", self.voices, lambda v: v.gpt, lambda path: path.stat().st_size,
            self.load, self.unload, budget, waiting_limit, VoiceMetrics(self.voices), self.clock,
        )  # fmt: skip

    def add(self, name: str, size: int = 100) -> None:
        """A voice with weights of ``size`` bytes."""
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / name / "g").write_bytes(name.encode().ljust(size))
        make_voice(self.folder / name, gpt="g")

    def load(self, key: str, path: Path) -> str:
        assert self.gate.wait(WAIT)
        self.attempts += 1
        text = path.read_bytes().decode().strip()
        if text.startswith("bad"):
            raise GsvError("bad weights")
        if text.startswith("broken"):
            raise CheckpointError(f"{path}: damaged")
        if text.startswith("memory"):
            raise RuntimeError("no memory left")
        self.loaded.append(text)
        return text

    def unload(self, key: str, weights: str) -> None:
        if weights in self.busy:
            self.busy.discard(weights)
            raise InvalidRequest("busy")
        self.unloaded.append(weights)


class Caller:
    """Gets weights, or an error."""

    def __init__(self, store: Store, voice: str) -> None:
        self._store = store
        self.key, self.weights, self.error = "", None, None
        self.done = threading.Event()
        store.weight_cache.use(voice, self._then, self._fail)

    def _then(self, key: str, weights: Any) -> None:
        self.key, self.weights = key, weights
        self.done.set()

    def _fail(self, error: BaseException) -> None:
        self.error = error
        self.done.set()

    def wait(self) -> Caller:
        assert self.done.wait(WAIT)
        return self

    def leave(self) -> None:
        self._store.weight_cache.release(self.key)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = Store(tmp_path)
    for name in ("a", "b", "c"):
        made.add(name)
    make_voice(tmp_path / "plain")
    yield made
    made.gate.set()
    made.weight_cache.close()


def test_voices_without_weights_use_the_base_at_once(store: Store) -> None:
    for voice in ("", "plain", store.voices.get("plain").pinned):
        caller = Caller(store, voice)
        assert caller.done.is_set()
        assert (caller.key, caller.weights) == (BASE, None)
    with pytest.raises(InvalidRequest, match="nobody"):
        Caller(store, "nobody")


def test_loading_waits_aside_and_happens_once(store: Store) -> None:
    store.gate.clear()
    first, second = Caller(store, "a"), Caller(store, "a")
    assert not first.done.is_set()
    assert Caller(store, "plain").done.is_set(), "others are not held up"
    store.gate.set()
    assert first.wait().weights == second.wait().weights == "a"
    assert Caller(store, "a").done.is_set(), "resident now"
    assert store.loaded == ["a"]


def test_the_least_recently_used_goes(store: Store) -> None:
    for voice in ("a", "b", "a", "c"):
        Caller(store, voice).wait().leave()
    assert store.unloaded == ["b"]
    assert store.weight_cache.resident == ["a", "c"]
    assert Caller(store, "b").wait().weights == "b"
    assert store.unloaded == ["b", "a"]


def test_what_is_in_use_stays(store: Store) -> None:
    users = [Caller(store, voice).wait() for voice in ("a", "b")]
    third = Caller(store, "c")
    assert not third.done.wait(0.2)
    assert store.unloaded == []
    users[1].leave()
    assert third.wait().weights == "c"
    assert store.unloaded == ["b"]


def test_work_that_is_about_to_leave_is_waited_for(store: Store) -> None:
    for voice in ("a", "b"):
        Caller(store, voice).wait().leave()
    store.busy = {"a", "b"}
    assert Caller(store, "c").wait().weights == "c"
    assert len(store.unloaded) == 1


def test_errors_reach_whoever_waits_and_nobody_else(store: Store) -> None:
    store.add("bad")
    store.gate.clear()
    callers = [Caller(store, "bad"), Caller(store, "bad"), Caller(store, "a")]
    store.gate.set()
    assert [str(c.wait().error) for c in callers] == ["bad weights", "bad weights", "None"]
    store.add("huge", size=251)
    with pytest.raises(VoiceError, match="memory budget"):
        Caller(store, "huge")


def test_the_line_is_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, waiting_limit=1)
    store.add("a")
    store.gate.clear()
    waiting = Caller(store, "a")
    with pytest.raises(Overloaded):
        Caller(store, "a")
    store.gate.set()
    assert waiting.wait().weights == "a"
    store.weight_cache.close()


def test_running_requests_keep_the_version_they_began_with(store: Store) -> None:
    pinned = store.voices.get("a").pinned
    Caller(store, pinned).wait().leave()
    (store.folder / "a" / "g").write_bytes(b"new a".ljust(99))
    assert Caller(store, pinned).wait().weights == "a"
    new = store.voices.get("a", fresh=True).pinned
    assert new != pinned
    assert Caller(store, new).wait().weights == "new a"


def test_an_edit_of_the_toml_loads_nothing_anew(store: Store) -> None:
    Caller(store, "a").wait().leave()
    make_voice(store.folder / "a", gpt="g", text="Other words.")
    assert Caller(store, store.voices.get("a", fresh=True).pinned).done.is_set()
    assert store.loaded == ["a"]


def test_closing_answers_everybody(store: Store) -> None:
    store.gate.clear()
    first, second = Caller(store, "a"), Caller(store, "b")
    closing = threading.Thread(target=store.weight_cache.close)
    closing.start()
    while not store.weight_cache._closing:
        threading.Event().wait(0.01)
    store.gate.set()
    closing.join(WAIT)
    assert not closing.is_alive()
    assert first.done.is_set()
    assert isinstance(second.wait().error, Cancelled)


class Recorder:
    """A reply that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.done = threading.Event()

    def send(self, result: Any, *, final: bool) -> None:
        self.events.append(result)
        if final:
            self.done.set()

    def finish(self) -> None:
        self.done.set()

    def fail(self, error: BaseException) -> None:
        self.events.append(error)
        self.done.set()


def test_an_answer_gives_its_weights_back(store: Store) -> None:
    replies: list[Any] = []

    def start(key: str, weights: str | None, reply: Any) -> Any:
        replies.append(reply)
        return lambda: reply.fail(Cancelled("told"))

    recorder = Recorder()
    for end in ("send", "finish", "fail", "cancel"):
        cancel = start_in_voice(store.weight_cache, "a", recorder, start)
        while len(replies) == 0:
            threading.Event().wait(0.01)
        reply = replies.pop()
        entry = next(iter(store.weight_cache._entries.values()))
        assert entry.users == 1
        if end == "send":
            reply.send(1, final=False)
            assert entry.users == 1
            reply.send(2, final=True)
        elif end == "fail":
            reply.fail(GsvError("x"))
            reply.fail(GsvError("x"))
        else:
            cancel() if end == "cancel" else reply.finish()
        assert entry.users == 0, end


def test_a_start_that_fails_after_its_answer_gives_back_once(store: Store) -> None:
    Caller(store, "a").wait().leave()

    def start(key: str, weights: str | None, reply: Any) -> Any:
        reply.fail(GsvError("one sentence was refused"))
        raise Overloaded("and so the request")

    with pytest.raises(Overloaded):
        start_in_voice(store.weight_cache, "a", Recorder(), start)
    assert next(iter(store.weight_cache._entries.values())).users == 0


def test_cancelling_while_the_weights_load(store: Store) -> None:
    store.gate.clear()
    recorder, started = Recorder(), []

    def start(key: str, weights: str | None, reply: Any) -> Any:
        started.append(key)
        return lambda: None

    cancel = start_in_voice(store.weight_cache, "a", recorder, start)
    cancel()
    assert isinstance(recorder.events[0], Cancelled)
    store.gate.set()
    other = Caller(store, "a").wait()
    assert started == []
    other.leave()
    assert next(iter(store.weight_cache._entries.values())).users == 0


def error_of(store: Store, voice: str) -> BaseException | None:
    """What a request for ``voice`` gets, at once or later."""
    try:
        return Caller(store, voice).wait().error
    except GsvError as error:
        return error


def test_a_broken_file_is_read_once_until_it_changes(store: Store) -> None:
    store.add("broken")
    error = error_of(store, "broken")
    assert isinstance(error, VoiceError)
    assert str(error) == "voice broken: g: damaged", "no path of the server's"
    assert str(error_of(store, "broken")) == str(error)
    assert store.attempts == 1
    store.clock.now += 61
    assert error_of(store, "broken") is not None, "the disk may have been at fault"
    assert store.attempts == 2
    store.add("broken", size=120)
    assert error_of(store, "broken") is not None
    assert store.attempts == 3
    (store.folder / "broken" / "g").write_bytes(b"mended")
    store.voices.get("broken", fresh=True)
    assert Caller(store, "broken").wait().weights == "mended"
    changes = store.weight_cache._voice_metrics.take()
    assert {c.family: c.value for c in changes if c.voice == "broken"} == {
        "load_failures": 3, "loads": 1, "load_seconds": pytest.approx(0, abs=1),
        "resident_bytes": 6,
    }  # fmt: skip


def test_what_is_no_fault_of_the_file_is_tried_again_at_once(store: Store) -> None:
    store.add("memory")
    for _ in range(2):
        error = error_of(store, "memory")
        assert str(error) == "voice memory: can't be loaded: no memory left"
    assert store.attempts == 2


def test_too_big_for_the_whole_budget(store: Store) -> None:
    store.add("huge", size=251)
    with pytest.raises(VoiceError, match=r"voice huge: g needs .* MiB, more than the memory budget "
                       r"of .* MiB for all voices; .* memory_budget_mib"):  # fmt: skip
        Caller(store, "huge")
    assert Caller(store, "a").wait().weights == "a", "others go on"


def test_removed_while_it_loads(store: Store) -> None:
    store.gate.clear()
    caller = Caller(store, "a")
    (store.folder / "a" / "voice.toml").unlink()
    (store.folder / "a" / "g").unlink()
    store.gate.set()
    assert isinstance(caller.wait().error, VoiceError) or not store.loaded
    assert store.weight_cache.resident == []
    assert store.unloaded == store.loaded


def test_replaced_while_it_loads(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read, replaced = store.load, threading.Event()

    def slow(key: str, path: Path) -> str:
        text = read(key, path)
        if not replaced.is_set():
            path.write_bytes(b"a newer one")
            replaced.set()
        return text

    monkeypatch.setattr(store.weight_cache, "_load", slow)
    error = Caller(store, "a").wait().error
    assert "was changed while it was loaded" in str(error)
    store.voices.get("a", fresh=True)
    assert Caller(store, "a").wait().weights == "a newer one"
    assert store.unloaded == ["a"]


def test_an_edited_toml_does_not_disturb_the_loading(store: Store) -> None:
    store.gate.clear()
    caller = Caller(store, store.voices.get("a").pinned)
    make_voice(store.folder / "a", text="Other words.", gpt="g")
    other = Caller(store, store.voices.get("a", fresh=True).pinned)
    store.gate.set()
    assert caller.wait().weights == other.wait().weights == "a"
    assert store.loaded == ["a"]


def test_old_weights_of_a_replaced_voice_go(store: Store) -> None:
    old = Caller(store, "a").wait()
    (store.folder / "a" / "g").write_bytes(b"new")
    store.voices.get("a", fresh=True)
    new = Caller(store, "a").wait()
    assert (old.weights, new.weights) == ("a", "new")
    assert store.unloaded == [], "a request still uses them"
    old.leave()
    Caller(store, "b").wait().leave()
    assert store.unloaded == [], "a stream may still want them"
    store.clock.now += 61
    store.add("d", size=10)
    Caller(store, "d").wait()
    assert store.unloaded == ["a"], "there was room, but nobody can ask for them"
    voice_metrics = {
        c.voice: c.value
        for c in store.weight_cache._voice_metrics.take()
        if c.family == "resident_bytes"
    }
    assert voice_metrics == {"a": 3, "b": 100, "d": 10}


def test_weights_in_constant_use_have_to_make_room(store: Store) -> None:
    """Two voices fill the memory and are never idle; a third one gets its turn, and they theirs."""
    users = {voice: [Caller(store, voice).wait()] for voice in ("a", "b")}
    third = Caller(store, "c")
    assert not third.done.wait(0.2)
    more = Caller(store, "a")
    assert more.done.is_set(), "no reason to wait yet"
    users["a"].append(more)
    store.clock.now += 3
    threading.Event().wait(0.2)
    # The least recently used has to go: whoever wants it now waits, the other goes on.
    late, other = Caller(store, "b"), Caller(store, "a")
    users["a"].append(other)
    assert not late.done.is_set()
    assert other.done.is_set()
    users["b"].pop().leave()
    assert third.wait().weights == "c"
    assert store.unloaded == ["b"]
    third.leave()
    assert late.wait().weights == "b"
    for caller in (late, *users["a"]):
        caller.leave()
    assert all(entry.users == 0 for entry in store.weight_cache._entries.values())


def test_those_who_were_asked_to_leave_in_vain_are_served(store: Store) -> None:
    users = [Caller(store, voice).wait() for voice in ("a", "b")]
    third = Caller(store, "c")
    assert not third.done.wait(0.2)
    store.clock.now += 3
    threading.Event().wait(0.2)
    waiting = Caller(store, "a")
    assert not waiting.done.is_set()
    users[1].leave()  # the other one goes first
    assert third.wait().weights == "c"
    assert waiting.wait().weights == "a"
    assert "a" not in store.unloaded


def test_after_the_end_nobody_waits(store: Store) -> None:
    store.weight_cache.close()
    with pytest.raises(Cancelled):
        Caller(store, "a")


def test_nobody_starves_when_more_voices_are_in_use_than_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_PATIENCE_SECONDS", 0.05)
    store = Store(tmp_path, budget=350, waiting_limit=100)
    store.weight_cache._clock = time.monotonic
    names = [f"v{number}" for number in range(8)]
    for name in names:
        store.add(name)
    most, waits = [0], []
    end = time.monotonic() + 3

    def client(seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < end:
            started, name = time.monotonic(), draw.choice(names)
            caller = Caller(store, name).wait()
            assert caller.weights == name
            waits.append(time.monotonic() - started)
            with store.weight_cache._changed:
                loaded = [e for e in store.weight_cache._entries.values() if e.weights is not None]
                most[0] = max(most[0], sum(entry.size for entry in loaded))
            time.sleep(0.02)
            caller.leave()

    with ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(client, seed) for seed in range(12)]:
            done.result()
    assert most[0] <= 350
    assert len(waits) > 50
    assert max(waits) < WAIT / 2
    assert all(entry.users == 0 for entry in store.weight_cache._entries.values())
    store.weight_cache.close()


def test_a_file_whose_size_cannot_be_told_counts_as_a_failure(store: Store) -> None:
    store.add("torn", size=0)

    def size(path: Path) -> int:
        raise CheckpointError(f"{path}: is cut short")

    store.weight_cache._size = size
    for _ in range(2):  # the second time it is not looked at again
        with pytest.raises(VoiceError, match="voice torn: g: is cut short"):
            Caller(store, "torn")
    (change,) = store.weight_cache._voice_metrics.take()
    assert (change.family, change.voice, change.value) == ("load_failures", "torn", 1)


@pytest.mark.parametrize("unforeseen", [RecursionError("too deep"), KeyError("F4")])
def test_whatever_a_size_brings_up_is_remembered(store: Store, unforeseen: Exception) -> None:
    store.add("torn", size=0)
    asked = []

    def size(path: Path) -> int:
        asked.append(path)
        raise unforeseen

    store.weight_cache._size = size
    for _ in range(3):
        with pytest.raises(VoiceError, match=f"voice torn: {unforeseen}"):
            Caller(store, "torn")
    assert len(asked) == 1
    store.clock.now += 61
    with pytest.raises(VoiceError):
        Caller(store, "torn")
    assert len(asked) == 2
    store.weight_cache._size = lambda path: 1
    assert Caller(store, "a").wait().weights == "a", "the cache goes on"
