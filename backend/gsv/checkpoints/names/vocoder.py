"""Names of ``vocoder.pth`` → names of ``gsv.models.vocoder.Vocoder``."""

from __future__ import annotations

import re

from gsv.checkpoints.names.table import NameTable

# Upstream counts the residual blocks through all stages, three kernels to a stage.
_KERNELS = 3
_RESIDUAL = re.compile(r"resblocks\.(\d+)\.(.+)")
_TABLE = NameTable(
    {
        "conv_pre.*": "input.*",
        "ups.#.*": "stages.#.upsample.*",
        "conv_post.*": "output.*",
    }
)
_BLOCK = NameTable({"convs1.#.*": "dilated.#.*", "convs2.#.*": "plain.#.*"})


def rename(key: str) -> str | None:
    """Our name for one key of the file.

    Returns:
        The name; None for a key that is dropped on purpose (this file has none).

    Raises:
        KeyError: the key is not one of this file's.
    """
    match = _RESIDUAL.fullmatch(key)
    if match is None:
        return _TABLE.rename(key)
    stage, block = divmod(int(match.group(1)), _KERNELS)
    return f"stages.{stage}.blocks.{block}.{_BLOCK.rename(match.group(2))}"
