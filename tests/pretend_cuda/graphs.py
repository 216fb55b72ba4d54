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
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

from torch import Tensor

from pretend_cuda.faults import IllegalCapture, Race, StaleMemory
from pretend_cuda.machine import PoolId, machine
from pretend_cuda.memory import Memory, poison, use
from pretend_cuda.plain import leaves, mapped, plainly
from pretend_cuda.streams import Stream


class Value:
    """A tensor that a capture makes, by number: it has no memory between replays."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclasses.dataclass
class Step:
    """One operation of a tape.

    Attributes:
        call: computes it, on the host's memory behind the device's.
        args, kwargs: what it takes; a Value stands for what an earlier step has made.
        made: numbers of the tensors that it makes, None for those that were there before.
        dropped: numbers of values that no later step takes.
    """

    call: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: list[int | None]
    dropped: list[int] = dataclasses.field(default_factory=list)

    def run(self, values: dict[int, Tensor]) -> None:
        """Compute it again, from ``values`` and into them."""

        def filled(part: Any) -> Any:
            return values[part.number] if isinstance(part, Value) else part

        made = self.call(*mapped(filled, self.args), **mapped(filled, self.kwargs))
        tensors = [part for part in leaves(made) if isinstance(part, Tensor)]
        for number, tensor in zip(self.made, tensors, strict=True):
            if number is not None:
                values[number] = tensor
        for number in self.dropped:
            values.pop(number, None)

    def uses(self) -> set[int]:
        """Numbers of all values that it takes or makes."""
        taken = {
            part.number for part in leaves((self.args, self.kwargs)) if isinstance(part, Value)
        }
        return taken | {number for number in self.made if number is not None}


@dataclasses.dataclass
class Output:
    """Memory of a graph that somebody holds when its capture ends, filled by each replay."""

    number: int
    kept: Tensor
    memory: weakref.ref[Memory]


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
    number: int = 0
    made: list[tuple[int, weakref.ref[Memory]]] = dataclasses.field(default_factory=list)
    reads: list[weakref.ref[Memory]] = dataclasses.field(default_factory=list)
    writes: list[weakref.ref[Memory]] = dataclasses.field(default_factory=list)
    joined: dict[Stream, bool] = dataclasses.field(default_factory=dict)  # forked streams

    def __post_init__(self) -> None:
        self.number = next(machine().numbers)
        self._before: list[tuple[Tensor, Tensor]] = []

    def fork(self, stream: Stream) -> None:
        """A stream that waits for an event of this capture is captured, too."""
        stream.capture = self
        self.joined[stream] = False

    def join(self, stream: Stream) -> None:
        """A forked stream has been waited for."""
        if stream in self.joined:
            self.joined[stream] = True

    def owns(self, memory: Memory) -> bool:
        """Whether memory was allocated in this capture."""
        return memory.owner == self.number

    def keep(self, written: Tensor) -> None:
        """Remember memory from outside that an operation is about to write."""
        self._before.append((written, written.clone()))

    def note(self, step: Step, reads: Iterable[Memory], writes: Iterable[Memory]) -> None:
        """Put an operation on the tape."""
        self.tape.append(step)
        for kept, memories in ((self.reads, reads), (self.writes, writes)):
            kept.extend(weakref.ref(memory) for memory in memories if not self.owns(memory))

    def outputs(self) -> list[Output]:
        """What of the graph's memory is held by somebody; sets when values can be dropped."""
        made = []
        for number, reference in self.made:
            memory = reference()
            if memory is not None and (kept := memory.first_view()) is not None:
                made.append(Output(number, kept, reference))
        needed = {output.number for output in made}
        for step in reversed(self.tape):
            step.dropped = sorted(step.uses() - needed)
            needed |= step.uses()
        return made

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
        self._outputs: list[Output] = []
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
        with plainly():
            self._outputs = capture.outputs()
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
            owned = [memory for output in self._outputs if (memory := output.memory())]
            use(stream, *([m for m in part if m] for part in memories))
            use(stream, (), owned)
            self._last, self._stale = (stream, stream.issued), False
            values: dict[int, Tensor] = {}
            for step in self._tape:
                step.run(values)
            for output in self._outputs:
                output.kept.copy_(values[output.number])

    def reset(self) -> None:
        """Forget the capture."""
        self._tape, self._pool = None, None
        self._outputs, self._reads, self._writes = [], [], []

    def _spoil(self, why: str) -> None:
        self._stale = True
        with plainly():
            for output in self._outputs:
                poison(output.kept)
                if memory := output.memory():
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
