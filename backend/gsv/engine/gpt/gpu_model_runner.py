"""The running batch of one model on a GPU: every step a replayed graph, nothing waited for.

A step reads and writes tensors that never move, so it is captured once for each bucket of rows
(and, without our own kernels, of positions) while the model warms up. Prompts are read by
:class:`~gsv.engine.gpt.prompt_reader.PromptReader`, each alone: with our kernels nothing of a row's
arithmetic then depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gsv.device import upload
from gsv.engine.cuda_graphs import CapturedCalls, bucket, length_buckets, row_buckets
from gsv.engine.gpt.model_runner import ModelRunner, Noise
from gsv.engine.gpt.prompt_reader import readers
from gsv.engine.gpt.sampling import SamplingTensors
from gsv.engine.gpt.sequence import Sequence as Row
from gsv.engine.kernels.cuda.available import triton_serves
from gsv.engine.noise import exponential_steps
from gsv.models.gpt import SemanticGPT

EARLY_CAPABILITY = (9, 0)  # from which on a kernel may start before the last one's end
FEW = 64  # top_k up to which the best logits are found without sorting all of them


class GpuModelRunner(ModelRunner):
    """As :class:`ModelRunner`, on a GPU.

    With ``kernel`` and where Triton's language serves, decoding and drawing are kernels of our own;
    else PyTorch's, with the noise made here and uploaded.
    """

    runs_ahead = True

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
        super().__init__(model, device, dtype, slots, max_length, noise, kernel)
        self._calls = CapturedCalls(device)
        self._row_buckets = row_buckets(slots)
        self._length_buckets = length_buckets(self.cache.max_length)
        own = kernel and triton_serves(device)
        self._fused_decode = _fused_decode(self) if own else None
        self._fused_draw = _fused_draw() if own and noise is exponential_steps else None
        vocabulary = self.config.vocabulary
        self._all_logits = torch.zeros(slots, vocabulary, device=device)
        self._uploaded_noise = torch.ones(slots, vocabulary, device=device)
        self._readers = readers(model, self.cache, device)

    def _prepare(self) -> None:
        """Capture every step, the largest first."""
        for rows in reversed(self._row_buckets):
            for key, call in self._steps(rows):
                self._calls.capture(key, call)
        for reader in self._readers:
            reader.capture_all()
        self._state.reset()

    def _steps(self, rows: int) -> list[tuple[tuple[object, ...], Callable[[], None]]]:
        """All that a step of ``rows`` rows may call, by key."""
        if self._fused_decode is not None:
            steps: list[tuple[tuple[object, ...], Callable[[], None]]] = [
                (("decode", rows), partial(self._decode_rows, rows, 0))
            ]
        else:
            steps = [
                (("decode", rows, length), partial(self._decode_rows, rows, length))
                for length in reversed(self._length_buckets)
            ]
        if self._fused_draw is None:
            steps += [
                (("draw", rows, wide), partial(self._draw_rows, rows, wide))
                for wide in (True, False)
            ]
        return steps

    def _read_prompts(self, admitted: Sequence[Row], rows: slice) -> None:
        at_once = len(self._readers)
        for begun in range(0, len(admitted), at_once):
            group = admitted[begun : begun + at_once]
            first = rows.start + begun
            reading = list(zip(self._readers, group, range(first, rows.stop), strict=False))
            for reader, sequence, row in reading:
                reader.begin(sequence, row)
            for reader, sequence, row in reading:
                reader.join()
                self._draw_first(reader.logits, sequence, row)

    def _draw_first(self, logits: Tensor, sequence: Row, row: int) -> None:
        if self._fused_draw is not None:
            self._draw_fused(logits, row, advance=False)
            return
        place = slice(row, row + 1)
        noise = upload(self._noise_of([sequence]), self.device)
        controls = self._row_controls(place, _is_wide([sequence]))
        self._draw(logits, place, noise, controls, advance=False)

    def _step(self, sequences: Sequence[Row]) -> None:
        rows = bucket(len(sequences), self._row_buckets)
        if self._fused_decode is not None:
            self._calls(("decode", rows), partial(self._decode_rows, rows, 0))
        else:
            length = bucket(max(s.length for s in sequences), self._length_buckets)
            self._calls(("decode", rows, length), partial(self._decode_rows, rows, length))
        if self._fused_draw is None:
            # Made here, after the launch: while the network runs.
            noise = upload(self._noise_of(sequences), self.device)
            self._uploaded_noise[: len(sequences)] = noise
            wide = _is_wide(sequences)
            self._calls(("draw", rows, wide), partial(self._draw_rows, rows, wide))

    def _decode_rows(self, rows: int, length: int) -> None:
        """Decode the first rows; with a kernel of our own, draw as well."""
        if self._fused_decode is None:
            logits = self._logits(rows, length)
        else:
            state = self._state
            logits = self._fused_decode(
                state.tokens[:rows], state.positions[:rows], state.text_lengths[:rows]
            )
        if self._fused_draw is None:
            self._all_logits[:rows] = logits
        else:
            self._draw_fused(logits, 0, advance=True)

    def _draw_rows(self, rows: int, wide: bool) -> None:
        place = slice(0, rows)
        controls, noise = self._row_controls(place, wide), self._uploaded_noise[place]
        self._draw(self._all_logits[place], place, noise, controls, advance=True)

    def _draw_fused(self, logits: Tensor, first_row: int, *, advance: bool) -> None:
        state = self._state
        assert self._fused_draw is not None
        self._fused_draw(
            logits,
            state.seen,
            state.integers,
            state.controls,
            state.outcome,
            first_row=first_row,
            eos=self.config.eos,
            advance=advance,
        )

    def _row_controls(self, rows: slice, wide: bool) -> SamplingTensors:
        """The settings as the device has them, for a draw that is captured."""
        top_k, top_p, temperature, penalty = self._state.controls[:, rows]
        return SamplingTensors(
            top_k=top_k.long(),
            top_p=top_p,
            temperature=temperature,
            penalty=penalty,
            largest_k=self.config.vocabulary if wide else FEW,
            nucleus=wide,
        )


def _is_wide(sequences: Sequence[Row]) -> bool:
    """Whether any row needs its logits sorted."""
    return any(s.params.top_k > FEW or s.params.top_p < 1 for s in sequences)


def _fused_decode(runner: ModelRunner) -> Any:
    from gsv.engine.kernels.cuda.gpt_decode import FusedDecode  # Triton's language is optional

    if not FusedDecode.serves(runner.model, runner.cache):
        return None
    early = torch.cuda.get_device_capability(runner.device) >= EARLY_CAPABILITY
    return FusedDecode(runner.model, runner.cache, early=early)


def _fused_draw() -> Any:
    from gsv.engine.kernels.cuda.gpt_sampling import draw_fused

    return draw_fused
