"""The semantic GPT's work for one stream: sentence by sentence, as far ahead as chunks need."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gsv.constants import MAX_TOKENS
from gsv.engine.chunk_plan import ChunkPlan
from gsv.errors import Cancelled, GsvError, SequenceLost, Unreachable
from gsv.stages.calls import CancelScope, Recovery, new_sequence
from gsv.stages.messages import SemanticRequest
from gsv.stages.synthesis import (
    Listener,
    continue_sentence,
    end_sequence,
    start_sentence,
)

logger = logging.getLogger(__name__)

# Fewest and most tokens to ask for at once.
SMALLEST_CHUNK = 6
LARGEST_CHUNK = 64
# Frames whose tokens are written ahead of a chunk while it is made. They suffice for the next
# chunk, which is at most twice as long. A chunk's condition sees all tokens that are written; with
# so many, the joints of short chunks are no rougher than speech itself.
NEXT_CHUNK = 2
AHEAD_FRAMES = 180
SENTENCES_AHEAD = 2
# For how long nothing is written beyond a first chunk that is being made. Where it takes longer, as
# on a processor or in a crowd, the next chunk needs the time.
HOLD_SECONDS = 0.15

Tokens = NDArray[np.int32]


class TokenFeed:
    """Runs the engine ahead of the listener, sentence by sentence, on a thread of its own.

    As far as the next chunk needs, not further: what is written too early takes the machine from
    the chunk that is waited for. So while the first one is made, nothing is written beyond it for a
    moment. Each sentence is a sequence, whose calls all meet one instance of the model. One that is
    lost with its instance goes on elsewhere from its tokens so far.

    Args:
        call: the other models.
        sentences: how many there are.
        request_of: makes the request of one of them, when its turn comes.
        plan: how sentences are cut.
        listener: how the listener stands.
    """

    def __init__(
        self,
        call: CancelScope,
        sentences: int,
        request_of: Callable[[int], SemanticRequest],
        plan: ChunkPlan,
        listener: Callable[[], Listener],
    ) -> None:
        self._call = call
        self._sentences = sentences
        self._request_of = request_of
        self._plan = plan
        self._listener = listener
        # Tokens to have of the sentence that the consumer is at: at once, and in the end.
        self._urgent, self._target = _first_targets(plan)
        self._tokens: list[list[Tokens]] = [[] for _ in range(sentences)]
        self._ended = [False] * sentences
        self._attempts = [0] * sentences  # of the guard, that drew the last tokens
        self._drawn = [""] * sentences
        self._heard = 0  # the sentence that the consumer is at
        self._writes_ahead = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="token-feed", daemon=True)

    def start(self) -> None:
        """Begin with the first sentence."""
        self._thread.start()

    def write_ahead(self) -> None:
        """Write what the next chunks need, now that the first one's mel is made."""
        with self._changed:
            self._writes_ahead = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the thread; after a cancelled scope it ends at once."""
        with self._changed:
            self._heard = self._sentences
            self._changed.notify_all()
        self._thread.join()

    def wait(self, sentence: int, made: int, wanted: int, speed: float) -> tuple[Tokens, bool]:
        """The tokens so far, once they suffice for ``wanted`` more frames or the sentence is over.

        Returns:
            Tokens [n], and whether the chunk is the sentence's last: all tokens are written and
            what is left is hardly more than one chunk.
        """
        plan = self._plan
        needed = plan.tokens_needed(made + wanted, speed)
        with self._changed:
            self._heard = max(self._heard, sentence)
            if not plan.whole_sentences:
                self._urgent = needed
                self._target = plan.tokens_needed(made + wanted + _ahead(wanted), speed)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._error is not None
                    or self._ended[sentence]
                    or (not plan.whole_sentences and self._count(sentence) >= needed)
                )
            )
            if self._error is not None:
                raise self._error
            tokens = np.concatenate(self._tokens[sentence])
            rest = plan.tokens_needed(made + wanted + wanted // 2, speed)
            last = self._ended[sentence] and (plan.whole_sentences or len(tokens) <= rest)
            return tokens, last

    def drawn(self, sentence: int) -> str:
        """What ``DRAWN`` says of a sentence that is over; "" where nobody asked."""
        return self._drawn[sentence]

    def _count(self, sentence: int) -> int:
        return sum(len(chunk) for chunk in self._tokens[sentence])

    def _run(self) -> None:
        try:
            for sentence in range(self._sentences):
                self._wait_for_turn(sentence)
                self._write(sentence, self._request_of(sentence))
        except BaseException as error:  # whatever it is, the reader gets it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait_for_turn(self, sentence: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: sentence <= self._heard + SENTENCES_AHEAD)

    def _wait_for_need(self, sentence: int) -> int:
        """Wait until the sentence has fewer tokens than it should, and say for how many to ask."""

        def needed() -> bool:
            return self._count(sentence) < self._targets(sentence)[1]

        with self._changed:
            if not self._writes_ahead and not self._changed.wait_for(needed, HOLD_SECONDS):
                self._writes_ahead = True
            self._changed.wait_for(needed)
            urgent, target = self._targets(sentence)
            count = self._count(sentence)
            if not count:
                # Alike for every sentence and listener: until so many tokens have left, the guard
                # begins a sentence anew, and what it decides must not depend on who listens.
                return _chunk(_first_targets(self._plan)[0])
            return _chunk((urgent if count < urgent else target) - count)

    def _targets(self, sentence: int) -> tuple[float, float]:
        """Tokens to have of a sentence: at once, and in the end."""
        if sentence == self._heard:
            return self._urgent, self._target if self._writes_ahead else self._urgent
        if sentence < self._heard:
            return math.inf, math.inf
        return _first_targets(self._plan) if self._writes_ahead else (0.0, 0.0)

    def _write(self, sentence: int, request: SemanticRequest) -> None:
        """Fetch a sentence to its end, by as many sequences as it takes."""
        recovery = Recovery(self._call.cancelled)
        while not self._ended[sentence]:
            count = self._count(sentence)
            try:
                self._write_sequence(sentence, request)
            except (SequenceLost, Unreachable) as error:
                if self._count(sentence) > count:
                    recovery.progress()
                recovery.wait(error)

    def _write_sequence(self, sentence: int, request: SemanticRequest) -> None:
        """Fetch what is left of a sentence through one sequence."""
        sequence, started = new_sequence(), False
        drawn = np.concatenate([np.zeros(0, np.int32), *self._tokens[sentence]])
        lost = False
        try:
            while not self._ended[sentence]:
                wanted = self._wait_for_need(sentence)
                if started:
                    ask = continue_sentence(request, sequence, wanted)
                else:
                    listener, attempt = self._listener_of(sentence), self._attempts[sentence]
                    ask = start_sentence(request, sequence, wanted, listener, drawn, attempt)
                started = True  # for Triton's batcher also where the engine refuses
                answer = self._call(ask)
                with self._changed:
                    self._tokens[sentence].append(answer.tokens)
                    self._attempts[sentence] = answer.attempt
                    self._drawn[sentence] = answer.drawn
                    self._ended[sentence] = bool(answer.is_last)
                    self._changed.notify_all()
        except (SequenceLost, Unreachable):
            lost = True  # nobody is there to be told of the end
            raise
        finally:
            if started and not lost:
                self._end(sequence)

    def _listener_of(self, sentence: int) -> Listener:
        """How the listener stands to a sentence: the first audio is not in one that comes later."""
        listener = self._listener()
        ahead = sentence > self._heard
        return dataclasses.replace(listener, waits=False) if ahead else listener

    def _end(self, sequence: int) -> None:
        """Free the sequence's place in Triton's batcher; the engine is done with it or is told."""
        try:
            self._call.last(end_sequence(sequence))
        except Cancelled:
            pass  # the engine has seen that nobody waits, and the place is free
        except GsvError as error:
            # The place is freed when the sequence has been idle for long enough.
            logger.info("sequence %d was not ended: %s", sequence, error)


def _chunk(missing: float) -> int:
    """Tokens to ask for at once where so many are missing."""
    if math.isinf(missing):
        return MAX_TOKENS
    return int(min(max(missing, SMALLEST_CHUNK), LARGEST_CHUNK))


def _first_targets(plan: ChunkPlan) -> tuple[float, float]:
    """Tokens to have of a sentence before its first chunk is asked for: at once, and in the end."""
    if plan.whole_sentences:
        return math.inf, math.inf
    first = plan.tokens_needed(plan.first, 1.0)
    return first, plan.tokens_needed(plan.first + _ahead(plan.first), 1.0)


def _ahead(frames: int) -> int:
    """Frames to write beyond a chunk of ``frames``."""
    return max(NEXT_CHUNK * frames, AHEAD_FRAMES)
