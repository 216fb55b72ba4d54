"""Demo weights in the official file formats: a small voice that speaks, and random ones.

The random ones do not speak, but everything works with them, at any size.

Every tensor is drawn from its own generator, seeded by its key, and scaled so that signals keep a
plausible size on their way through the networks. The rule is that of the parity tests' weights, so
that a demo repository of seed 0 holds the very tensors that upstream's arrays were made with; only
the GPT's end-of-sentence logit is set by hand (``_let_sentences_end``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from gsv.checkpoints.convert import expected_shapes
from gsv.checkpoints.pretrained import BERT_FOLDER, HUBERT_FOLDER, OFFICIAL_BERT, OFFICIAL_HUBERT
from gsv.constants import BERT_DIM, EOS, MAX_TOKENS, SSL_RATE
from gsv.engine.gpt.judge import OTHER, Bounds, BoundsTable
from gsv.repository import demo_voice

Shape = Sequence[int]
Scale = Callable[[str, Shape], float]
Progress = Callable[[str], None]

VOICE = "voice"
SIZES = ("tiny", "full")

# The logit of the end of a sentence, the same at every step. A random GPT's best logits lie around
# 9 and come down to two thirds of that once they have been used (repetition penalty); with this
# value most sentences end by themselves after 1 to 6 s at the default sampling (measured).
EOS_LOGIT = 6.5

# The official HuBERT's seven convolutions: 50 frames a second.
_CONV_KERNELS, _CONV_STRIDES = [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]
_TINY_HUBERT = {
    "hidden_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 80,
    "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
# As wide as the official one, because the GPT's input is.
_TINY_BERT = {"hidden_size": BERT_DIM, "num_hidden_layers": 3, "intermediate_size": 64}
_FULL_VOCABULARY = 21_128


def make_demo(size: str, target: Path, *, seed: int = 0, progress: Progress | None = None) -> None:
    """Write the official files in upstream's folder layout.

    Args:
        size: ``voice`` (the trained demo voice; English, whose BERT is random and not used), or
            random content: ``tiny`` (some megabytes, float32) or ``full`` (the official shapes,
            1.8 GB, float16).
        target: folder to fill.
        seed: of all random tensors.
        progress: called with each file's name before it is made.

    Raises:
        ConfigurationError: the demo voice is not there.
    """
    if size == VOICE:
        shutil.copytree(demo_voice() / "pretrained", target, dirs_exist_ok=True)
        _make_bert(target / BERT_FOLDER, "tiny", seed)
        return
    layouts = _layouts(size)
    half = size == "full"
    makers: dict[str, Callable[[Path], None]] = {
        "s1v3.ckpt": lambda path: _make_gpt(path, layouts["s1v3"], seed, half),
        "gsv-v4-pretrained/s2Gv4.pth": lambda path: _make_sovits(
            path, layouts["s2Gv4"], seed, half, reduced=size != "full"
        ),
        "gsv-v4-pretrained/vocoder.pth": lambda path: _make_vocoder(path, layouts["vocoder"], seed),
        HUBERT_FOLDER: lambda path: _make_hubert(path, size, seed, half),
        BERT_FOLDER: lambda path: _make_bert(path, size, seed),
    }
    for name, make in makers.items():
        if progress is not None:
            progress(name)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        make(target / name)
    # No sentence of random weights is speech, so nothing is normal and nothing is judged.
    streak = {"run": MAX_TOKENS, "loop": MAX_TOKENS, "silence": MAX_TOKENS}
    wide = Bounds(fewest=1e-6, expected=1.0, most=float(MAX_TOKENS), **streak)
    BoundsTable({OTHER: wide}).save(target)


def _make_gpt(path: Path, layout: Mapping[str, Any], seed: int, half: bool) -> None:
    arrays = _draw(layout["tensors"], seed, functools.partial(_gpt_scale, layout))
    _let_sentences_end(arrays, layout["config"]["model"])
    content = {"weight": _tensors(arrays, half), "config": layout["config"], "info": "demo"}
    torch.save(content, path)


def _make_sovits(
    path: Path, layout: Mapping[str, Any], seed: int, half: bool, *, reduced: bool
) -> None:
    arrays = _draw(layout["tensors"], seed, _sovits_scale)
    content = {"weight": _tensors(arrays, half), "config": layout["config"], "info": "demo"}
    if reduced:  # upstream hard-codes these numbers; a reduced file has to say its own
        content["arch"] = layout["arch"]
    torch.save(content, path)


def _make_vocoder(path: Path, layout: Mapping[str, Any], seed: int) -> None:
    scale = functools.partial(_vocoder_scale, layout["arch"]["voc_upsample_rates"])
    arrays = _draw(layout["tensors"], seed, scale, prefix="vocoder.")
    torch.save(_tensors(arrays, half=False), path)  # float32 in both sizes, as published


def _layouts(size: str) -> dict[str, Any]:
    file = resources.files("gsv.checkpoints") / "layouts" / f"{size}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _tensors(arrays: dict[str, NDArray[np.float32]], half: bool) -> dict[str, torch.Tensor]:
    """Takes the arrays out of ``arrays`` one by one, so that both forms are never whole at once."""
    tensors = {}
    for key in list(arrays):
        value = torch.from_numpy(arrays.pop(key))
        tensors[key] = value.half() if half else value
    return tensors


def normal(key: str, shape: Shape, seed: int) -> NDArray[np.float32]:
    """Standard normal numbers that depend on key and seed only."""
    digest = hashlib.sha256(key.encode() + seed.to_bytes(8, "little")).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:8], "little")))
    return generator.standard_normal(tuple(shape), dtype=np.float32)


def _draw(
    shapes: Mapping[str, Shape], seed: int, scale: Scale, prefix: str = ""
) -> dict[str, NDArray[np.float32]]:
    return {
        key: np.ascontiguousarray(_special(key, shape, normal(prefix + key, shape, seed), scale))
        for key, shape in shapes.items()
    }


def _special(
    key: str, shape: Shape, noise: NDArray[np.float32], scale: Scale
) -> NDArray[np.float32]:
    """Gains around 1, biases around 0 and tables by their name; matrices by ``scale``."""
    last = key.rsplit(".", 1)[-1]
    if key.endswith("rotary_embed.inv_freq"):
        width = 2 * shape[0]
        exponents = torch.arange(0, width, 2).float() / width
        return np.asarray((1.0 / (10_000**exponents)).numpy())
    if key.endswith("_codebook.inited"):
        return np.ones(shape, np.float32)
    if key.endswith("_codebook.cluster_size"):
        return np.abs(noise) * np.float32(10) + np.float32(5)
    if last == "alpha":
        return np.float32(0.4 if "audio" in key else 1.0) + np.float32(0.05) * noise
    if last == "weight_g":
        level = np.float32(0.5 if "cond_layer" in key else 1.2)
        return np.asarray(level * np.exp(np.float32(0.1) * noise))
    if "grn." in key:
        return np.float32(0.3) * noise
    if len(shape) == 1 and last in ("gamma", "weight"):
        return np.float32(1) + np.float32(0.05) * noise
    if len(shape) == 1 or last in ("bias", "beta", "in_proj_bias"):
        return np.float32(0.02) * noise
    return noise * np.float32(scale(key, shape))


def _inverse_root(shape: Shape) -> float:
    """1/√(inputs of one output): keeps the variance."""
    return 1.0 / math.sqrt(math.prod(shape[1:]))


def _gpt_scale(layout: Mapping[str, Any], key: str, shape: Shape) -> float:
    if key.endswith("ar_audio_embedding.word_embeddings.weight"):
        return 1.2
    if key.endswith("word_embeddings.weight"):
        return 1.0
    scale, layers = _inverse_root(shape), layout["config"]["model"]["n_layer"]
    if key.endswith("ar_predict_layer.weight"):
        scale *= 3.0
    if "in_proj_weight" in key:
        scale *= 1.5
    if "self_attn.out_proj" in key:
        scale *= 1.0 / math.sqrt(layers)
    if "linear2." in key:
        scale *= 0.5 / math.sqrt(layers)
    return scale


# Factors on top of 1/√inputs, by a part of the key.
_SOVITS_FACTORS = {
    "conv_o.": 0.5, "conv_2.": 0.5, "wns1.proj.": 2.0, "attn_norm.linear": 1.5,
    "norm_out.linear": 1.5, ".to_q.": 1.5, ".to_k.": 1.5, ".to_out.0.": 2.0,
    "time_embed.time_mlp.0": 1.4, "d_embed.time_mlp.0": 1.4,
}  # fmt: skip


def _sovits_scale(key: str, shape: Shape) -> float:
    if key.endswith(("_codebook.embed", "_codebook.embed_avg", "text_embedding.weight")):
        return 1.0
    if "emb_rel_" in key:
        return float(shape[-1] ** -0.5)
    if key.startswith("ref_enc.fc."):
        return 0.4 * _inverse_root(shape)
    factors = (factor for part, factor in _SOVITS_FACTORS.items() if part in key)
    return math.prod(factors, start=_inverse_root(shape))


def _vocoder_scale(rates: Sequence[int], key: str, shape: Shape) -> float:
    if key.startswith("ups."):
        # A transposed convolution: each output sample depends on kernel/rate taps.
        return 1.2 / math.sqrt(shape[0] * shape[2] / rates[int(key.split(".")[1])])
    factor = 0.25 if key.startswith("conv_pre") else 0.10 if key.startswith("conv_post") else 1.0
    return factor / math.sqrt(math.prod(shape[1:]))


def _let_sentences_end(gpt: dict[str, NDArray[np.float32]], model: Mapping[str, int]) -> None:
    """Give the end of a sentence a constant logit.

    Channel 0 of the last layer's output is made 1, and the EOS row reads that channel alone. Left
    random, EOS would be drawn at once or never: sentences would run into the limit of 60 s.
    """
    last = f"model.h.layers.{model['n_layer'] - 1}.norm2"
    gpt[f"{last}.weight"][0] = 0.0
    gpt[f"{last}.bias"][0] = 1.0
    head = gpt["model.ar_predict_layer.weight"]
    head[EOS] = 0.0
    head[EOS, 0] = EOS_LOGIT


def _plain_scale(key: str, shape: Shape) -> float:
    return 1.0 if "embeddings." in key else _inverse_root(shape)


def _make_hubert(target: Path, size: str, seed: int, half: bool) -> None:
    chosen = _TINY_HUBERT if size == "tiny" else OFFICIAL_HUBERT
    config = HubertConfig.from_dict(
        chosen | {"conv_kernel": _CONV_KERNELS, "conv_stride": _CONV_STRIDES}
    )
    arrays = _draw(expected_shapes(HubertModel, config), seed, _plain_scale, prefix="hubert.")
    # The published file has the positional convolution's weight norm under its older names.
    norm = "encoder.pos_conv_embed.conv."
    direction = arrays.pop(norm + "parametrizations.weight.original1")
    arrays.pop(norm + "parametrizations.weight.original0")
    arrays[norm + "weight_v"] = direction
    arrays[norm + "weight_g"] = np.linalg.norm(direction, axis=(0, 1), keepdims=True)
    _save_folder(target, config.to_dict() | {"architectures": ["HubertModel"]}, arrays, half)
    settings = {"sampling_rate": SSL_RATE, "feature_size": 1, "do_normalize": True}
    (target / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _make_bert(target: Path, size: str, seed: int) -> None:
    tokens = _vocabulary(size)
    chosen = _TINY_BERT if size == "tiny" else OFFICIAL_BERT | {"intermediate_size": 4096}
    config = BertConfig.from_dict(chosen | {"vocab_size": len(tokens), "num_attention_heads": 16})
    bert = functools.partial(BertModel, add_pooling_layer=False)
    arrays = _draw(expected_shapes(bert, config), seed, _plain_scale, prefix="bert.")
    arrays = {f"bert.{key}": arrays.pop(key) for key in list(arrays)}
    # float16 in both sizes, as published: the width makes even the small one 34 MB.
    _save_folder(target, config.to_dict() | {"architectures": ["BertForMaskedLM"]}, arrays, True)
    vocabulary = {token: index for index, token in enumerate(tokens)}
    BertWordPieceTokenizer(vocabulary).save(str(target / "tokenizer.json"))


def _save_folder(
    target: Path, config: dict[str, Any], arrays: dict[str, NDArray[np.float32]], half: bool
) -> None:
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    torch.save(_tensors(arrays, half), target / "pytorch_model.bin")


def _vocabulary(size: str) -> list[str]:
    """Special tokens, ASCII, common marks, and single Chinese characters."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens += [chr(code) for code in range(0x21, 0x7F) if not chr(code).isupper()]
    tokens += list("，。？！、：；…—～·“”‘’（）《》")
    if size == "full":
        tokens += [chr(code) for code in range(0x4E00, 0x9FA6)]
        return tokens + [f"[unused{n}]" for n in range(1, _FULL_VOCABULARY - len(tokens) + 1)]
    # The 3,755 most common characters: GB 2312's first level, rows 16 to 55 of 94.
    cells = (bytes([row, column]) for row in range(0xB0, 0xD8) for column in range(0xA1, 0xFF))
    return tokens + [c for c in (cell.decode("gb2312", "ignore") for cell in cells) if c]
