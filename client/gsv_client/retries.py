"""Making a call again that failed for a reason that passes: how often, after which pause.

A request may be made twice without harm: it changes nothing on the server, and with the same seed
it has the same answer. A stream is opened again until its first chunk has come, and not after.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import secrets
import threading
import time
from collections.abc import Callable

from gsv_client.answers import is_empty
from gsv_client.errors import Cancelled, GsvClientError, InvalidRequest, ServerUnavailable
from gsv_client.limits import SEED_MAX
from gsv_client.options import TENSORS
from gsv_client.transport.base import (
    AsyncTensorStream,
    Request,
    Tensors,
    TensorStream,
)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds, doubled each time
SHORTEST = 0.1  # seconds that there must be left for an attempt
SPREAD = 0.2  # of a pause, by chance: callers who failed together must not come back together


def check_retries(retries: int) -> int:
    """InvalidRequest if it is not a number of times."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise InvalidRequest.value("retries", retries, "a whole number from 0")
    return retries


def with_seed(inputs: Tensors) -> Tensors:
    """The inputs with a seed drawn where the server would draw one: the same at each attempt."""
    seed = TENSORS["seed"]
    given = inputs.get(seed.name)
    if given is not None and int(given[0, 0]) >= 0:
        return inputs
    return {**inputs, seed.name: seed.encode(secrets.randbelow(SEED_MAX + 1))}


class Attempts:
    """The attempts of one call; all of them and the pauses between share the call's timeout.

    >>> attempts = Attempts(1, Request("gpt_sovits_v4", {}, (), timeout=10.0))
    >>> attempts.request.timeout
    10.0
    >>> 0.2 <= attempts.pause_after(ServerUnavailable("the line is full; try again later")) <= 0.3
    True
    >>> attempts.pause_after(ServerUnavailable("still full"))
    Traceback (most recent call last):
    gsv_client.errors.ServerUnavailable: still full

    Args:
        retries: how many there may be after the first one.
        request: of the first.
    """

    def __init__(
        self, retries: int, request: Request, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._left = retries
        self._request = request
        self._clock = clock
        self._began = clock()
        self._failed = False
        self._pause = FIRST_PAUSE

    @property
    def request(self) -> Request:
        """Of the attempt that is made now: its first answer must come in what time is left."""
        if not self._failed:
            return self._request
        left = self._request.timeout - (self._clock() - self._began)
        return dataclasses.replace(self._request, first_timeout=max(left, 0.001))

    def pause_after(self, error: GsvClientError) -> float:
        """Seconds until the next attempt: what the server says, or a little more each time.

        Raises:
            GsvClientError: ``error``, if there is to be no other attempt.
        """
        if self._left <= 0 or not isinstance(error, ServerUnavailable) or not error.passes:
            raise error
        pause = error.wait if error.wait is not None else self._pause
        pause *= 1 + random.uniform(0, SPREAD)
        if self._clock() - self._began + pause + SHORTEST > self._request.timeout:
            raise error
        self._left -= 1
        self._failed = True
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return pause


class RetriedStream:
    """A stream that is opened again as long as nothing has come; as `TensorStream`."""

    def __init__(self, open_stream: Callable[[Request], TensorStream], attempts: Attempts) -> None:
        self._open = open_stream
        self._attempts = attempts
        self._lock = threading.Lock()  # guards _stream
        self._stream = open_stream(attempts.request)
        self._begun = False
        self._closed = threading.Event()

    def __iter__(self) -> RetriedStream:
        return self

    def __next__(self) -> Tensors:
        while not self._begun:
            try:
                first = next(self._stream)
                self._begun = not is_empty(first)
                return first
            except GsvClientError as error:
                if self._closed.wait(self._attempts.pause_after(error)):
                    raise Cancelled("the stream was closed") from error
                self._again()
        return next(self._stream)

    def close(self) -> None:
        """Cancel what is not finished, or the wait for another attempt."""
        self._closed.set()
        with self._lock:
            self._stream.close()

    def _again(self) -> None:
        with self._lock:
            self._stream.close()
            self._stream = self._open(self._attempts.request)
            if self._closed.is_set():
                self._stream.close()


class AsyncRetriedStream:
    """The same on an event loop; as `AsyncTensorStream`."""

    def __init__(
        self, open_stream: Callable[[Request], AsyncTensorStream], attempts: Attempts
    ) -> None:
        self._open = open_stream
        self._attempts = attempts
        self._stream = open_stream(attempts.request)
        self._begun = False
        self._closed = asyncio.Event()

    def __aiter__(self) -> AsyncRetriedStream:
        return self

    async def __anext__(self) -> Tensors:
        while not self._begun:
            try:
                first = await self._stream.__anext__()
                self._begun = not is_empty(first)
                return first
            except GsvClientError as error:
                await self._rest(self._attempts.pause_after(error))
                if self._closed.is_set():
                    raise Cancelled("the stream was closed") from error
                self._stream.close()
                self._stream = self._open(self._attempts.request)
        return await self._stream.__anext__()

    async def _rest(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._closed.wait(), seconds)
        except asyncio.TimeoutError:  # noqa: UP041 (not TimeoutError before Python 3.11)
            return

    def close(self) -> None:
        """Cancel what is not finished, or the wait for another attempt."""
        self._closed.set()
        self._stream.close()
