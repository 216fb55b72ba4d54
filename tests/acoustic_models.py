"""The acoustic networks with the golden folder's weights, built through the real name tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch
from golden import case_weights, sovits_config, vocoder_config

from gsv.checkpoints.names import sovits as sovits_names
from gsv.checkpoints.names import vocoder as vocoder_names
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder

Module = TypeVar("Module", bound=torch.nn.Module)


@functools.lru_cache(maxsize=2)
def sovits(size: str) -> SoVITS:
    """SoVITS in float32; shared by tests, which must not change it."""
    weights = case_weights("s2", size)
    return _load(SoVITS(sovits_config(size)), weights, sovits_names.rename)


@functools.lru_cache(maxsize=2)
def vocoder(size: str) -> Vocoder:
    """The vocoder in float32; shared by tests, which must not change it."""
    weights = case_weights("voc", size)
    return _load(Vocoder(vocoder_config(size)), weights, vocoder_names.rename)


def _load(
    module: Module, weights: dict[str, torch.Tensor], rename: Callable[[str], str | None]
) -> Module:
    named = {rename(key): value for key, value in weights.items()}
    named.pop(None, None)
    state = {name: value for name, value in named.items() if name is not None}
    for name in [name for name in state if name.endswith(".weight_g")]:
        scale, direction = state.pop(name), state.pop(name[:-1] + "v")
        norm = direction.flatten(1).norm(dim=1).view(scale.shape)
        state[name.removesuffix("_g")] = direction * (scale / norm)
    module.load_state_dict(state, strict=True)
    return module.eval().requires_grad_(False)
