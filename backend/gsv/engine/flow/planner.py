"""How a sentence goes through flow matching in chunks, each next one prompted by the last.

Reference and new frames share one window of the estimator. A sentence stands by itself, so an
answer never depends on its neighbours. (Upstream's parallel mode packs neighbouring sentences into
one window and joins overlaps; it is not reproduced.)
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from gsv.constants import FLOW_REFERENCE_MAX, FLOW_WINDOW
from gsv.engine.flow.request import FlowRequest
from gsv.engine.turns import WHOLE_ANSWER, Turn


@dataclass(frozen=True, eq=False)
class Reference:
    """What the flow hears before new frames: condition [C, P] and normalised mel [mel, P]."""

    condition: Tensor
    mel: Tensor

    @classmethod
    def trimmed(cls, condition: Tensor, mel: Tensor, limit: int = FLOW_REFERENCE_MAX) -> Reference:
        """Cut both to their common length from the start, then to the last ``limit`` frames.

        The condition is usually longer: it has the zeros that HuBERT heard at the end.
        """
        frames = min(condition.shape[-1], mel.shape[-1])
        start = max(0, frames - limit)
        return cls(condition[:, start:frames], mel[:, start:frames])

    @property
    def frames(self) -> int:
        """P."""
        return self.mel.shape[-1]


def sentence_requests(
    reference: Reference,
    condition: Tensor,
    steps: int,
    seed: int,
    sentence: int,
    first_frame: int = 0,
    turn: Turn = WHOLE_ANSWER,
    window: int = FLOW_WINDOW,
) -> Generator[FlowRequest, Tensor, Tensor]:
    """Yield the requests of one sentence in order; send the frames of each back for the next.

    Args:
        reference: the voice's; later chunks are prompted by the frames before them.
        condition: [C, frames] of the sentence, on the reference's device. Frames that are sent
            back may be on another one.
        steps, seed, sentence: of :class:`FlowRequest`.
        first_frame: index of ``condition``'s first frame in the sentence, for a stream.
        turn: of :class:`FlowRequest`.
        window: frames of prompt and new ones together.

    Returns:
        Normalised mel [mel, frames], on the device of the frames sent back.
    """
    chunk = window - reference.frames
    prompt, mels = reference, []
    for first in range(0, condition.shape[-1], chunk):
        own = condition[:, first : first + chunk]
        mel = yield FlowRequest(
            condition=torch.cat([prompt.condition, own], dim=-1),
            prompt=prompt.mel,
            steps=steps,
            seed=seed,
            sentence=sentence,
            first_frame=first_frame + first,
            turn=turn,
        )
        mels.append(mel)
        # Only the last chunk can be shorter than the prompt, and nothing comes after it.
        start = max(0, own.shape[-1] - reference.frames)
        prompt = Reference(own[:, start:], mel[:, start:])
    return torch.cat(mels, dim=-1) if mels else reference.mel[:, :0]
