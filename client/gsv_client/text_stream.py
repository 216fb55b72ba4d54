"""Speech of a text that is still being written: sentences go out as they complete, audio comes
back in their order.

    pieces → [feeder thread] → one stream per sentence, each read by a thread → chunks in order

Every queue is bounded: a slow listener holds back the streams, and they hold back the feeder.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from gsv_client.answers import Chunk
from gsv_client.sentences import sentences_of

Item = TypeVar("Item")

# While one sentence is being heard, the next is being made.
SENTENCES_AHEAD = 1
CHUNKS_HELD = 8


class ChunkStream(Protocol):
    """What `speak` returns: chunks of one sentence, closable from any thread."""

    def __iter__(self) -> ChunkStream: ...

    def __next__(self) -> Chunk: ...

    def close(self) -> None: ...


class Channel(Generic[Item]):
    """A bounded queue from one writer to one reader that either side can end.

    Unlike queue.Queue it carries the writer's end or error to the reader, and the reader's leaving
    to the writer, so that neither ever waits for someone who is gone.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._ended = self._left = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Wait for room and add; False if the reader has left."""
        with self._changed:
            self._changed.wait_for(lambda: self._left or len(self._items) < self._size)
            if not self._left:
                self._items.append(item)
                self._changed.notify_all()
            return not self._left

    def end(self, error: BaseException | None = None) -> None:
        """No more items; an error is raised to the reader after the last one."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def get(self) -> Item:
        """The next item; StopIteration, or the writer's error, when there is none to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended or self._left)
            if self._left or not self._items:
                error, self._error = self._error, None
                raise error or StopIteration
            self._changed.notify_all()
            return self._items.popleft()

    def leave(self) -> None:
        """The reader wants no more."""
        with self._changed:
            self._left = True
            self._items.clear()
            self._changed.notify_all()


class TextStream:
    """Chunks of a text in pieces, in order. Close it, or let go of it, to cancel the rest."""

    def __init__(self, pieces: Iterable[str], speak: Callable[[str, int], ChunkStream]) -> None:
        # The threads know the relay only. So nothing keeps this object alive but its user, and
        # dropping it ends the threads.
        self._relay = _Relay(pieces, speak)
        weakref.finalize(self, self._relay.close)
        self._turn: Channel[Chunk] | None = None
        self._started = False

    def __iter__(self) -> TextStream:
        return self

    def __next__(self) -> Chunk:
        if not self._started:
            self._started = True
            _thread(self._relay.feed)
        try:
            while True:
                if self._turn is None:
                    self._turn = self._relay.turns.get()
                try:
                    return self._turn.get()
                except StopIteration:
                    self._turn = None
        except BaseException:  # Ctrl-C too: the threads end
            self.close()
            raise

    def close(self) -> None:
        """Cancel what is not finished; from any thread, any number of times.

        A thread that waits for the next piece of text ends when that piece comes.
        """
        self._relay.close()

    def __enter__(self) -> TextStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Relay:
    """What the threads share: the turns in order, and all that has to be closed at the end."""

    def __init__(self, pieces: Iterable[str], speak: Callable[[str, int], ChunkStream]) -> None:
        self.turns: Channel[Channel[Chunk]] = Channel(SENTENCES_AHEAD)
        self._pieces = pieces
        self._speak = speak
        self._lock = threading.Lock()  # guards _open and _closed
        self._open: dict[Channel[Chunk], ChunkStream] = {}
        self._closed = False

    def feed(self) -> None:
        """Thread: one turn for each sentence, as the text completes it."""
        try:
            for index, sentence in enumerate(sentences_of(self._pieces)):
                stream = self._speak(sentence, index)
                turn: Channel[Chunk] = Channel(CHUNKS_HELD)
                if not (self.turns.put(turn) and self._begin(turn, stream, index)):
                    stream.close()
                    return
            self.turns.end()
        except BaseException as error:  # whatever it is, the reader gets it
            self.turns.end(error)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            still_open = list(self._open.items())
        self.turns.leave()
        for turn, stream in still_open:
            turn.leave()
            stream.close()

    def _begin(self, turn: Channel[Chunk], stream: ChunkStream, index: int) -> bool:
        with self._lock:
            if self._closed:
                return False
            self._open[turn] = stream
        _thread(self._relay_chunks, turn, stream, index)
        return True

    def _relay_chunks(self, turn: Channel[Chunk], stream: ChunkStream, index: int) -> None:
        """Thread: the chunks of one sentence."""
        try:
            for chunk in stream:
                if not turn.put(dataclasses.replace(chunk, sentence=index)):
                    break
            turn.end()
        except BaseException as error:  # whatever it is, the reader gets it
            turn.end(error)
        finally:
            with self._lock:
                self._open.pop(turn, None)


def _thread(work: Callable[..., None], *arguments: object) -> None:
    """Daemon: an iterator of the user's that never comes back must not keep the process alive."""
    threading.Thread(target=work, args=arguments, name="gsv-text-stream", daemon=True).start()
