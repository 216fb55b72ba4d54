"""How much of a device's memory the running batch and the voices take when nobody has chosen.

On a GPU these are shares of what is free when a model is loaded: half of it, so that weights,
workspaces and CUDA contexts of the five processes find room. On a CPU they are fixed numbers, since
memory is taken there only as it is written.
"""

from __future__ import annotations

from gsv.config import GPTConfig
from gsv.engine.gpt.cache import ALIGNMENT
from gsv.engine.gpt.scheduler import headroom
from gsv.models.gpt import MAX_POSITIONS

# Positions of a sentence on a GPU, where the memory of all is taken at once: 250 prompt tokens
# (10 s), 1,500 new ones (60 s) and 810 phonemes of transcript and sentence.
GPU_POSITIONS = 2_560
CPU_SLOTS = 32
MOST_SLOTS = 64
LANDING_ROWS = 1  # what prompts are read into on a GPU has at most the length of a row
CACHE_SHARE = 0.2
VOICES_SHARE = 0.15  # once for voices' own GPTs, once for their SoVITS
MIB = 1 << 20


def positions(chosen: int, free: int | None) -> int:
    """Positions of a sentence: the chosen number, or for 0 the device's.

    Args:
        chosen: as the parameter gives it.
        free: bytes, None on a CPU.
    """
    return chosen or (MAX_POSITIONS if free is None else GPU_POSITIONS)


def row_bytes(config: GPTConfig, length: int, itemsize: int) -> int:
    """Bytes of keys and values of one sentence of ``length`` positions."""
    aligned = -(-length // ALIGNMENT) * ALIGNMENT
    return aligned * 2 * config.layers * config.hidden_dim * itemsize


def slots(chosen: int, free: int | None, row: int) -> int:
    """Sentences that run at once: the chosen number, or for 0 as many as fit, 1 to 64.

    Listeners have rows beside these, which a GPU's memory holds as well.

    Args:
        chosen: as the parameter gives it.
        free: bytes, None on a CPU.
        row: bytes of one sentence.
    """
    if chosen or free is None:
        return chosen or CPU_SLOTS
    fitting = int(free * CACHE_SHARE) // row
    return max((n for n in range(1, MOST_SLOTS + 1) if rows(n) <= fitting), default=1)


def rows(slots: int) -> int:
    """Rows of a cache on a GPU for so many slots: listeners' headroom and the readers' room
    included."""
    return slots + headroom(slots) + LANDING_ROWS


def voices_budget(chosen_mib: int, free: int | None, cpu_mib: int) -> int:
    """Bytes for the own weights of all voices together: the chosen MiB, or for 0 the device's.

    Args:
        chosen_mib: as the parameter gives it.
        free: bytes, None on a CPU.
        cpu_mib: MiB on a CPU.
    """
    if chosen_mib or free is None:
        return (chosen_mib or cpu_mib) * MIB
    return int(free * VOICES_SHARE)
