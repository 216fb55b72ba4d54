"""Chunks of a spoken text on an event loop: of one text, and of one that is still being written."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import weakref
from collections.abc import AsyncIterable, Callable
from types import TracebackType
from typing import Any, TypeVar

from gsv_client.answers import Chunk, chunk_of, is_empty
from gsv_client.errors import Cancelled, GsvClientError, ServerError
from gsv_client.sentences import SentenceBuffer
from gsv_client.text_stream import CHUNKS_HELD, SENTENCES_AHEAD
from gsv_client.transport.base import AsyncTensorStream


def _let_go(answers: AsyncTensorStream) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop has ended, and the request with it
        answers.close()


class AsyncSpeechStream:
    """Chunks of one spoken text, in order; leave the `async with` block to cancel the rest."""

    def __init__(self, answers: AsyncTensorStream) -> None:
        self._answers = answers
        self._rate: int | None = None
        # For a loop over it that was left without ceremony.
        weakref.finalize(self, _let_go, answers).atexit = False

    def __aiter__(self) -> AsyncSpeechStream:
        return self

    async def __anext__(self) -> Chunk:
        try:
            while is_empty(outputs := await self._answers.__anext__()):
                pass
            chunk = chunk_of(outputs)
            if self._rate not in (None, chunk.rate):
                raise ServerError(
                    f"the sample rate changed inside a stream from {self._rate} to {chunk.rate} Hz"
                )
        except (GsvClientError, asyncio.CancelledError):
            self._answers.close()
            raise
        self._rate = chunk.rate
        return chunk

    async def aclose(self) -> None:
        """Cancel what is not finished; any number of times."""
        self._answers.close()

    async def __aenter__(self) -> AsyncSpeechStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


@dataclasses.dataclass(frozen=True)
class _End:
    """The last item of a queue: no more items come, or this error ended them."""

    error: Exception | None = None


def _closed() -> _End:
    return _End(Cancelled("the stream was closed"))


_Item = TypeVar("_Item")
_Turn = asyncio.Queue["Chunk | _End"]  # the chunks of one sentence


class AsyncTextStream:
    """Chunks of a text in pieces, in order. Close it, or let go of it, to cancel the rest.

    While one sentence is heard, the next is made. Every queue is bounded: a slow listener holds
    back the streams, and they hold back whoever writes the text.
    """

    def __init__(
        self,
        pieces: AsyncIterable[str | None],
        speak: Callable[[str, int], AsyncSpeechStream],
    ) -> None:
        # The tasks know the relay only. So nothing keeps this object alive but its user, and
        # dropping it ends the tasks.
        self._relay = _Relay(pieces, speak)
        self._turn: _Turn | None = None
        self._over = False
        weakref.finalize(self, self._relay.let_go).atexit = False

    def __aiter__(self) -> AsyncTextStream:
        return self

    async def __anext__(self) -> Chunk:
        relay = self._relay
        if self._over:
            raise StopAsyncIteration
        if relay.ended:  # while nobody waited: what was heard is not all
            return await self._finish(_closed())
        relay.begin()
        while True:
            if self._turn is None:
                turn = await relay.from_queue(relay.turns)
                if isinstance(turn, _End):
                    return await self._finish(turn)
                self._turn = turn
            item = await relay.from_queue(self._turn)
            if isinstance(item, Chunk):
                return item
            self._turn = None
            if item.error is not None:
                return await self._finish(item)

    async def aclose(self) -> None:
        """Cancel what is not finished; any number of times. Who reads gets Cancelled."""
        await self._relay.aclose()

    async def __aenter__(self) -> AsyncTextStream:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _finish(self, end: _End) -> Chunk:
        self._over = True
        await self.aclose()
        raise end.error or StopAsyncIteration


class _Relay:
    """What the tasks share: the turns in order, and all that has to be cancelled at the end."""

    def __init__(
        self,
        pieces: AsyncIterable[str | None],
        speak: Callable[[str, int], AsyncSpeechStream],
    ) -> None:
        self.turns: asyncio.Queue[_Turn | _End] = asyncio.Queue(SENTENCES_AHEAD)
        self.ended = False
        self._pieces = pieces
        self._speak = speak
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Future[None] | None = None  # wakes who reads

    def begin(self) -> None:
        """Feed, unless it does already."""
        if self._stopped is None:
            self._loop = asyncio.get_running_loop()
            self._stopped = self._loop.create_future()
            self._start(self._feed())

    async def from_queue(self, queue: asyncio.Queue[_Item]) -> _Item | _End:
        """The next item; the end when the stream is closed meanwhile."""
        assert self._stopped is not None
        getting = asyncio.ensure_future(queue.get())
        try:
            both: set[asyncio.Future[Any]] = {getting, self._stopped}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._stop()
            raise
        finally:
            if not getting.done():
                getting.cancel()
        if getting.done() and not getting.cancelled():
            return getting.result()
        return _closed()

    async def aclose(self) -> None:
        """Cancel the tasks and wait for their end."""
        tasks = list(self._tasks)
        self._stop()
        await asyncio.gather(*tasks, return_exceptions=True)

    def let_go(self) -> None:
        """Cancel the tasks; from any thread, as the garbage collector runs in any."""
        if self._loop is not None and not self.ended:
            with contextlib.suppress(RuntimeError):  # the event loop has ended, and the tasks too
                self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self.ended = True
        if self._stopped is not None and not self._stopped.done():
            self._stopped.set_result(None)
        for task in list(self._tasks):
            task.cancel()

    async def _feed(self) -> None:
        """Task: one turn for each sentence, as the text completes it."""
        buffer, index = SentenceBuffer(), 0
        try:
            async for piece in self._pieces:
                for sentence in buffer.flush() if piece is None else buffer.feed(piece):
                    await self._begin_turn(sentence, index)
                    index += 1
            for sentence in buffer.flush():
                await self._begin_turn(sentence, index)
                index += 1
        except Exception as error:  # whatever it is, the reader gets it
            await self.turns.put(_End(error))
        else:
            await self.turns.put(_End())

    async def _begin_turn(self, sentence: str, index: int) -> None:
        stream = self._speak(sentence, index)
        turn: _Turn = asyncio.Queue(CHUNKS_HELD)
        await self.turns.put(turn)
        self._start(self._read(stream, turn, index))

    async def _read(self, stream: AsyncSpeechStream, turn: _Turn, index: int) -> None:
        """Task: the chunks of one sentence."""
        try:
            async with stream:
                async for chunk in stream:
                    await turn.put(dataclasses.replace(chunk, sentence=index))
        except Exception as error:  # whatever it is, the reader gets it
            await turn.put(_End(error))
        else:
            await turn.put(_End())

    def _start(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._ended_task)

    def _ended_task(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # by whoever closed the client, or within what it reads: no end comes
            self._stop()
