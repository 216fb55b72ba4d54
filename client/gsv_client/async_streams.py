"""Chunks of a spoken text on an event loop: of one text, and of one that is still being written."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterable, Callable
from types import TracebackType

from gsv_client.answers import Chunk, chunk_of, is_empty
from gsv_client.errors import GsvClientError, ServerError
from gsv_client.sentences import SentenceBuffer
from gsv_client.text_stream import CHUNKS_HELD, SENTENCES_AHEAD
from gsv_client.transport.base import AsyncTensorStream


class AsyncSpeechStream:
    """Chunks of one spoken text, in order; leave the `async with` block to cancel the rest."""

    def __init__(self, answers: AsyncTensorStream) -> None:
        self._answers = answers
        self._rate: int | None = None

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


_Turn = asyncio.Queue["Chunk | _End"]  # the chunks of one sentence


class AsyncTextStream:
    """Chunks of a text in pieces, in order.

    While one sentence is heard, the next is made. Every queue is bounded: a slow listener holds
    back the streams, and they hold back whoever writes the text.
    """

    def __init__(
        self,
        pieces: AsyncIterable[str | None],
        speak: Callable[[str, int], AsyncSpeechStream],
    ) -> None:
        self._pieces = pieces
        self._speak = speak
        self._turns: asyncio.Queue[_Turn | _End] = asyncio.Queue(SENTENCES_AHEAD)
        self._turn: _Turn | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = False

    def __aiter__(self) -> AsyncTextStream:
        return self

    async def __anext__(self) -> Chunk:
        if self._ended:
            raise StopAsyncIteration
        if not self._tasks and self._turn is None:
            self._start(self._feed())
        while True:
            if self._turn is None:
                turn = await self._turns.get()
                if isinstance(turn, _End):
                    return await self._finish(turn)
                self._turn = turn
            item = await self._turn.get()
            if isinstance(item, Chunk):
                return item
            self._turn = None
            if item.error is not None:
                return await self._finish(item)

    async def aclose(self) -> None:
        """Cancel what is not finished; any number of times."""
        self._ended = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        await self.aclose()
        raise end.error or StopAsyncIteration

    async def _feed(self) -> None:
        """Task: one turn for each sentence, as the text completes it."""
        buffer, index = SentenceBuffer(), 0
        try:
            async for piece in self._pieces:
                for sentence in buffer.flush() if piece is None else buffer.feed(piece):
                    await self._begin(sentence, index)
                    index += 1
            for sentence in buffer.flush():
                await self._begin(sentence, index)
                index += 1
        except Exception as error:  # whatever it is, the reader gets it
            await self._turns.put(_End(error))
        else:
            await self._turns.put(_End())

    async def _begin(self, sentence: str, index: int) -> None:
        stream = self._speak(sentence, index)
        turn: _Turn = asyncio.Queue(CHUNKS_HELD)
        await self._turns.put(turn)
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
        task.add_done_callback(self._tasks.discard)
