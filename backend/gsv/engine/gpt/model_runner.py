"""The running batch of one model on its device: reading prompts, decoding, drawing tokens.

Row i of every tensor belongs to the i-th running sequence. All that a step reads stays on the
device; per step three numbers a row come down. Work is queued and answered by a
:class:`PendingOutput`, so that on a GPU the next step can be queued before this one's tokens are
read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv.constants import EOS_FREE_STEPS
from gsv.engine.gpt.cache import KVCache
from gsv.engine.gpt.row_state import RowState
from gsv.engine.gpt.sampling import SamplingTensors, draw
from gsv.engine.gpt.scheduler import SlotMove
from gsv.engine.gpt.sequence import SamplerOutput, SamplingParams, SequenceRequest
from gsv.engine.gpt.sequence import Sequence as Row
from gsv.engine.kernels.cpu.gpt_decode import NativeDecode
from gsv.engine.noise import exponential_steps
from gsv.engine.transfers import Download
from gsv.errors import ConfigurationError
from gsv.models.gpt import SemanticGPT

# noise(seed, sentence, first step, steps, width) → float32 [steps, width]
Noise = Callable[[int, int, int, int, int], NDArray[np.float32]]

PROMPT_STEP = 64  # positions; a GPU rounds prompts up to a multiple


class PendingOutput:
    """What a step has drawn for its rows, as soon as somebody waits for it."""

    def __init__(self, sequences: Sequence[Row], outcome: Tensor) -> None:
        self.sequences = list(sequences)
        self._download = Download(outcome)

    def read(self) -> list[SamplerOutput]:
        """One entry a row."""
        outcome = self._download.wait().tolist()
        return [SamplerOutput(token, bool(ended), bool(ok)) for token, ended, ok in outcome]


class ModelRunner:
    """Runs rows of one model on a CPU; on a GPU its subclass ``GpuModelRunner`` does.

    Args:
        model: taken over: moved to ``device`` and stored in ``dtype``.
        device: where to run.
        dtype: precision of matrices and cache; int8 is bfloat16 with int8 matrices in decode.
        slots: most rows.
        max_length: most positions of a row.
        noise: where the Exp(1) numbers come from.
        kernel: decode through a kernel of our own where there is one.

    Attributes:
        runs_ahead: whether a step is to be queued before the last one's tokens are read.

    Raises:
        ConfigurationError: int8 without the kernel.
    """

    runs_ahead = False

    def __init__(
        self,
        model: SemanticGPT,
        device: torch.device,
        dtype: torch.dtype,
        slots: int,
        max_length: int,
        noise: Noise = exponential_steps,
        kernel: bool = True,
    ) -> None:
        int8 = dtype == torch.int8
        dtype = torch.bfloat16 if int8 else dtype
        self.model = model.to(device).set_precision(dtype).eval().requires_grad_(False)
        self.device = device
        self.config = model.config
        self.cache = KVCache(self.config, slots, max_length, dtype, device)
        self._noise = noise
        self._state = RowState(slots, self.config.vocabulary, device)
        self._controls: tuple[list[Row], SamplingTensors] | None = None
        self._kernel = NativeDecode.create(model, self.cache, int8=int8) if kernel else None
        if int8 and self._kernel is None:
            raise ConfigurationError(
                "dtype: int8 needs a CPU and a C compiler (cc, gcc or clang) for its kernel; "
                "install one or use bfloat16"
            )

    @torch.inference_mode()
    def prefill(self, admitted: Sequence[Row], first: int) -> PendingOutput:
        """Read the prompts of new sequences into rows from ``first`` on; draw first tokens."""
        self._state.begin(admitted, first)
        rows = slice(first, first + len(admitted))
        self._read_prompts(admitted, rows)
        return self._drawing(admitted, rows)

    @torch.inference_mode()
    def decode(self, sequences: Sequence[Row]) -> PendingOutput:
        """Read each row's last token and draw its next; the rows are 0 to len - 1."""
        rows = slice(0, len(sequences))
        self._step(sequences)
        return self._drawing(sequences, rows)

    @torch.inference_mode()
    def move(self, move: SlotMove) -> None:
        """Let a row take another's place and free its own."""
        source, target, length = move
        if source != target:
            self.cache.move(source, target, length)
        self._state.move(source, target)
        # A step that runs ahead, and a rounded prompt, write a little further.
        self.cache.clear(source, length + PROMPT_STEP)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run every shape of decode and one small sequence, so that no caller meets them first."""
        self._prepare()
        request = SequenceRequest(
            phonemes=np.zeros(16, dtype=np.int32),
            bert=np.zeros((16, self.config.bert_dim), dtype=np.float32),
            prompt_tokens=np.zeros(16, dtype=np.int32),
            params=SamplingParams(seed=0, top_p=0.9),
        )
        sequence = Row(request, lambda *_: None, lambda *_: None)
        self.prefill([sequence], 0).read()
        self.decode([sequence]).read()
        self.move(SlotMove(0, 0, sequence.length))

    def _prepare(self) -> None:
        """What costs time once, before the first step."""
        if self._kernel is not None:
            self._kernel.tune()

    def _read_prompts(self, admitted: Sequence[Row], rows: slice) -> None:
        """Read the prompts into ``rows``, as one padded batch, and draw."""
        for row in range(rows.start, rows.stop):
            self.cache.clear(row, self.cache.max_length)
        embedded = [self._embed(row) for row in admitted]
        x = torch.nn.utils.rnn.pad_sequence(embedded, batch_first=True)  # [B, T, E]
        state = self._state
        logits = self.model.prefill(
            x,
            state.text_lengths[rows],
            state.positions[rows],
            self.cache.window(rows.start, len(admitted), x.shape[1]),
        )
        noise = torch.from_numpy(self._noise_of(admitted))
        self._draw(logits, rows, noise, self._controls_of(admitted), advance=False)

    def _step(self, sequences: Sequence[Row]) -> None:
        """Decode and draw for the first rows."""
        rows = slice(0, len(sequences))
        logits = self._logits(len(sequences), max(s.length for s in sequences))
        noise = torch.from_numpy(self._noise_of(sequences))
        self._draw(logits, rows, noise, self._controls_of(sequences), advance=True)

    def _logits(self, rows: int, length: int) -> Tensor:
        """Float32 [rows, V], from the first ``length`` cached positions."""
        state = self._state
        tensors = (state.tokens[:rows], state.positions[:rows], state.text_lengths[:rows])
        if self._kernel is not None:
            return self._kernel(*tensors, length)
        return self.model.decode(*tensors, self.cache.window(0, rows, length))

    def _draw(
        self,
        logits: Tensor,
        rows: slice,
        noise: Tensor,
        controls: SamplingTensors,
        *,
        advance: bool,
    ) -> None:
        """Draw the next token of ``rows`` and write down what the next step reads.

        Args:
            logits: float32 [B, V].
            rows: the B rows.
            noise: float32 [B, V].
            controls: of the B rows.
            advance: whether the positions move on (after a decoding step, not after prefill).
        """
        state = self._state
        barred = state.steps[rows] < EOS_FREE_STEPS
        drawn = draw(logits, state.seen[rows], barred, noise, controls, self.config.eos)
        state.tokens[rows] = drawn.tokens
        state.seen[rows].scatter_(1, drawn.tokens[:, None], True)
        if advance:
            state.positions[rows] += state.active[rows]
        state.steps[rows] += state.active[rows]
        state.outcome[rows] = torch.stack(
            [drawn.tokens, drawn.ended.long(), drawn.healthy.long()], dim=1
        ).int()

    def _drawing(self, sequences: Sequence[Row], rows: slice) -> PendingOutput:
        for sequence in sequences:
            sequence.step += 1
        return PendingOutput(sequences, self._state.outcome[rows])

    def _noise_of(self, sequences: Sequence[Row]) -> NDArray[np.float32]:
        """Exp(1) numbers of each row's next draw, float32 [B, V]."""
        width = self.config.vocabulary
        return np.concatenate(
            [self._noise(s.params.seed, s.request.sentence, s.step, 1, width) for s in sequences]
        )

    def _controls_of(self, sequences: Sequence[Row]) -> SamplingTensors:
        """The batch's settings, kept until somebody joins or leaves."""
        if self._controls is None or self._controls[0] != sequences:
            controls = SamplingTensors.of([s.params for s in sequences])
            self._controls = (list(sequences), controls)
        return self._controls[1]

    def _embed(self, row: Row) -> Tensor:
        request = row.request
        return self.model.embed_prompt(
            torch.from_numpy(request.phonemes.astype(np.int64)),
            torch.from_numpy(request.bert.astype(np.float32)),
            torch.from_numpy(request.spoken_tokens.astype(np.int64)),
        )
