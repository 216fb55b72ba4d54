"""The random weights behind the arrays in ``open/``; same interface as beside any golden folder.

One tensor is a draw from a generator keyed by its checkpoint key and the seed, times a scale that
depends on its place in the network. Bits matter: the arrays were made with exactly these numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float32]
f32 = np.float32

# Parts of a key, the factor on 1/sqrt(inputs of an output), and whether also 1/sqrt(layers).
_FACTORS = [
    (("ar_predict_layer.weight",), 3.0, False),
    (("in_proj_weight",), 1.5, False),
    (("self_attn.out_proj",), 1.0, True),
    (("linear2.",), 0.5, True),
    (("conv_o.", "conv_2."), 0.5, False),
    (("ref_enc.fc.",), 0.4, False),
    (("wns1.proj.",), 2.0, False),
    (("attn_norm.linear", "norm_out.linear"), 1.5, False),
    ((".to_q.", ".to_k."), 1.5, False),
    ((".to_out.0.",), 2.0, False),
    (("embed.time_mlp.0",), 1.4, False),
]


def normal(key: str, shape: Sequence[int], seed: int) -> Array:
    """Standard normal numbers of a key and a seed."""
    digest = hashlib.sha256(key.encode() + int(seed).to_bytes(8, "little")).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    return generator.standard_normal(tuple(shape), dtype=np.float32)


def build(
    manifest: dict[str, Any], which: str, seed: int, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Weights of one file by upstream's keys; ``which`` is ``s1``, ``s2`` or ``voc``."""
    arch = manifest.get("arch") or {"n_layer": manifest["config"]["model"]["n_layer"]}
    weights = {}
    for tensor in manifest["tensors"]:
        key, shape = tensor["key"], tensor["shape"]
        made = _scaled(key, shape, normal(prefix + key, shape, seed), which, arch)
        assert made.dtype == np.float32
        weights[key] = torch.from_numpy(np.ascontiguousarray(made))
    return weights


def _scaled(key: str, shape: Sequence[int], n: Array, which: str, arch: dict[str, Any]) -> Array:
    last = key.rsplit(".", 1)[-1]
    if key.endswith("rotary_embed.inv_freq"):
        exponents = torch.arange(0, 2 * shape[0], 2).float() / (2 * shape[0])
        return np.asarray((1.0 / (10000**exponents)).numpy())
    if key.endswith("_codebook.inited"):
        return np.ones(shape, f32)
    if key.endswith("_codebook.cluster_size"):
        return np.abs(n) * f32(10) + f32(5)
    if last == "alpha":
        return f32(0.4 if "audio" in key else 1.0) + f32(0.05) * n
    if key.endswith("ar_audio_embedding.word_embeddings.weight"):
        return f32(1.2) * n
    if key.endswith(("_codebook.embed", "_codebook.embed_avg", "embeddings.weight")):
        return n
    if key.endswith("text_embedding.weight"):
        return n
    if "emb_rel_" in key:
        return n * f32(shape[-1] ** -0.5)
    if last == "weight_g":
        return f32(0.5 if "cond_layer" in key else 1.2) * np.exp(f32(0.1) * n)
    if "grn." in key:
        return f32(0.3) * n
    if len(shape) == 1 and last in ("gamma", "weight"):
        return f32(1) + f32(0.05) * n
    if len(shape) == 1 or last in ("bias", "beta", "in_proj_bias"):
        return f32(0.02) * n
    scale = _vocoder_scale(key, shape, arch) if which == "voc" else _scale(key, shape, arch)
    return n * f32(scale)


def _scale(key: str, shape: Sequence[int], arch: dict[str, Any]) -> float:
    scale = 1.0 / math.sqrt(int(np.prod(shape[1:])))
    for parts, factor, over_layers in _FACTORS:
        if any(part in key for part in parts):
            scale *= factor / math.sqrt(arch["n_layer"]) if over_layers else factor
    return scale


def _vocoder_scale(key: str, shape: Sequence[int], arch: dict[str, Any]) -> float:
    if key.startswith("ups."):
        rate = arch["voc_upsample_rates"][int(key.split(".")[1])]
        return 1.2 / math.sqrt(shape[0] * shape[2] / rate)
    factor = {"conv_pre": 0.25, "conv_post": 0.10}.get(key.split(".")[0], 1.0)
    return factor / math.sqrt(int(np.prod(shape[1:])))
