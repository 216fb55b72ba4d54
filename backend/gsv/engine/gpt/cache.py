"""Keys and values of the running sequences: one slot a row, every slot as long as a row can get.

Nothing grows and nothing is concatenated. On a CPU the operating system is the page table: the
slots are anonymous memory, which takes room only where it has been written and is zero elsewhere,
so sixty-four slots cost what their sequences use. On a GPU the memory is taken at once, because
captured graphs need fixed addresses.
"""

from __future__ import annotations

import math
import mmap
import sys

import torch

from gsv.config import GPTConfig
from gsv.models.gpt import Cache

# Rows are this many positions long or a multiple: they then begin and end on a page of memory.
ALIGNMENT = 256
# Room that is never written shall not count as used memory. Python names this flag from 3.13 on.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


class KVCache:
    """``slots`` rows of up to ``max_length`` positions.

    Args:
        config: of the model.
        slots: rows.
        max_length: positions of a row, at the least.
        dtype: of keys and values.
        device: where they are.

    Attributes:
        storage: [slots, 2 L, max_length, H, D]; planes 2 l and 2 l + 1 are layer l's keys, values.
    """

    def __init__(
        self,
        config: GPTConfig,
        slots: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.slots = slots
        self.max_length = -(-max_length // ALIGNMENT) * ALIGNMENT
        width = config.hidden_dim // config.heads
        shape = (slots, 2 * config.layers, self.max_length, config.heads, width)
        self._pages: mmap.mmap | None = None
        if device.type == "cpu":
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
            self._pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=flags)
            self.storage = torch.frombuffer(self._pages, dtype=dtype).view(shape)
        else:
            self.storage = torch.zeros(shape, dtype=dtype, device=device)

    def window(self, first: int, rows: int, length: int) -> Cache:
        """The first ``length`` positions of ``rows`` rows from ``first`` on, as views."""
        planes = self.storage[first : first + rows, :, :length].unbind(1)
        return list(zip(planes[0::2], planes[1::2], strict=True))

    def clear(self, row: int, length: int) -> None:
        """Make the first ``length`` positions of a row zeros; on a CPU the whole row, whose memory
        goes back.

        Needed before a row is taken: attention reads up to the longest row's length and gives
        what lies beyond a row's own length the weight 0, but 0 times a NaN left there is NaN.
        """
        if self._pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            size = self.storage[row].nbytes
            self._pages.madvise(mmap.MADV_DONTNEED, row * size, size)
        else:
            self.storage[row, :, :length].zero_()

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of a row over another row."""
        self.storage[target, :, :length] = self.storage[source, :, :length]
