"""One sentence on its way through the semantic GPT: what was asked, and the record of its run."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gsv.config import GPTConfig
from gsv.constants import MAX_TOKENS
from gsv.engine.turns import WHOLE_ANSWER, Ticket, Turn
from gsv.errors import GsvError, InvalidRequest

# Called on the engine's thread with the next tokens and whether they are the last ones.
OnTokens = Callable[[NDArray[np.int32], bool], None]
OnError = Callable[[BaseException], None]
IsBuffered = Callable[[], bool]

# Tokens that the first chunk of a stream needs (0.5 s and the look-ahead), about.
FIRST_AUDIO_TOKENS = 20
TOKENS_PER_PHONEME = 2.0  # 80 ms of speech, about; tells short sentences from long ones


@dataclasses.dataclass(frozen=True)
class SamplingParams:
    """How the tokens of a sentence are drawn; the defaults are upstream's."""

    seed: int  # names the noise, 0 to 2**63 - 1
    top_k: int = 15  # 1 to 1025; logits that tie with the k-th stay
    top_p: float = 1.0  # above 0, up to 1
    temperature: float = 1.0  # above 0, up to 2
    repetition_penalty: float = 1.35  # 1 to 2
    max_tokens: int = MAX_TOKENS  # a sentence that reaches it ends and keeps all of them

    def verify(self, config: GPTConfig) -> None:
        """Raise InvalidRequest for the first value out of range; NaN is out of every range."""
        ranges: list[tuple[str, float, bool, str]] = [
            ("SEED", self.seed, 0 <= self.seed < 2**63, "0 to 2**63 - 1"),
            (
                "TOP_K",
                self.top_k,
                1 <= self.top_k <= config.vocabulary,
                f"1 to {config.vocabulary}",
            ),
            ("TOP_P", self.top_p, 0 < self.top_p <= 1, "above 0, up to 1"),
            ("TEMPERATURE", self.temperature, 0 < self.temperature <= 2, "above 0, up to 2"),
            (
                "REPETITION_PENALTY",
                self.repetition_penalty,
                1 <= self.repetition_penalty <= 2,
                "1 to 2",
            ),
            (
                "MAX_TOKENS",
                self.max_tokens,
                1 <= self.max_tokens <= MAX_TOKENS,
                f"1 to {MAX_TOKENS}",
            ),
        ]
        for tensor, given, valid, allowed in ranges:
            if not valid:
                raise InvalidRequest.value(tensor, given, allowed)


@dataclasses.dataclass
class PlaceInLine:
    """Where a sentence stands in line; it keeps that when it is drawn again.

    Attributes:
        ticket: of its first drawing; None before that was submitted.
    """

    ticket: Ticket | None = None


@dataclasses.dataclass(frozen=True)
class SequenceRequest:
    """One sentence to be spoken.

    Attributes:
        phonemes: int32 [p + n], the prompt's phonemes and then the sentence's own.
        bert: float32 [p + n, 1024], zeros where a phoneme has no feature.
        prompt_tokens: int32 [t], the reference recording's semantic tokens.
        params: how to draw.
        sentence: the sentence's index in its request; with the seed it names the noise.
        chunk_tokens: deliver after each so many tokens; 0 delivers once, at the end.
        model: name of the checkpoint; "" is the engine's first one.
        turn: who waits for the sentence; decides when it is written, never what.
        is_buffered: whether the reader has tokens in hand for now. The engine rests while all
            readers have; must be quick, and ``Engine.wake`` is to be called when it turns false.
        prefix_tokens: int32 [k], tokens of this sentence that were drawn before; the run goes on
            after them as if it had drawn them: they count as steps, for the noise and for the
            limit, they are penalised as drawn ones are, and they are not delivered.
        place: shared by all drawings of a sentence that may be drawn several times; only the first
            of them stands in line as a newcomer.
        accepted: it belongs to an answer that has begun, and is not refused when the line is full.
    """

    phonemes: NDArray[np.int32]
    bert: NDArray[np.float32]
    prompt_tokens: NDArray[np.int32]
    params: SamplingParams
    sentence: int = 0
    chunk_tokens: int = 0
    model: str = ""
    turn: Turn = WHOLE_ANSWER
    is_buffered: IsBuffered = lambda: False
    prefix_tokens: NDArray[np.int32] = dataclasses.field(
        default_factory=lambda: np.zeros(0, np.int32)
    )
    place: PlaceInLine | None = None
    accepted: bool = False

    @property
    def spoken_tokens(self) -> NDArray[np.int32]:
        """All tokens that stand before the first one to be drawn, int32 [t + k]."""
        return np.concatenate([self.prompt_tokens, self.prefix_tokens])

    def verify(self, config: GPTConfig, max_length: int) -> None:
        """Raise InvalidRequest when the model can't read this; indices out of a table included."""
        self.params.verify(config)
        _verify_ids("PHONEMES", self.phonemes, config.phonemes)
        _verify_ids("PROMPT_TOKENS", self.prompt_tokens, config.eos)
        _verify_ids("PREFIX_TOKENS", self.prefix_tokens, config.eos)
        if len(self.prefix_tokens) >= self.params.max_tokens:
            raise InvalidRequest.value(
                "PREFIX_TOKENS",
                f"{len(self.prefix_tokens)} tokens",
                f"fewer than the {self.params.max_tokens} of a whole sentence",
            )
        if not len(self.phonemes):
            raise InvalidRequest("PHONEMES: got none; at least one is needed")
        expected = (len(self.phonemes), config.bert_dim)
        if self.bert.shape != expected or not np.issubdtype(self.bert.dtype, np.floating):
            given = f"{self.bert.dtype} {list(self.bert.shape)}"
            raise InvalidRequest.value("BERT_FEATURES", given, f"float32 {list(expected)}")
        if not (0 <= self.sentence < 2**32 and self.chunk_tokens >= 0):
            raise InvalidRequest(
                f"sentence {self.sentence}, chunk_tokens {self.chunk_tokens}: "
                "neither may be negative, and the sentence must stay below 2**32"
            )
        length = len(self.phonemes) + len(self.prompt_tokens)
        if length + self.params.max_tokens > max_length:
            raise InvalidRequest(
                f"PHONEMES: {len(self.phonemes)} phonemes, {len(self.prompt_tokens)} prompt tokens "
                f"and up to {self.params.max_tokens} new tokens exceed the {max_length} positions "
                "of one sentence; split the text into shorter sentences"
            )


def _verify_ids(tensor: str, ids: NDArray[Any], count: int) -> None:
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise InvalidRequest.value(tensor, f"{ids.dtype} {list(ids.shape)}", "int32 [n]")
    wrong = ids[(ids < 0) | (ids >= count)]
    if len(wrong):
        raise InvalidRequest.value(tensor, int(wrong[0]), f"0 to {count - 1}")


class Status(enum.Enum):
    """Where a sequence is; FINISHED to FAILED are final."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


class SamplerOutput(NamedTuple):
    """What one step gave a sequence."""

    token: int
    ended: bool  # the sequence is over and the token is dropped
    healthy: bool  # the model's logits were finite


class Sequence:
    """The record of one request's run; changed by the engine's thread alone, but for ``cancel``."""

    def __init__(self, request: SequenceRequest, on_tokens: OnTokens, on_error: OnError) -> None:
        self.request = request
        self.turn = request.turn
        self.has_listener = request.turn.has_listener
        self.status = Status.WAITING
        # Of the whole sentence, so with those that it began from.
        self.tokens: list[int] = request.prefix_tokens.tolist()
        self.step = len(self.tokens)  # draws that the device has been asked for, or an earlier run
        self.answered = False  # the caller has heard of the end
        self.error: BaseException | None = None
        self.ticket: Ticket | None = None  # its place in line
        self.submitted = time.monotonic()
        self._delivered = len(self.tokens)
        self._on_tokens = on_tokens
        self._on_error = on_error
        self._cancelled = False

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def remaining(self) -> float:
        """Tokens that are still to be drawn, about."""
        expected = TOKENS_PER_PHONEME * len(self.request.phonemes)
        return max(1.0, expected - len(self.tokens))

    @property
    def awaits_first_audio(self) -> bool:
        """Whether a listener hears nothing for want of its next tokens."""
        return (
            self.turn.first_audio
            and len(self.tokens) < FIRST_AUDIO_TOKENS
            and not self._cancelled
            and not self.request.is_buffered()
        )

    @property
    def text_length(self) -> int:
        """Positions of the text block."""
        return len(self.request.phonemes)

    @property
    def prompt_length(self) -> int:
        """Positions that prefill writes: text block, prompt tokens, tokens to begin from."""
        request = self.request
        return len(request.phonemes) + len(request.prompt_tokens) + len(request.prefix_tokens)

    @property
    def length(self) -> int:
        """Positions in the cache once the token drawn last has been read."""
        return len(self.request.phonemes) + len(self.request.prompt_tokens) + self.step

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Ask to stop; from any thread."""
        self._cancelled = True

    def take(self, drawn: SamplerOutput) -> None:
        """Record a step; EOS, the last token that is allowed and broken logits end the sequence.

        A step that was queued before the sequence ended says nothing any more.
        """
        if self.status not in (Status.WAITING, Status.RUNNING):
            return
        if not drawn.healthy:
            error = GsvError(f"the model's logits were not finite at step {len(self.tokens)}")
            self.end(Status.FAILED, error)
        elif drawn.ended:
            self.end(Status.FINISHED)
        else:
            self.tokens.append(drawn.token)
            if len(self.tokens) >= self.params.max_tokens:
                self.end(Status.FINISHED)

    def end(self, status: Status, error: BaseException | None = None) -> None:
        """End the run; a sequence that is over already stays as it ended."""
        if self.status in (Status.WAITING, Status.RUNNING):
            self.status = status
            self.error = error

    def deliver(self) -> None:
        """Hand on what is due: a full chunk, the rest at the end, or the error.

        Whoever has cancelled hears of tokens no more, only that it was cancelled. Raises whatever
        the callback raises, after telling it to ``on_error`` once.
        """
        if self.error is not None:
            self.answered = True
            self._on_error(self.error)
            return
        last = self.status is Status.FINISHED
        due = len(self.tokens) - self._delivered
        chunk = self.request.chunk_tokens
        if not last and (self._cancelled or not chunk or due < chunk):
            return
        tokens = np.asarray(self.tokens[self._delivered :], dtype=np.int32)
        self._delivered = len(self.tokens)
        self.answered = last
        try:
            self._on_tokens(tokens, last)
        except Exception as error:  # of the consumer: it is told, then the engine
            self.answered = True
            self._on_error(error)
            raise
