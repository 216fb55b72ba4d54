"""The estimator as CUDA graphs, captured while the model warms up and replayed at each step.

An estimate is some two hundred kernels. For one or a few rows a GPU runs them faster than they can
be started one by one; larger batches keep it busy by themselves. Rows and lengths are rounded up to
buckets. The surplus is computed in vain, but it changes nothing: rows don't see each other, nor
what lies beyond their length.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gsv.engine.cuda_graphs import CapturedCalls
from gsv.models.adapters import BatchAdapters
from gsv.models.dit import DiT
from gsv.models.flow import FlowMatching

logger = logging.getLogger(__name__)

ROW_BUCKETS = (1, 2, 4, 8, 16)
LENGTH_BUCKETS = tuple(range(128, 1025, 128))
# Frames of a batch up to which graphs are captured: 38 shapes. Beyond, a step takes longer than its
# start, and a batch of exactly its size less than one rounded up.
MOST_FRAMES = 8192
_SMALL = 2048  # frames up to which a step takes no longer for being rounded up
_MOST_SURPLUS = 1.2  # of a larger batch, where what is computed in vain is waited for


@dataclass(frozen=True)
class EstimatorInputs:
    """What an estimate of [B, T] frames reads.

    Attributes:
        noisy: float32 [B, T, mel].
        inputs: float32 [B, T, D].
        modulation: float32 [B, M].
        lengths: int32 [B]; None when all rows are full.
    """

    noisy: Tensor
    inputs: Tensor
    modulation: Tensor
    lengths: Tensor | None


class GraphedEstimator:
    """Calls an estimator, through graphs where its shape has one.

    Args:
        estimator: on its device, in its final precision.
        disable: capture nothing; nothing is captured on a CPU in any case.
    """

    def __init__(self, estimator: DiT, disable: bool = False) -> None:
        self._estimator = estimator
        self._device = estimator.inverse_frequencies.device
        self._disable = disable or self._device.type != "cuda"
        self._calls = CapturedCalls(self._device)
        self._storage: EstimatorInputs | None = None  # of the largest shapes, in one dimension
        self._captured: dict[tuple[int, int], tuple[EstimatorInputs, Tensor]] = {}

    def __len__(self) -> int:
        """Graphs captured."""
        return len(self._captured)

    def capture_all(self) -> None:
        """Capture every bucket, the largest first: later ones then fit into its memory."""
        if self._disable:
            return
        begin = time.monotonic()
        for rows, frames in sorted(shapes(), key=math.prod, reverse=True):
            self.capture(rows, frames)
        seconds = time.monotonic() - begin
        logger.info("flow: %d CUDA graphs in %.1f s", len(self._captured), seconds)

    @torch.inference_mode()
    def capture(self, rows: int, frames: int) -> None:
        """Capture one bucket; without memory for it, batches of its size run without a graph."""
        if self._disable:
            return
        key, own = (rows, frames), self._place(rows, frames)
        made: list[Tensor] = []
        self._calls.capture(key, partial(self._estimate_into, made, own))
        if key in self._calls:
            self._captured[key] = own, made[-1]

    def bucket(self, rows: int, frames: int) -> tuple[int, int] | None:
        """The captured shape that a batch is best computed in; None is its own, uncaptured."""
        fitting = [key for key in self._captured if key[0] >= rows and key[1] >= frames]
        if not fitting:
            return None
        best = min(fitting, key=math.prod)
        allowed = max(_SMALL, _MOST_SURPLUS * rows * frames)
        return best if math.prod(best) <= allowed else None

    def inputs_of(self, bucket: tuple[int, int]) -> EstimatorInputs:
        """Where a bucket's graph reads; what is written here needs no copy when it is called."""
        return self._captured[bucket][0]

    def __call__(
        self,
        noisy: Tensor,
        inputs: Tensor,
        modulation: Tensor,
        lengths: Tensor | None,
        adapters: BatchAdapters | None = None,
    ) -> Tensor:
        """As :class:`DiT`; valid until the next call."""
        rows, frames, _ = noisy.shape
        bucket = self.bucket(rows, frames) if adapters is None else None
        if bucket is None:
            made: Tensor = self._estimator(noisy, inputs, modulation, lengths, adapters)
            return made
        own, made = self._captured[bucket]
        if noisy.data_ptr() != own.noisy.data_ptr():
            own.noisy[:rows, :frames] = noisy
            own.inputs[:rows, :frames] = inputs
            assert own.lengths is not None
            own.lengths.fill_(1)
            own.lengths[:rows] = frames if lengths is None else lengths
        if modulation.data_ptr() != own.modulation.data_ptr():
            own.modulation[:rows] = modulation
        self._calls(bucket, _not_captured)
        return made[:rows, :frames]

    def _estimate_into(self, made: list[Tensor], own: EstimatorInputs) -> None:
        made.append(self._estimator(own.noisy, own.inputs, own.modulation, own.lengths))

    def _place(self, rows: int, frames: int) -> EstimatorInputs:
        """A bucket's inputs, in memory that all buckets share."""
        if self._storage is None:
            self._storage = self._allocate()
        storage = self._storage
        assert storage.lengths is not None
        mel, width = self._estimator.mel_channels, self._estimator.width
        own = EstimatorInputs(
            noisy=storage.noisy[: rows * frames * mel].view(rows, frames, mel),
            inputs=storage.inputs[: rows * frames * width].view(rows, frames, width),
            modulation=storage.modulation[:rows],
            lengths=storage.lengths[:rows],
        )
        assert own.lengths is not None
        own.lengths.fill_(frames)
        return own

    @torch.inference_mode(False)  # may be written from anywhere
    def _allocate(self) -> EstimatorInputs:
        estimator = self._estimator
        frames, rows = max(map(math.prod, shapes())), max(ROW_BUCKETS)
        return EstimatorInputs(
            noisy=torch.zeros(frames * estimator.mel_channels, device=self._device),
            inputs=torch.zeros(frames * estimator.width, device=self._device),
            modulation=torch.zeros(rows, estimator.modulation_width, device=self._device),
            lengths=torch.ones(rows, dtype=torch.int32, device=self._device),
        )


class GraphedEmbedding:
    """What a request tells the estimator besides its noise, through CUDA graphs of rounded lengths.

    Args:
        flow: on its device, in its final precision.
    """

    def __init__(self, flow: FlowMatching) -> None:
        self._flow = flow
        self._calls = CapturedCalls(flow.device)
        longest, device = max(LENGTH_BUCKETS), flow.device
        self._condition = torch.zeros(1, flow.condition_channels, longest, device=device)
        self._prompt = torch.zeros(1, flow.mel_channels, longest, device=device)
        self._length = torch.ones(1, dtype=torch.int64, device=device)
        self._made: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Graphs captured."""
        return len(self._calls)

    @torch.inference_mode()
    def capture_all(self) -> None:
        """Capture every length, the longest first."""
        for frames in reversed(LENGTH_BUCKETS):
            self._calls.capture(frames, partial(self._embed, frames))

    def __call__(self, condition: Tensor, prompt: Tensor) -> Tensor:
        """As :meth:`FlowMatching.embed` of one row: [C, T] and [mel, P] to [T, D]."""
        frames, heard = condition.shape[-1], prompt.shape[-1]
        bucket = next((b for b in LENGTH_BUCKETS if b >= frames and b in self._calls), None)
        if bucket is None:
            return self._flow.embed(condition[None], prompt[None])[0]
        self._condition[0, :, :frames] = condition
        # Masks multiply by zero, which leaves what another request may have left as it is if that
        # isn't finite.
        self._condition[0, :, frames:bucket] = 0
        self._prompt[0, :, :heard] = prompt
        self._prompt[0, :, heard:bucket] = 0
        self._length.fill_(frames)
        self._calls(bucket, partial(self._embed, bucket))
        return self._made[bucket][0, :frames].clone()  # the next request overwrites it

    def _embed(self, frames: int) -> None:
        given = self._condition[..., :frames], self._prompt[..., :frames]
        self._made[frames] = self._flow.embed(*given, self._length)


def shapes() -> list[tuple[int, int]]:
    """Rows and frames that are captured."""
    return [(r, t) for r in ROW_BUCKETS for t in LENGTH_BUCKETS if r * t <= MOST_FRAMES]


def shape_for(rows: int, frames: int) -> tuple[int, int] | None:
    """The smallest shape of the plan that holds a batch."""
    fitting = [shape for shape in shapes() if shape[0] >= rows and shape[1] >= frames]
    return min(fitting, key=math.prod, default=None)


def _not_captured() -> None:
    raise AssertionError("only captured shapes are replayed")
