"""The chunks of one spoken text."""

from __future__ import annotations

import weakref
from types import TracebackType

from gsv_client.answers import Chunk, chunk_of, is_empty
from gsv_client.errors import GsvClientError, ServerError
from gsv_client.transport import TensorStream


class SpeechStream:
    """Chunks of one spoken text, in order. Close it, or let go of it, to cancel the rest.

    >>> with client.stream("A long story.") as stream:
    ...     first = next(stream)
    >>> first.duration
    0.5
    """

    def __init__(self, answers: TensorStream) -> None:
        self._answers = answers
        # Runs when the stream is garbage, or at exit while threads still run. A `__del__` would
        # run after they were stopped, and could wait for ever for a lock that one of them held.
        weakref.finalize(self, answers.close)
        self._rate: int | None = None

    def __iter__(self) -> SpeechStream:
        return self

    def __next__(self) -> Chunk:
        try:
            while is_empty(outputs := next(self._answers)):
                pass
            chunk = chunk_of(outputs)
            if self._rate not in (None, chunk.rate):
                raise ServerError(
                    f"the sample rate changed inside a stream from {self._rate} to {chunk.rate} Hz"
                )
        except GsvClientError:
            self.close()
            raise
        self._rate = chunk.rate
        return chunk

    def close(self) -> None:
        """Cancel what is not finished; from any thread, any number of times."""
        self._answers.close()

    def __enter__(self) -> SpeechStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
