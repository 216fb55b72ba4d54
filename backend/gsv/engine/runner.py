"""Tensors of the running batch: prefill and decode on one device, one model.

Row i of every tensor belongs to the i-th running sequence. All that a step reads stays on the
device; per step a batch of noise goes up and three numbers a row come down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv.constants import EOS_FREE_STEPS
from gsv.engine.cache import KVCache
from gsv.engine.graphs import GraphedDecode
from gsv.engine.native.gpt import NativeDecode
from gsv.engine.noise import exponential_steps
from gsv.engine.sampling import Controls, draw
from gsv.engine.scheduler import Move
from gsv.engine.sequence import Drawn, SamplingParams, SequenceRequest
from gsv.engine.sequence import Sequence as Row
from gsv.errors import ConfigurationError
from gsv.models.gpt import SemanticGPT

# noise(seed, sentence, first step, steps, width) → float32 [steps, width]
Noise = Callable[[int, int, int, int, int], NDArray[np.float32]]


class Runner:
    """Runs rows of one model.

    Args:
        model: taken over: moved to ``device`` and stored in ``dtype``.
        device: where to run.
        dtype: precision of matrices and cache; int8 is bfloat16 with int8 matrices in decode.
        slots: most rows.
        max_length: most positions of a row.
        noise: where the Exp(1) numbers come from.
        kernel: decode through the compiled kernel where there is one (on a CPU).

    Raises:
        ConfigurationError: int8 without the kernel.
    """

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
        # State of each row. Free rows keep zeros: a graph may run them along.
        integers = torch.zeros(4, slots, dtype=torch.int64, device=device)
        self._integers = integers
        self._tokens, self._positions, self._text_lengths, self._eos_from = integers
        self._seen = torch.zeros(slots, self.config.vocabulary, dtype=torch.bool, device=device)
        self._controls: tuple[list[Row], Controls] | None = None
        self._kernel = NativeDecode.create(model, self.cache, int8=int8) if kernel else None
        if int8 and self._kernel is None:
            raise ConfigurationError(
                "dtype: int8 needs a CPU and a C compiler (cc, gcc or clang) for its kernel; "
                "install one or use bfloat16"
            )
        self._decode = GraphedDecode(self._decode_rows, slots, self.cache.max_length, device)

    @torch.inference_mode()
    def prefill(self, newcomers: Sequence[Row], first: int) -> list[Drawn]:
        """Read the prompts of newcomers into the rows from ``first`` on and draw first tokens."""
        count = len(newcomers)
        rows = slice(first, first + count)
        for row in range(first, first + count):
            self.cache.clear(row)
        embedded = [self._embed(row) for row in newcomers]
        x = torch.nn.utils.rnn.pad_sequence(embedded, batch_first=True)  # [B, T, E]
        state = [
            (0, r.prompt_length, r.text_length, r.prompt_length + EOS_FREE_STEPS) for r in newcomers
        ]
        self._integers[:, rows] = torch.tensor(state, device=self.device).T
        self._seen[rows] = False
        for row, sequence in enumerate(newcomers, start=first):
            self._seen[row, self._upload(sequence.request.prompt_tokens.astype(np.int64))] = True
        logits = self.model.prefill(
            x,
            self._text_lengths[rows],
            self._positions[rows],
            self.cache.window(first, count, x.shape[1]),
        )
        return self._draw(logits, newcomers, rows)

    @torch.inference_mode()
    def decode(self, sequences: Sequence[Row]) -> list[Drawn]:
        """Read each row's last token and draw its next; the rows are 0 to len - 1."""
        rows = slice(0, len(sequences))
        logits = self._decode(len(sequences), max(s.length for s in sequences))
        self._positions[rows] += 1
        return self._draw(logits, sequences, rows)

    @torch.inference_mode()
    def move(self, move: Move) -> None:
        """Let a row take another's place and free its own."""
        source, target, length = move
        if source != target:
            self.cache.move(source, target, length)
            self._integers[:, target] = self._integers[:, source]
            self._seen[target] = self._seen[source]
        self._integers[:, source] = 0
        self.cache.clear(source)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run every shape of decode and one small sequence, so that no caller meets them first."""
        self._decode.capture_all()
        if self._kernel is not None:
            self._kernel.tune()
        request = SequenceRequest(
            phonemes=np.zeros(16, dtype=np.int32),
            bert=np.zeros((16, self.config.bert_dim), dtype=np.float32),
            prompt_tokens=np.zeros(16, dtype=np.int32),
            params=SamplingParams(seed=0, top_p=0.9),
        )
        sequence = Row(request, lambda *_: None, lambda *_: None)
        sequence.take(self.prefill([sequence], 0)[0])
        self.decode([sequence])
        self.move(Move(0, 0, sequence.length))

    def _decode_rows(self, rows: int, length: int) -> Tensor:
        state = (self._tokens[:rows], self._positions[:rows], self._text_lengths[:rows])
        if self._kernel is not None:
            return self._kernel(*state, length)
        return self.model.decode(*state, self.cache.window(0, rows, length))

    def _draw(self, logits: Tensor, sequences: Sequence[Row], rows: slice) -> list[Drawn]:
        width = self.config.vocabulary
        # Drawn here, after the launch: on a GPU the numbers are made while the network runs.
        noise = np.concatenate(
            [self._noise(s.params.seed, s.request.sentence, s.step, 1, width) for s in sequences]
        )
        drawn = draw(
            logits,
            self._seen[rows],
            self._positions[rows] < self._eos_from[rows],
            self._upload(noise),
            self._controls_of(sequences),
            self.config.eos,
        )
        self._tokens[rows] = drawn.tokens
        self._seen[rows].scatter_(1, drawn.tokens[:, None], True)
        outcome = torch.stack([drawn.tokens, drawn.ended.long(), drawn.healthy.long()], dim=1)
        return [Drawn(token, bool(ended), bool(ok)) for token, ended, ok in outcome.tolist()]

    def _controls_of(self, sequences: Sequence[Row]) -> Controls:
        """The batch's settings, kept until somebody joins or leaves."""
        if self._controls is None or self._controls[0] != sequences:
            controls = Controls.of([s.params for s in sequences], self.device)
            self._controls = (list(sequences), controls)
        return self._controls[1]

    def _embed(self, row: Row) -> Tensor:
        request = row.request
        return self.model.embed_prompt(
            self._upload(request.phonemes.astype(np.int64)),
            self._upload(request.bert.astype(np.float32)),
            self._upload(request.prompt_tokens.astype(np.int64)),
        )

    def _upload(self, array: NDArray[np.generic]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor
