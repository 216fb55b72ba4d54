"""The one parameter that names a model's precision."""

from __future__ import annotations

import torch

from gsv.errors import ConfigurationError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(name: str) -> torch.dtype:
    """The dtype called ``name``; ConfigurationError lists those that exist."""
    if name not in _DTYPES:
        raise ConfigurationError(f"dtype: got {name!r}; allowed: {', '.join(_DTYPES)}")
    return _DTYPES[name]
