"""Rows for the condition encoder: how requests that wait at the same time share one call of it.

On a GPU an encoding is some four hundred small kernels, which take about as long to start for one
row as for thirty. So a thread takes all that wait, first those with a listener, and encodes them as
one padded batch. On a CPU, whose work grows with the rows, the thread encodes one after the other.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv.config import SoVITSConfig
from gsv.device import end_if_served, prepare, upload
from gsv.engine.cuda_graphs import CapturedCalls
from gsv.errors import Cancelled, GsvError
from gsv.models.sovits import SoVITS

logger = logging.getLogger(__name__)

MOST_ROWS = 32
# Rows times squared tokens of a batch: its attention scores are 32 bytes for each of them.
MOST_SCORES = 8 << 20
ROUND_TO = 32  # tokens and phonemes on a GPU, where every new shape costs some milliseconds once

Ids = NDArray[np.int32]


@dataclasses.dataclass(frozen=True, eq=False)
class Sentence:
    """One row: its tokens, phonemes, timbre [1, gin, 1] and speed."""

    tokens: Ids  # [n]
    phonemes: Ids  # [p]
    timbre: Tensor
    speed: float = 1.0


class GraphedConditions:
    """One model's condition encoder as CUDA graphs of a few padded shapes.

    An encoding of some sentences takes a GPU a quarter of the time that starting its six hundred
    kernels takes.

    Args:
        model: on its device.
        device: where it is; elsewhere than on a GPU nothing is captured.
    """

    def __init__(self, model: SoVITS, device: str) -> None:
        self.model = model
        self._device = torch.device(device)
        self._calls = CapturedCalls(self._device)
        self._inputs: dict[Shape, _GraphInputs] = {}
        self._made: dict[Shape, Tensor] = {}

    def __len__(self) -> int:
        """Graphs captured."""
        return len(self._calls)

    @torch.inference_mode()
    def capture_all(self) -> None:
        """Capture every shape, the largest first: the others then fit into its memory."""
        for shape in sorted(GRAPH_SHAPES, key=math.prod, reverse=True):
            self._inputs[shape] = _GraphInputs.of(shape, self.model.config, self._device)
            self._calls.capture(shape, partial(self._run, shape))

    @torch.inference_mode()
    def __call__(self, sentences: Sequence[Sentence]) -> list[Tensor] | None:
        """The condition [channels, frames] of each sentence; None where no graph fits."""
        rows = len(sentences)
        tokens, phonemes = (
            max(len(part) for part in parts)
            for parts in zip(*((s.tokens, s.phonemes) for s in sentences), strict=True)
        )
        fitting = [
            shape
            for shape in self._inputs
            if shape in self._calls
            and shape.rows >= rows
            and shape.tokens >= tokens
            and shape.phonemes >= phonemes
        ]
        if not fitting or any(s.speed != 1 for s in sentences):
            return None
        shape = min(fitting, key=math.prod)
        self._inputs[shape].fill(sentences)
        self._calls(shape, partial(self._run, shape))
        made = self._made[shape]
        # Copies: the next batch overwrites what the graph has made.
        return [made[row, :, : 4 * len(s.tokens)].clone() for row, s in enumerate(sentences)]

    def _run(self, shape: Shape) -> None:
        given = self._inputs[shape]
        self._made[shape] = self.model.condition_by_masks(
            given.tokens, given.content_mask, given.phonemes, given.phoneme_mask, given.timbre
        )


class Shape(NamedTuple):
    """Of a captured batch."""

    rows: int
    tokens: int
    phonemes: int


# First chunks have some 20 to 60 tokens, whole sentences up to some 250; 40 phonemes are usual.
GRAPH_SHAPES = tuple(
    Shape(rows, tokens, phonemes)
    for rows in (1, 4, 8, 16, 32)
    for tokens in (32, 64, 128, 256)
    for phonemes in (64, 128)
    if rows * tokens <= 2048
)


@dataclasses.dataclass(frozen=True, eq=False)
class _GraphInputs:
    """What a graph reads; surplus rows and places hold anything."""

    tokens: Tensor  # int64 [B, N]
    content_mask: Tensor  # bool [B, 2 N]
    phonemes: Tensor  # int64 [B, P]
    phoneme_mask: Tensor  # bool [B, P]
    timbre: Tensor  # [B, gin, 1]

    @classmethod
    def of(cls, shape: Shape, config: SoVITSConfig, device: torch.device) -> _GraphInputs:
        """Room for a shape."""
        rows, tokens, phonemes = shape
        return cls(
            tokens=torch.zeros(rows, tokens, dtype=torch.int64, device=device),
            content_mask=torch.ones(rows, 2 * tokens, dtype=torch.bool, device=device),
            phonemes=torch.zeros(rows, phonemes, dtype=torch.int64, device=device),
            phoneme_mask=torch.ones(rows, phonemes, dtype=torch.bool, device=device),
            timbre=torch.zeros(rows, config.gin_channels, 1, device=device),
        )

    def fill(self, sentences: Sequence[Sentence]) -> None:
        """Write sentences into the first rows."""
        count, device = len(sentences), self.tokens.device
        for ids, mask, parts in (
            (self.tokens, self.content_mask, [s.tokens for s in sentences]),
            (self.phonemes, self.phoneme_mask, [s.phonemes for s in sentences]),
        ):
            table = np.zeros((count, ids.shape[1]), np.int64)
            lengths = np.array([len(part) for part in parts])
            for row, part in zip(table, parts, strict=True):
                row[: len(part)] = part
            ids[:count] = upload(table, device)
            per_id = mask.shape[1] // ids.shape[1]
            inside = np.arange(mask.shape[1]) < per_id * lengths[:, None]
            mask[:count] = upload(inside, device)
        torch.cat([s.timbre for s in sentences], out=self.timbre[:count])


def encode(
    model: SoVITS,
    sentences: Sequence[Sentence],
    device: str,
    round_to: int = 1,
    graphed: GraphedConditions | None = None,
) -> list[Tensor]:
    """The condition [channels, frames] of each sentence, computed as one padded batch.

    As several where their scores would take more memory than ``MOST_SCORES`` stands for.

    Args:
        model: on ``device``.
        sentences: at least one.
        device: where to compute.
        round_to: tokens and phonemes are rounded up to a multiple; above 1, rows are rounded up to
            a power of two as well, which keeps the number of shapes small.
        graphed: graphs to use for what they fit, if they are the model's.
    """
    if graphed is not None and graphed.model is model:
        conditions = graphed(sentences)
        if conditions is not None:
            return conditions
    made: list[Tensor] = []
    for together in _affordable(sentences):
        made += _encode_padded(model, together, device, round_to)
    return made


def _affordable(sentences: Sequence[Sentence]) -> Iterator[Sequence[Sentence]]:
    """Neighbours that may share a table, by both of its lengths.

    The queue's batches are bounded by their tokens alone. Phonemes have scores as well, a quarter
    of those for as many tokens, and a sentence of few tokens may come with thousands of them.
    """
    first, longest = 0, 0
    for index, sentence in enumerate(sentences):
        length = max(len(sentence.tokens), -(-len(sentence.phonemes) // 2))
        longer = max(longest, length)
        if index > first and (index + 1 - first) * longer * longer > MOST_SCORES:
            yield sentences[first:index]
            first, longer = index, length
        longest = longer
    yield sentences[first:]


def _encode_padded(
    model: SoVITS, sentences: Sequence[Sentence], device: str, round_to: int
) -> list[Tensor]:
    """As :func:`encode`, in one table."""
    count = len(sentences)
    filling = (1 << (count - 1).bit_length()) - count if round_to > 1 else 0
    tokens, token_counts = _table([s.tokens for s in sentences], filling, round_to)
    phonemes, phoneme_counts = _table([s.phonemes for s in sentences], filling, round_to)
    timbres = [s.timbre for s in sentences] + [sentences[0].timbre] * filling
    rows, frames = model.condition(
        upload(tokens, device),
        token_counts,
        upload(phonemes, device),
        phoneme_counts,
        torch.cat(timbres),
        [s.speed for s in sentences] + [1.0] * filling,
    )
    return [rows[index, :, : frames[index]] for index in range(count)]


def _table(rows: Sequence[Ids], filling: int, round_to: int) -> tuple[NDArray[np.int64], list[int]]:
    """Rows as one table [B, width] with zeros behind each, and the length of each."""
    lengths = [len(row) for row in rows] + [1] * filling
    width = -(-max(lengths) // round_to) * round_to
    table = np.zeros((len(lengths), width), np.int64)
    for target, row in zip(table, rows, strict=False):
        target[: len(row)] = row
    return table, lengths


@dataclasses.dataclass(frozen=True, eq=False)
class Waiting:
    """What the queue has to know of a piece of work.

    Attributes:
        group: work of the same group can share a batch.
        rows: of the batch that it takes.
        longest: tokens of its longest row.
        urgent: goes before work that is not.
    """

    group: object
    rows: int
    longest: int
    urgent: bool


Work = TypeVar("Work", bound=Waiting)


class BatchQueue(Generic[Work]):
    """A thread that hands over what waits, as many at once as can share a batch.

    Args:
        name: of the thread.
        device: that the thread computes on.
        serve: gets the next batch and answers each one's error itself; what it raises ends the
            thread.
        drop: gets what is left when the thread ends, and why; without effect on work that has been
            answered.
        in_company: whether work shares batches.
    """

    def __init__(
        self,
        name: str,
        device: str,
        serve: Callable[[list[Work]], None],
        drop: Callable[[Work, BaseException], None],
        *,
        in_company: bool = True,
    ) -> None:
        self._in_company = in_company
        self._device = device
        self._serve = serve
        self._drop = drop
        self._waiting: list[Work] = []
        self._ended: GsvError | None = None  # why nothing more is taken
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Work) -> None:
        """Put work in line; Cancelled after the end, GsvError if the thread has broken."""
        with self._changed:
            if self._ended is not None:
                raise self._ended
            self._waiting.append(work)
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its present batch."""
        with self._changed:
            self._ended = self._ended or Cancelled("the server is shutting down")
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        batch: list[Work] = []
        try:
            prepare(self._device)
            while batch := self._next():
                self._serve(batch)
        except BaseException as error:  # nobody may wait for a thread that is gone
            end_if_served(error, f"the thread {self._thread.name}")
            logger.exception("the thread %s broke", self._thread.name)
            with self._changed:
                self._ended = GsvError(f"the thread {self._thread.name} broke: {error!r}")
        assert self._ended is not None
        for work in (*batch, *self._waiting):
            self._drop(work, self._ended)

    def _next(self) -> list[Work]:
        """The next batch as soon as something waits; nothing when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended is not None or bool(self._waiting))
            if self._ended is not None:
                return []
            batch = next_batch(self._waiting)[: None if self._in_company else 1]
            self._waiting = [work for work in self._waiting if work not in batch]
            return batch


def next_batch(waiting: Sequence[Work]) -> list[Work]:
    """Those of ``waiting`` to compute now, urgent ones before others, else by arrival.

    Others of the first one's group join it as long as the padded batch keeps its bounds.
    """
    ordered = sorted(waiting, key=lambda work: not work.urgent)  # stable: by arrival
    batch, rows, longest = ordered[:1], ordered[0].rows, ordered[0].longest
    for work in ordered[1:]:
        more, widest = rows + work.rows, max(longest, work.longest)
        if (
            work.group is ordered[0].group
            and more <= MOST_ROWS
            and more * widest * widest <= MOST_SCORES
        ):
            batch.append(work)
            rows, longest = more, widest
    return batch
