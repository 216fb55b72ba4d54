"""Calls from one stage to others: threads that wait for them, and a way to call them all off."""

from __future__ import annotations

import dataclasses
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from gsv.constants import BERT_DIM, MEL_CHANNELS, STYLE_BINS
from gsv.errors import Cancelled, Overloaded
from gsv.reply import Reply
from gsv.stages.base import Tensors


class CallModel(Protocol):
    """The models of one server, called by name; ``serving/bls.py`` or ``offline.py``."""

    def __call__(
        self, model: str, tensors: Tensors, outputs: Sequence[str], *, job: str = ""
    ) -> Tensors:
        """The model's response.

        Its error comes back as the exception that it was. ``job`` names the call, so that it can
        be cancelled; an ensemble hands the name on to its steps.
        """
        ...

    def cancel(self, model: str, job: str) -> None:
        """Tell ``model`` that nobody waits for the calls named ``job`` any more."""
        ...


class CancelScope:
    """All calls on behalf of one caller; when the caller leaves, every call under way is told."""

    def __init__(self, call: CallModel) -> None:
        self._call = call
        self._live: dict[str, tuple[str, ...]] = {}
        self._inner: list[CancelScope] = []
        self._lock = threading.Lock()
        self.cancelled = threading.Event()

    def __call__(
        self,
        model: str,
        tensors: Tensors,
        outputs: Sequence[str],
        *,
        inside: tuple[str, ...] = (),
        job: str = "",
    ) -> Tensors:
        """As :class:`CallModel`.

        Args:
            model, tensors, outputs: the call.
            inside: the steps of an ensemble that can be cancelled.
            job: a name for the call; by default one that nobody else has.
        """
        job = job or uuid.uuid4().hex
        with self._lock:
            if self.cancelled.is_set():
                raise Cancelled("the caller went away")
            self._live[job] = inside or (model,)
        try:
            return self._call(model, tensors, outputs, job=job)
        finally:
            with self._lock:
                del self._live[job]

    def abandon(self, model: str, job: str) -> None:
        """Tell ``model`` that there will be no more calls named ``job``."""
        self._call.cancel(model, job)

    def inner(self) -> CancelScope:
        """A scope for one attempt: it can be cancelled alone, and is cancelled with this one."""
        scope = CancelScope(self._call)
        with self._lock:
            self._inner.append(scope)
            if self.cancelled.is_set():
                scope.cancel()
        return scope

    def cancel(self) -> None:
        """Call off everything under way; later calls raise Cancelled."""
        with self._lock:
            self.cancelled.set()
            live, inner = dict(self._live), list(self._inner)
        for scope in inner:
            scope.cancel()
        for job, models in live.items():
            self._tell(job, models)

    def _tell(self, job: str, models: tuple[str, ...]) -> None:
        for model in models:
            self._call.cancel(model, job)


class CallPool:
    """Threads for work that waits on calls; refuses at once what the line cannot take."""

    def __init__(self, name: str, call: CallModel, threads: int, waiting: int) -> None:
        self._call = call
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limit = threads + waiting
        self._inside = 0
        self._lock = threading.Lock()

    def submit(self, work: Callable[[CancelScope], None], reply: Reply) -> Callable[[], None]:
        """Run ``work`` on a thread; its errors go to ``reply``. Returns what cancels it.

        Raises:
            Overloaded: all threads are busy and the line is full.
        """
        with self._lock:
            if self._inside >= self._limit:
                raise Overloaded(
                    f"{self._inside} requests are inside and the line is full; try again later"
                )
            self._inside += 1
        scope = CancelScope(self._call)
        future = self._pool.submit(self._run, work, scope, reply)
        future.add_done_callback(lambda _: self._leave())

        def cancel() -> None:
            if future.cancel():
                reply.fail(Cancelled("the caller went away"))
            else:
                scope.cancel()

        return cancel

    def close(self) -> None:
        """Drop what waits, wait for what runs."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, work: Callable[[CancelScope], None], scope: CancelScope, reply: Reply) -> None:
        try:
            work(scope)
        except BaseException as error:
            reply.fail(error)

    def _leave(self) -> None:
        with self._lock:
            self._inside -= 1


ENGINE = "semantic_gpt_engine"


@dataclasses.dataclass(frozen=True)
class CancellableModel:
    """A model that can be told to drop calls, and what Triton wants of a request that says so.

    Attributes:
        inputs: the required ones; nobody reads them.
        outputs: all of them.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_GPT_INPUTS = (
    "PHONEMES", "PHONEME_COUNTS", "BERT_FEATURES", "BERT_ROWS", "PROMPT_PHONEMES",
    "PROMPT_BERT_FEATURES", "PROMPT_BERT_ROWS", "PROMPT_TOKENS",
)  # fmt: skip
# Names, not the stages' classes: these would bring torch into processes that have no network.
CANCELLABLE = {
    "semantic_gpt": CancellableModel(_GPT_INPUTS, ("TOKENS", "TOKEN_COUNTS")),
    ENGINE: CancellableModel(_GPT_INPUTS, ("TOKENS", "TOKEN_COUNTS", "ENDED")),
    "sovits_v4": CancellableModel(
        (
            "TOKENS", "TOKEN_COUNTS", "PHONEMES", "PHONEME_COUNTS", "PROMPT_TOKENS",
            "PROMPT_PHONEMES", "REFERENCE_SPECTRUM", "REFERENCE_MEL",
        ),
        ("MEL", "MEL_COUNTS"),
    ),
}  # fmt: skip
# Shapes of the inputs that are no row of numbers.
_TABLES = {
    "BERT_FEATURES": (1, BERT_DIM),
    "PROMPT_BERT_FEATURES": (1, BERT_DIM),
    "REFERENCE_SPECTRUM": (STYLE_BINS, 1),
    "REFERENCE_MEL": (MEL_CHANNELS, 1),
}


def placeholders(model: str) -> Tensors:
    """A value for each required input of a cancellable model, for a request that reads none."""
    return {
        name: np.zeros(_TABLES.get(name, (1,)), np.float32 if name in _TABLES else np.int32)
        for name in CANCELLABLE[model].inputs
    }
