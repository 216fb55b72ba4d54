"""What the running rows carry from step to step, as tensors that never move.

Row i of every tensor belongs to the i-th running sequence. Captured graphs read and write these
tensors, so a step is told nothing but that it is to run.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from gsv.engine.gpt.sequence import Sequence as Row
from gsv.engine.transfers import upload

INTEGERS = 7  # numbers of a row in ``RowState.integers``
CONTROLS = 4  # and in ``RowState.controls``
OUTCOME = 3


class RowState:
    """State of ``slots`` rows.

    Args:
        slots: rows.
        vocabulary: tokens.
        device: where the tensors are.

    Attributes:
        integers: int64 [7, slots]: token drawn last, its position, length of the text block, steps
            drawn, seed, index of the sentence, 1 where a sequence runs. Free rows are zeros: a
            graph may run them along.
        controls: float32 [4, slots]: top_k, top_p, temperature, repetition penalty.
        seen: bool [slots, V], tokens of the prompt, those begun from and those drawn.
        outcome: int32 [slots, 3], of the last draw: token, whether the row is over (the token is
            then dropped), whether all logits were finite.
    """

    def __init__(self, slots: int, vocabulary: int, device: torch.device) -> None:
        self.integers = torch.zeros(INTEGERS, slots, dtype=torch.int64, device=device)
        self.controls = torch.ones(CONTROLS, slots, dtype=torch.float32, device=device)
        self.seen = torch.zeros(slots, vocabulary, dtype=torch.bool, device=device)
        self.outcome = torch.zeros(slots, OUTCOME, dtype=torch.int32, device=device)
        self.tokens, self.positions, self.text_lengths, self.steps, _, _, self.active = (
            self.integers
        )

    def reset(self) -> None:
        """Free every row."""
        self.integers.zero_()

    def begin(self, rows: Sequence[Row], first: int) -> None:
        """Take ``rows`` in, from slot ``first`` on, as they are before their first draw."""
        place = slice(first, first + len(rows))
        device = self.integers.device
        integers = [
            (0, r.prompt_length, r.text_length, r.step, r.params.seed, r.request.sentence, 1)
            for r in rows
        ]
        controls = [
            (p.top_k, p.top_p, p.temperature, p.repetition_penalty)
            for p in (r.params for r in rows)
        ]
        self.integers[:, place] = upload(np.array(integers, dtype=np.int64), device).T
        self.controls[:, place] = upload(np.array(controls, dtype=np.float32), device).T
        self.seen[place] = False
        for slot, row in enumerate(rows, start=first):
            tokens = upload(row.request.spoken_tokens.astype(np.int64), device)
            self.seen[slot].index_fill_(0, tokens, True)

    def move(self, source: int, target: int) -> None:
        """Let a row take another's place and free its own; equal rows only free the row."""
        if source != target:
            self.integers[:, target] = self.integers[:, source]
            self.controls[:, target] = self.controls[:, source]
            self.seen[target] = self.seen[source]
        self.integers[:, source] = 0
