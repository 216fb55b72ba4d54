"""The answer to one request for mel, while its sentences are made."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv import audio
from gsv.engine.core import Handle
from gsv.engine.flow.planner import Reference, sentence_requests
from gsv.engine.flow.request import FlowRequest
from gsv.engine.turns import Turn
from gsv.errors import Cancelled
from gsv.options import resolve_seed
from gsv.reply import Reply
from gsv.stages.arrays import split_by_counts
from gsv.stages.conditions import MOST_SCORES, Waiting
from gsv.stages.messages import MelRequest, MelResult
from gsv.stages.sovits_voices import SoVITSVoice

# Sentences whose conditions are encoded together: a listener's chunk waits for so many at most.
WINDOW_SENTENCES = 8

Ids = NDArray[np.int32]
Plan = Generator[FlowRequest, Tensor, Tensor]
Submit = Callable[[FlowRequest, Callable[[Tensor], None], Callable[[BaseException], None]], Handle]


@dataclasses.dataclass(frozen=True, eq=False)
class MelPart:
    """What the flow is given of one sentence: what it hears before, and the condition [C, n]."""

    heard: Reference
    condition: Tensor


class MelAnswer:
    """Has sentences encoded and put into the running batch as there is room, and collects them.

    So many are encoded or in the batch at once as it has slots: a text of a thousand sentences
    takes no more of the line, and of memory, than one of thirty.

    Args:
        request: what is asked for.
        key: names the weights.
        speaker: has them.
        reply: to the request.
        at_once: sentences that may be under way.
    """

    def __init__(
        self, request: MelRequest, key: str, speaker: SoVITSVoice, reply: Reply, at_once: int
    ) -> None:
        self.request, self.key, self.speaker = request, key, speaker
        self.turn = Turn.of(request)
        self.tokens = split_by_counts(request.tokens, request.token_counts)
        self.phonemes = split_by_counts(request.phonemes, request.phoneme_counts)
        self.cancelled = False
        self._reply = reply
        self._at_once = at_once
        self._window = min(WINDOW_SENTENCES, at_once)
        self._seed = resolve_seed(request.seed)
        count = len(self.tokens)
        self._mels: list[Tensor | None] = [None] * count
        self._open = count  # sentences that are not over
        self._next = 0  # sentence to be encoded
        self._encoding = False
        self._ended = False
        # Kept until the flow has read them: their memory belongs to another stream, on a GPU.
        self._parts: dict[int, MelPart] = {}
        self._handles: dict[int, Handle] = {}
        self._lock = threading.Lock()

    def begin(self, encode: Callable[[MelWindow], None], submit: Submit) -> None:
        """Have the first sentences encoded.

        Args:
            encode: puts a window in line; :meth:`start` is called with what comes out, or
                :meth:`fail`.
            submit: ``FlowEngine.submit``.

        Raises:
            Whatever ``encode`` raises.
        """
        self._encode, self._submit = encode, submit
        self._encode_more()

    def cancel(self) -> None:
        """Give up; answered by the engine, or when the conditions' turn comes."""
        self.cancelled = True
        self._cancel_handles()

    def start(self, window: MelWindow, parts: Sequence[MelPart]) -> None:
        """Put the sentences of a window, whose conditions are there, into the running batch."""
        with self._lock:
            self._encoding = False
        for index, part in zip(window.indices, parts, strict=True):
            self._parts[index] = part
            plan = sentence_requests(
                part.heard,
                part.condition,
                self.request.sample_steps,
                self._seed,
                sentence=self.request.first_sentence + index,
                first_frame=self.request.first_frame,
                turn=self.turn,
            )
            self._advance(index, plan, None)
        self._follow()
        if self.cancelled:  # meanwhile
            self._cancel_handles()

    def fail(self, error: BaseException) -> None:
        """End with an error; without effect on an answer that has ended."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self._cancel_handles()
        self._parts.clear()
        self._reply.fail(error)

    def _encode_more(self) -> None:
        with self._lock:
            under_way = self._next - (len(self._mels) - self._open)
            room = self._at_once - under_way
            left = len(self._mels) - self._next
            # By windows, since a batch costs less than its sentences one by one.
            if self._encoding or self._ended or not left or room < min(left, self._window):
                return
            window = MelWindow(self, self._next, self._window)
            self._encoding, self._next = True, window.indices.stop
        self._encode(window)

    def _follow(self) -> None:
        try:
            self._encode_more()
        except Exception as error:  # whatever it is, its caller gets it
            self.fail(error)

    def _cancel_handles(self) -> None:
        for handle in list(self._handles.values()):
            handle.cancel()

    def _advance(self, index: int, plan: Plan, mel: Tensor | None) -> None:
        """Give a chunk to the plan and submit the next one, or keep the finished sentence."""
        if self._ended:
            return
        try:
            request = self.speaker.request(next(plan) if mel is None else plan.send(mel))
        except StopIteration as finished:
            self._finish(index, finished.value)
            return
        except Exception as error:  # no memory for the next chunk, perhaps: its caller gets it
            self.fail(error)
            return
        begun = index > 0 or mel is not None
        try:
            self._handles[index] = self._submit(
                dataclasses.replace(request, accepted=begun),
                lambda chunk: self._advance(index, plan, chunk),
                self.fail,
            )
        except Exception as error:  # whatever it is, its caller gets it
            self.fail(error)

    def _finish(self, index: int, mel: Tensor) -> None:
        self._handles.pop(index, None)
        self._parts.pop(index, None)
        with self._lock:
            self._mels[index] = mel
            self._open -= 1
            going_on = bool(self._open)
            if not going_on and self._ended:
                return
            self._ended = self._ended or not going_on
        if going_on:
            if self.cancelled:
                self.fail(Cancelled("cancelled by its caller"))
            self._follow()
            return
        try:
            result = self._whole()
        except Exception as error:  # whatever it is, its caller gets it
            self._reply.fail(error)
            return
        self._reply.send(result, final=True)

    def _whole(self) -> MelResult:
        mels = [m for m in self._mels if m is not None]
        whole = audio.denormalize_mel(torch.cat(mels, dim=-1).float())
        counts = np.array([m.shape[-1] for m in mels], np.int32)
        return MelResult(whole.contiguous().numpy(), counts)


class MelWindow(Waiting):
    """Neighbouring sentences of one answer, whose conditions are encoded together.

    Args:
        answer: that they belong to.
        first: index of the first one.
        most: sentences; fewer where their padded batch would be too large.
    """

    def __init__(self, answer: MelAnswer, first: int, most: int) -> None:
        longest, rows = 0, 0
        for tokens in answer.tokens[first : first + most]:
            longer = max(longest, len(tokens))
            if rows and (rows + 1) * longer * longer > MOST_SCORES:
                break
            longest, rows = longer, rows + 1
        super().__init__(
            group=answer.speaker.model, rows=rows, longest=longest, urgent=answer.turn.has_listener
        )
        self.answer = answer
        self.indices = range(first, first + rows)

    def sentences(self) -> Iterator[tuple[Ids, Ids]]:
        """Tokens and phonemes of each."""
        return ((self.answer.tokens[i], self.answer.phonemes[i]) for i in self.indices)
