"""The one parameter that names a model's precision."""

from __future__ import annotations

import torch

from gsv.errors import ConfigurationError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(name: str, *, int8: bool = False) -> torch.dtype:
    """The dtype called ``name``; ConfigurationError lists those that exist.

    Args:
        name: as the parameter gives it.
        int8: whether the model also knows int8 weights.
    """
    dtypes = {**_DTYPES, "int8": torch.int8} if int8 else _DTYPES
    if name not in dtypes:
        raise ConfigurationError(f"dtype: got {name!r}; allowed: {', '.join(dtypes)}")
    return dtypes[name]
