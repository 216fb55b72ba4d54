"""The answer to one request to the semantic GPT, while its sentences are drawn."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.engine.gpt.aligner import Aligner, DrawnSentence
from gsv.engine.gpt.alignment import Alignment
from gsv.engine.gpt.guard import Cancellable, GuardedSequence, Outcome, Submit
from gsv.engine.gpt.sequence import SequenceRequest
from gsv.errors import Cancelled
from gsv.reply import Reply
from gsv.stages.messages import Details, SemanticResult
from gsv.stages.sentence_list import GuardSettings, SentenceList
from gsv.stages.sentence_report import GuardCounts, guarded, unguarded


class DrawnAnswer:
    """Submits the sentences as there is room, and collects them, or passes one's chunks on.

    So many sentences are with the engine at once as it has rows: a text of a thousand sentences
    takes no more of its line, and of memory, than one of thirty.

    Args:
        reply: to the request.
        sentences: to draw; one, of whose tokens the reply hears as they come, or all at once.
        guards: how to guard them, where the request wants that, and what is normal for them.
        aligner: tells when phonemes begin.
        counts: gets how every guarded sentence went.
    """

    def __init__(
        self,
        reply: Reply,
        sentences: SentenceList,
        guards: GuardSettings,
        aligner: Aligner,
        counts: GuardCounts,
    ) -> None:
        count = len(sentences)
        self._reply = reply
        self._sentences = sentences
        self._guards = guards
        self._aligner = aligner
        self._counts = counts
        self._streaming = sentences.request.in_chunks
        self._details = Details(sentences.request.details)
        self._chunks: list[list[NDArray[np.int32]]] = [[] for _ in range(count)]
        self._outcomes: list[Outcome | None] = [None] * count
        self._requests: dict[int, SequenceRequest] = {}  # of sentences that are to be aligned
        self._described: dict[int, dict[str, Any]] = {}  # what is told of those that are over
        self._given: SemanticResult | None = None  # the last tokens, until all are described
        self._handles: dict[int, Cancellable] = {}  # of the sentences that are with the engine
        self._next = 0  # sentence to be submitted
        self._open = count  # sentences that are not over
        self._failed = False
        self._cancelled = False
        self._lock = threading.Lock()

    def begin(self, submit: Submit, at_once: int) -> None:
        """Submit the first sentences.

        Args:
            submit: ``Engine.submit``.
            at_once: sentences to have with the engine.

        Raises:
            Whatever ``submit`` raises.
        """
        self._submit, self._at_once = submit, at_once
        try:
            self._submit_more()
        except BaseException:  # whatever it is, no sentence runs on
            self._failed = True
            self._cancel_handles()
            raise

    def cancel(self) -> None:
        """Give up; what is with the engine is answered by it."""
        self._cancelled = True
        self._cancel_handles()

    def _cancel_handles(self) -> None:
        for handle in list(self._handles.values()):
            handle.cancel()

    def _submit_more(self) -> None:
        while True:
            with self._lock:
                room = self._next - (len(self._chunks) - self._open) < self._at_once
                if self._failed or not room or self._next == len(self._chunks):
                    return
                index, self._next = self._next, self._next + 1
            if self._cancelled:
                raise Cancelled("cancelled by its caller")
            self._submit_one(index)

    def _submit_one(self, index: int) -> None:
        # The first one may find the line full; those after it belong to an accepted answer.
        request = self._sentences.sequence(index, accepted=index > 0)
        if self._details is Details.TIMES:
            self._requests[index] = request

        def on_tokens(tokens: NDArray[np.int32], done: bool) -> None:
            attempt = 0 if watched is None else watched.attempt
            self._take(index, tokens.astype(np.int32, copy=False), done, attempt)

        def on_outcome(outcome: Outcome) -> None:
            if self._details:
                self._outcomes[index] = outcome
            self._counts.add(outcome, phonemes=self._sentences.phonemes_by_language[index])

        watched: GuardedSequence | None = None
        if not self._sentences.request.guard:
            self._handles[index] = self._submit(request, on_tokens, self._fail)
        else:
            guard = self._guards.guard(self._sentences, index)
            watched = GuardedSequence(
                self._submit, request, guard, on_tokens, self._fail, on_outcome
            )
            self._handles[index] = watched
            watched.start()
        if self._cancelled:  # meanwhile
            self._handles[index].cancel()

    def _take(self, index: int, tokens: NDArray[np.int32], done: bool, attempt: int) -> None:
        with self._lock:
            self._chunks[index].append(tokens)
            self._open -= done
            finished = self._open == 0 and not self._failed
        if done and self._details:
            self._describe(index)
        if self._streaming:
            given = SemanticResult(tokens, np.array([len(tokens)], np.int32), int(done), attempt)
        elif finished:
            drawn = [np.concatenate(chunks) for chunks in self._chunks]
            counts = np.array([len(s) for s in drawn], np.int32)
            given = SemanticResult(np.concatenate(drawn), counts, 1, attempt)
        else:
            if done:
                self._follow(index)
            return
        if finished and self._details:
            with self._lock:
                self._given = given
            self._send_described()
        else:
            self._reply.send(given, final=finished)

    def _follow(self, index: int) -> None:
        """A sentence is over: the next one takes its place."""
        self._handles.pop(index, None)
        try:
            self._submit_more()
        except BaseException as error:  # whatever it is, the caller hears of it
            self._fail(error)

    def _describe(self, index: int) -> None:
        """Find out what is to be told of a sentence that is over."""
        phonemes = self._sentences.phonemes(index)
        tokens = np.concatenate([self._sentences.prefix, *self._chunks[index]])
        entry = self._drawn(index, phonemes, tokens)

        def on_aligned(found: Alignment) -> None:
            self._described[index] = entry | _aligned(found)
            self._send_described()

        if self._details is Details.TIMES:
            sentence = DrawnSentence(self._requests.pop(index), phonemes, tokens)
            self._aligner.align(
                sentence, on_aligned, self._fail, lambda: self._cancelled or self._failed
            )
        else:
            self._described[index] = entry

    def _send_described(self) -> None:
        """Send the last tokens, once they are there and every sentence has been described."""
        with self._lock:
            ready = len(self._described) == len(self._chunks) and not self._failed
            given, self._given = self._given, None if ready else self._given
        if ready and given is not None:
            drawn = json.dumps([self._described[index] for index in range(len(self._chunks))])
            self._reply.send(dataclasses.replace(given, drawn=drawn), final=True)

    def _drawn(self, index: int, phonemes: int, tokens: NDArray[np.int32]) -> dict[str, Any]:
        """How a sentence was drawn, for JSON."""
        outcome, limits = self._outcomes[index], self._guards.limits(self._sentences, index)
        if outcome is not None:
            return guarded(phonemes, limits, outcome)
        params = self._sentences.params
        return unguarded(phonemes, limits, tokens.tolist(), params.max_tokens, params.seed)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            self._cancel_handles()
            self._reply.fail(error)


def _aligned(found: Alignment) -> dict[str, Any]:
    """What an alignment tells, for JSON: the phonemes' borders, and how well it fits."""
    return {
        "borders": found.borders.round(3).tolist(),
        "passed_over": found.passed_over,
        "jump_back": found.jump_back,
        "confidence": round(found.confidence, 3),
    }
