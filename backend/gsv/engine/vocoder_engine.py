"""The vocoder engine: one thread that vocodes windows of all requests in turns.

A request of a minute is some fifteen windows, so a listener's chunk that comes meanwhile waits for
one of them at most. Windows of equal size share a batch on a GPU. A request that is cancelled ends
between two windows. Every request is answered exactly once, also when the engine is stopped or
breaks.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv.device import end_if_fatal, upload
from gsv.engine.core import EngineThread, Handle, OnWait, ignore_wait
from gsv.engine.give_way import GiveWay
from gsv.engine.step_queue import StepQueue
from gsv.engine.transfers import Download
from gsv.engine.turns import WHOLE_ANSWER, Ticket, Turn, Turns
from gsv.engine.vocoder_windows import GraphedVocoder, power_of_two
from gsv.errors import Cancelled, GsvError, Overloaded
from gsv.models.windows import Window, windows

__all__ = ["Handle", "VocoderEngine", "VocoderRequest", "VocoderStats", "WindowLimits"]

logger = logging.getLogger(__name__)

Wave = NDArray[np.float32]
# Called on the engine's thread with the waves, float32 [samples] each, or with an error.
OnDone = Callable[[list[Wave]], None]
OnError = Callable[[BaseException], None]


@dataclasses.dataclass(frozen=True, eq=False)
class VocoderRequest:
    """Mels to vocode.

    Attributes:
        mels: float32 [mel, T] each, log-mel.
        turn: who waits for the waves.
    """

    mels: Sequence[NDArray[np.float32]]
    turn: Turn = WHOLE_ANSWER


@dataclasses.dataclass(frozen=True)
class WindowLimits:
    """How mels are cut and put together.

    Attributes:
        frames: of the largest window; bounds the memory, and what a listener waits for others.
        multiple: windows are a multiple of so many frames. Above 1, mels of different lengths
            share batches, at the price of some frames computed twice.
        batch_frames: frames of all windows of a batch; 0 is one window a batch, best on a CPU.
    """

    frames: int
    multiple: int = 1
    batch_frames: int = 0

    def windows_in_batch(self, size: int) -> int:
        """Most windows of ``size`` frames in a batch."""
        return max(1, self.batch_frames // size)


@dataclasses.dataclass
class VocoderStats:
    """Counters since the start, and the present load."""

    running: int = 0  # requests of which some windows are done
    waiting: int = 0
    steps: int = 0  # batches of windows
    rows: int = 0  # windows of all batches
    finished: int = 0
    cancelled: int = 0
    failed: int = 0


class VocoderTask:
    """The record of one request; changed by the engine's thread alone, but for ``cancel``."""

    def __init__(
        self, request: VocoderRequest, cover: list[list[Window]], on_done: OnDone, on_error: OnError
    ) -> None:
        self.turn = request.turn
        self.ticket: Ticket | None = None  # its place in line
        self.cancelled = False
        self.windows = deque(
            (sentence, window) for sentence, found in enumerate(cover) for window in found
        )
        self.remaining = float(max(1, sum(window.size for _, window in self.windows)))
        self.begun = False
        self.submitted = time.monotonic()
        self.mels: list[Tensor] = []  # on the device, once it has begun
        self.waves: list[Tensor] = []
        self._request = request
        self._on_done: OnDone | None = on_done
        self._on_error = on_error

    def cancel(self) -> None:
        """Ask to stop; from any thread."""
        self.cancelled = True

    def begin(self, device: torch.device, scale: int) -> None:
        """Bring the mels to the device, and make room for the waves."""
        self.begun = True
        self.mels = [upload(np.ascontiguousarray(mel), device) for mel in self._request.mels]
        self.waves = [
            torch.empty(mel.shape[-1] * scale, dtype=torch.float32, device=device)
            for mel in self.mels
        ]

    def keep(self, sentence: int, window: Window, made: Tensor, scale: int) -> None:
        """Write what a window is kept for; ``made`` is float32 [window.size * scale]."""
        kept = made[(window.first - window.start) * scale : (window.last - window.start) * scale]
        self.waves[sentence][window.first * scale : window.last * scale] = kept

    def done(self, waves: list[Wave]) -> None:
        """Answer with the waves."""
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done(waves)

    def fail(self, error: BaseException) -> None:
        """Answer with an error; without effect on a request that is answered."""
        if self._on_done is not None:
            self._on_done = None
            self._on_error(error)


Piece = tuple[VocoderTask, int, Window]  # a window of a task's sentence
Answer = tuple[VocoderTask, list[Download]]


class VocoderEngine:
    """Vocodes windows in turns.

    Args:
        vocoder: in evaluation mode, on its device, in its final precision.
        limits: of windows and batches.
        waiting_limit: requests that may be there at once; one more gets Overloaded.
        on_wait: gets what each request waited for its first window.
        give_way: whether whole answers are to rest.
    """

    def __init__(
        self,
        vocoder: GraphedVocoder,
        limits: WindowLimits,
        waiting_limit: int = 1024,
        on_wait: OnWait = ignore_wait,
        give_way: GiveWay | None = None,
    ) -> None:
        self._on_wait = on_wait
        self._vocoder = vocoder
        self._limits = limits
        self._waiting_limit = waiting_limit
        self._device = vocoder.device
        self._scale = vocoder.vocoder.samples_per_frame
        self._turns: Turns[VocoderTask] = Turns()
        self._tasks: list[VocoderTask] = []  # those with windows left
        self._steps: StepQueue[Answer] = StepQueue(self._device)
        self._stats = VocoderStats()
        self._thread = EngineThread("vocoder", self._device, self, give_way)
        self._changed = self._thread.changed  # guards the tasks and their turns

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its present batch; whoever still waits gets Cancelled."""
        self._thread.stop()

    def submit(self, request: VocoderRequest, on_done: OnDone, on_error: OnError) -> Handle:
        """Put a request in line; the callbacks run on the engine's thread and must be quick.

        Raises:
            Overloaded: too many requests are there.
            GsvError: the engine has been stopped or is broken.
        """
        context, limits = self._vocoder.vocoder.context_frames, self._limits
        cover = [
            windows(mel.shape[-1], context, limits.frames, limits.multiple) for mel in request.mels
        ]
        task = VocoderTask(request, cover, on_done, on_error)
        self._thread.submit(lambda: self._add(task))
        return Handle(task.cancel, self._thread.wake)

    def stats(self) -> VocoderStats:
        """A copy of the counters."""
        with self._changed:
            begun = sum(task.begun for task in self._tasks)
            waiting = len(self._tasks) - begun
            return dataclasses.replace(self._stats, running=begun, waiting=waiting)

    def has_work(self) -> bool:
        """Whether a window or the end of a batch is waited for; called with the lock held."""
        return bool(self._tasks) or len(self._steps) > 0

    def can_rest(self) -> bool:
        """Whether no listener waits for any window; called with the lock held."""
        return not any(task.cancelled or self._turns.urgent(task) for task in self._tasks)

    def take_turn(self) -> None:
        """Let the cancelled go, vocode one batch, answer those that are done."""
        while len(self._steps) > self._steps.most:
            self._land()
        with self._changed:
            dropped = [task for task in self._tasks if task.cancelled]
            for task in dropped:
                self._leave(task)
            batch = self._select()
        for task in dropped:
            self._stats.cancelled += 1
            self._fail(task, Cancelled("cancelled by its caller"))
        if batch:
            self._step(batch)
        if self._steps and (not batch or not self._steps.most):
            self._land()

    def abandon(self, error: GsvError) -> None:
        """Answer everybody who is left with ``error``; called when nothing runs any more."""
        with self._changed:
            left = list(self._tasks)
            for task in left:
                self._leave(task)
        for task in [*(task for task, _ in self._steps.drain()), *left]:
            self._fail(task, error)

    def _add(self, task: VocoderTask) -> None:
        if len(self._tasks) >= self._waiting_limit:
            raise Overloaded(
                f"{len(self._tasks)} requests wait for the vocoder, which is the limit "
                f"(waiting_limit {self._waiting_limit}); try again later"
            )
        self._turns.enter(task)
        self._tasks.append(task)

    def _leave(self, task: VocoderTask) -> None:
        self._tasks.remove(task)
        self._turns.leave(task)

    def _select(self) -> list[Piece]:
        """The next batch: the leader's next window and others of its size, in turns' order.

        A request without frames gives an empty piece of no window: it has only to be answered.
        """
        if not self._tasks:
            return []
        leader = self._turns.pick(self._tasks)
        if not leader.windows:
            return [(leader, 0, Window(0, 0, 0, 0))]
        size = leader.windows[0][1].size
        most = self._limits.windows_in_batch(size)
        if most == 1:
            return [(leader, *leader.windows[0])]
        line = [leader, *sorted(self._tasks, key=self._turns.place)]
        found: dict[tuple[int, int], Piece] = {}
        for task in line:
            for index, (sentence, window) in enumerate(task.windows):
                if len(found) < most and window.size == size:
                    found[id(task), index] = (task, sentence, window)
        return list(found.values())[: power_of_two(len(found))]

    def _step(self, batch: list[Piece]) -> None:
        """Queue one batch of windows; on a CPU it is over afterwards."""
        begin = self._steps.mark()
        tasks = list(dict.fromkeys(task for task, _, _ in batch))
        size = batch[0][2].size
        try:
            self._vocode(batch, tasks, size)
            answers = self._advance(batch, tasks)
        except Exception as error:  # whatever it is, this batch alone fails
            self._end(tasks, error)
            return
        self._stats.steps += 1
        self._stats.rows += len(batch)
        self._steps.add(begin, size * len(batch), answers)

    def _vocode(self, batch: list[Piece], tasks: list[VocoderTask], size: int) -> None:
        for task in tasks:
            if not task.begun:
                self._on_wait(time.monotonic() - task.submitted)
                task.begin(self._device, self._scale)
        if not size:
            return
        mel = torch.stack(
            [task.mels[sentence][:, w.start : w.start + size] for task, sentence, w in batch]
        )
        made = self._vocoder(mel)[:, 0]
        for (task, sentence, window), wave in zip(batch, made, strict=True):
            task.keep(sentence, window, wave, self._scale)

    def _advance(self, batch: list[Piece], tasks: list[VocoderTask]) -> list[Answer]:
        """Take the windows from their requests; those that have none left are on their way."""
        with self._changed:
            for task, sentence, window in batch:
                if window.size:
                    task.windows.remove((sentence, window))
                    task.remaining = max(1.0, task.remaining - window.size)
            self._turns.advance(sum(window.size for _, _, window in batch))
            done = [task for task in tasks if not task.windows]
            # First, for memory may run out: who has left would not be answered.
            answers = [(task, [Download(wave) for wave in task.waves]) for task in done]
            for task in done:
                self._leave(task)
        return answers

    def _land(self) -> None:
        """Wait for the oldest batch's end, and answer the requests whose last one it was."""
        step = self._steps.land()
        with self._changed:
            self._turns.clock.measured(step.units, step.seconds)
        for task, downloads in step.results:
            self._stats.finished += 1
            try:
                task.done([download.wait().numpy() for download in downloads])
            except Exception:  # the caller's fault must not end the engine
                logger.exception("a caller's callback failed")

    def _end(self, tasks: list[VocoderTask], error: Exception) -> None:
        """A batch that failed is taken apart, so that only the request at fault fails."""
        end_if_fatal(error)
        if len(tasks) > 1:
            for task in tasks:
                self._step([(task, *task.windows[0])])
            return
        with self._changed:
            self._leave(tasks[0])
        self._stats.failed += 1
        logger.error("vocoding failed", exc_info=error)
        wrapped = GsvError(f"the vocoder failed: {error}")
        wrapped.__cause__ = error
        self._fail(tasks[0], wrapped)

    def _fail(self, task: VocoderTask, error: BaseException) -> None:
        try:
            task.fail(error)
        except Exception:  # the caller's fault must not end the engine
            logger.exception("a caller's error callback failed")
