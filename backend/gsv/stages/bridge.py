"""Threads that wait for another model's answer, with a bounded line before them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from gsv.errors import Cancelled, Overloaded
from gsv.stages.base import Reply


class CallPool:
    """Runs calls that block; refuses at once what neither a thread nor the line can take."""

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + waiting
        self._waiting = waiting
        self._inside = 0
        self._lock = threading.Lock()

    def submit(self, work: Callable[[], None], reply: Reply) -> Callable[[], None]:
        """Run ``work`` on a thread; its errors go to ``reply``. Returns a function that takes the
        call out of the line again if it has not started.

        Raises:
            Overloaded: all threads are busy and the line is full.
        """
        with self._lock:
            if self._inside >= self._limit:
                raise Overloaded(
                    f"{self._inside} requests are inside, {self._waiting} of them waiting, and the "
                    "line is full; try again later"
                )
            self._inside += 1
        future = self._pool.submit(self._run, work, reply)
        future.add_done_callback(lambda _: self._leave())

        def cancel() -> None:
            if future.cancel():
                reply.fail(Cancelled("cancelled while waiting"))

        return cancel

    def close(self) -> None:
        """Drop what waits, wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, work: Callable[[], None], reply: Reply) -> None:
        try:
            work()
        except Exception as error:
            reply.fail(error)

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1
