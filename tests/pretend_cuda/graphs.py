"""CUDA graphs as tapes: operations noted during a capture, and computed anew at each replay.

As on a device, a capture computes nothing: what it seemed to write is put back at its end. A
replay writes over the memory of all other graphs of its pool, which here is poisoned at once. This
is stricter than a device, where graphs that were captured later only may lie in the same memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from pretend_cuda.faults import IllegalCapture, Race, StaleMemory
from pretend_cuda.machine import PoolId, machine
from pretend_cuda.memory import Memory, poison, use
from pretend_cuda.plain import leaves, plainly
from pretend_cuda.streams import Stream


@dataclasses.dataclass
class Step:
    """One operation of a tape, on the host's memory behind the device's."""

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: list[Tensor]

    def run(self) -> None:
        """Compute it again, into the same memory."""
        again = [x for x in leaves(self.call(*self.args, **self.kwargs)) if _is_tensor(x)]
        for old, new in zip(self.made, again, strict=True):
            if old.numel() and old.data_ptr() != new.data_ptr():
                old.copy_(new)


@dataclasses.dataclass(eq=False)
class Capture:
    """A capture under way."""

    graph: CUDAGraph
    pool: PoolId
    stream: Stream
    mode: str
    thread: threading.Thread = dataclasses.field(default_factory=threading.current_thread)
    broken: bool = False
    tape: list[Step] = dataclasses.field(default_factory=list)
    owned: dict[int, Tensor] = dataclasses.field(default_factory=dict)  # by address of the storage
    reads: list[weakref.ref[Memory]] = dataclasses.field(default_factory=list)
    writes: list[weakref.ref[Memory]] = dataclasses.field(default_factory=list)
    joined: dict[Stream, bool] = dataclasses.field(default_factory=dict)  # forked streams

    def __post_init__(self) -> None:
        self._before: list[tuple[Tensor, Tensor]] = []
        self._seen: set[int] = set()

    def fork(self, stream: Stream) -> None:
        """A stream that waits for an event of this capture is captured, too."""
        stream.capture = self
        self.joined[stream] = False

    def join(self, stream: Stream) -> None:
        """A forked stream has been waited for."""
        if stream in self.joined:
            self.joined[stream] = True

    def keep(self, written: Tensor) -> None:
        """Remember memory from outside that an operation is about to write."""
        if written.untyped_storage().data_ptr() not in self.owned:
            self._before.append((written, written.clone()))

    def note(
        self, step: Step, reads: list[Memory], writes: list[Memory], fresh: list[Memory]
    ) -> None:
        """Put an operation on the tape."""
        self.tape.append(step)
        for memory in fresh:
            memory.graph_owned = True
        for made in step.made:
            storage = made.untyped_storage()
            memory = Memory.of(made)
            if memory is not None and memory.graph_owned and storage.nbytes():
                self.owned.setdefault(storage.data_ptr(), _whole(made))
        for kept, memories in ((self.reads, reads), (self.writes, writes)):
            for memory in memories:
                if not memory.graph_owned and id(memory) not in self._seen:
                    kept.append(weakref.ref(memory))

    def end(self) -> None:
        """Put everything back: nothing of it has been computed."""
        self.stream.capture = None
        with plainly():
            for target, value in reversed(self._before):
                target.copy_(value)
        self._before.clear()
        for stream in self.joined:
            stream.capture = None


class CUDAGraph:
    """As ``torch.cuda.CUDAGraph``."""

    def __init__(self, *_: object, **__: object) -> None:
        self._machine = machine()
        self._capture: Capture | None = None
        self._tape: list[Step] | None = None
        self._pool: PoolId | None = None
        self._owned: list[Tensor] = []
        self._reads: list[weakref.ref[Memory]] = []
        self._writes: list[weakref.ref[Memory]] = []
        self._index = 0  # of the device
        self._stale = False
        self._last: tuple[Stream, int] | None = None  # the last replay

    def pool(self) -> PoolId:
        """Where the graph's memory lies, for others to share it."""
        if self._pool is None:
            raise RuntimeError("a graph has a pool once its capture has begun")
        return self._pool

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Note on the tape what the calling thread's current stream is told from now on."""
        own = self._machine
        stream = own.current_stream(own.device)
        reason = ""
        if stream.is_default:
            reason = "graphs must be captured on another stream than the default one"
        elif own.captures:
            reason = "another capture is under way in this process; use a lock"
        elif self._tape is not None:
            reason = "this graph is captured already; reset it first"
        elif capture_error_mode not in ("global", "thread_local", "relaxed"):
            reason = f"unknown capture_error_mode {capture_error_mode!r}"
        if reason:
            raise own.fault(IllegalCapture(reason))
        self._pool = pool or graph_pool_handle()
        self._capture = Capture(self, self._pool, stream, capture_error_mode)
        own.captures.append(self._capture)
        stream.capture = self._capture
        own.log.captures += 1

    def capture_end(self) -> None:
        """End the capture that ``capture_begin`` began."""
        own, capture = self._machine, self._capture
        if capture is None:
            raise own.fault(IllegalCapture("no capture of this graph has begun"))
        self._capture = None
        own.captures.remove(capture)
        capture.end()
        if capture.thread is not threading.current_thread():
            raise own.fault(IllegalCapture("a capture must end in the thread in which it began"))
        if own.current_stream(capture.stream.device.index) is not capture.stream:
            raise own.fault(IllegalCapture("a capture must end on the stream on which it began"))
        if capture.broken:
            raise RuntimeError("CUDA error: operation failed due to a previous error in capture")
        if left := [stream for stream, joined in capture.joined.items() if not joined]:
            raise own.fault(IllegalCapture(f"not joined again: {left}"))
        self._tape, self._index = capture.tape, capture.stream.device.index
        self._owned = list(capture.owned.values())
        self._reads, self._writes = capture.reads, capture.writes
        self._spoil("its graph has not been replayed yet")
        with own.lock:
            own.pools.setdefault(capture.pool, weakref.WeakSet()).add(self)

    def replay(self) -> None:
        """Compute everything on the tape, on the calling thread's current stream of the device."""
        own = self._machine
        if self._tape is None:
            raise RuntimeError("this graph has not been captured")
        own.refuse_in_capture("a replay")
        own.log.replays += 1
        with own.lock, plainly():
            stream = own.current_stream(self._index)
            for other in own.pools[self.pool()]:
                if other._last is not None and not stream.follows(*other._last):
                    message = f"graphs of one pool run on {stream} and {other._last[0]} at once"
                    raise own.fault(Race(message))
                if other is not self and not other._stale:
                    other._spoil("another graph of its pool has been replayed since")
            memories = [[kept() for kept in part] for part in (self._reads, self._writes)]
            if any(memory is None for part in memories for memory in part):
                raise own.fault(StaleMemory("a graph reads or writes memory that was freed"))
            owned = [memory for values in self._owned if (memory := Memory.of(values))]
            use(stream, *([m for m in part if m] for part in memories))
            use(stream, (), owned)
            self._last, self._stale = (stream, stream.issued), False
            for step in self._tape:
                step.run()

    def reset(self) -> None:
        """Forget the capture."""
        self._tape, self._pool = None, None
        self._owned, self._reads, self._writes = [], [], []

    def _spoil(self, why: str) -> None:
        self._stale = True
        with plainly():
            for values in self._owned:
                poison(values)
                if memory := Memory.of(values):
                    memory.stale = why


class graph:  # noqa: N801 (torch's name)
    """As ``torch.cuda.graph``: a capture on a stream of its own, once the device rests."""

    default_capture_stream: Stream | None = None  # torch's threads share one, too

    def __init__(
        self,
        cuda_graph: CUDAGraph,
        pool: Any = None,
        stream: Stream | None = None,
        capture_error_mode: str = "global",
    ) -> None:
        kind = type(self)
        if kind.default_capture_stream is None:
            kind.default_capture_stream = Stream()
        self._graph, self._pool, self._mode = cuda_graph, pool, capture_error_mode
        self._stream = stream or kind.default_capture_stream
        self._entered = contextlib.ExitStack()

    def __enter__(self) -> None:
        machine().wait("torch.cuda.graph")
        machine().finish()
        self._entered.enter_context(self._stream)
        try:
            self._graph.capture_begin(self._pool, self._mode)
        except BaseException:
            self._entered.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._entered:
            try:
                self._graph.capture_end()
            except RuntimeError:
                if error is None:
                    raise


def graph_pool_handle() -> PoolId:
    """A new pool, for graphs to share."""
    return 0, next(machine().numbers)


def is_capturing() -> bool:
    """Whether the calling thread's current stream is captured."""
    own = machine()
    return own.current_stream(own.device).capture is not None


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _whole(values: Tensor) -> Tensor:
    """All of a tensor's storage, in one dimension."""
    storage = values.untyped_storage()
    count = storage.nbytes() // values.element_size()
    return torch.empty(0, dtype=values.dtype).set_(storage, 0, (count,), (1,))
