"""How a sentence is cut into chunks while it is still being written; no tensors, no clock.

The first chunk is short, so that the listener hears something soon. Each next one may grow, since
a long chunk costs less per second of audio, but never beyond what the listener still has to play:
a chunk that takes longer to make than the buffer lasts is heard as a gap. Where a chunk comes too
late in any case, because the machine is slow or has many to serve, small chunks would keep it so:
most of their work is the prompt's. Larger ones make up for it.
"""

from __future__ import annotations

import dataclasses

from gsv.constants import FRAMES_PER_TOKEN, MEL_RATE


@dataclasses.dataclass(frozen=True)
class ChunkPlan:
    """Sizes in mel frames (100 a second).

    Attributes:
        first: frames of the first chunk; 0 makes every sentence one chunk.
        largest: frames that no chunk exceeds, unless ``first`` is 0.
        look_ahead: frames past a chunk's end that are generated, heard by the network as its
            future, and thrown away but for the blend.
        blend: frames over which a chunk's end fades into the next chunk's beginning.
    """

    first: int = 50
    largest: int = 400
    look_ahead: int = 16
    blend: int = 4

    @classmethod
    def seconds(cls, first: float, largest: float) -> ChunkPlan:
        """A plan from durations."""
        return cls(round(first * MEL_RATE), round(largest * MEL_RATE))

    @property
    def whole_sentences(self) -> bool:
        """Whether a sentence is never cut."""
        return self.first == 0

    def size(self, buffered: float, previous: int, took: float = 0.0) -> int:
        """Frames of the next chunk; 0 is all of the sentence.

        Args:
            buffered: seconds of audio that the listener has and has not played yet.
            previous: frames of the chunk before, 0 for the first of the answer.
            took: seconds that it took to make that chunk.
        """
        if previous == 0 or self.whole_sentences:
            return self.first
        grown = min(2 * previous, self.largest)
        if buffered > took:
            grown = min(grown, int(buffered * MEL_RATE))
        return max(grown, self.first)

    def tokens_needed(self, frames: int, speed: float) -> int:
        """Tokens that must be written before ``frames`` frames and the look-ahead can be made."""
        wanted = (frames + self.look_ahead) * speed / FRAMES_PER_TOKEN
        return int(wanted) + 1
