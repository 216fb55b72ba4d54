"""The two pretrained encoders: HuBERT (speech → features) and BERT (characters → features).

Their folders are in the form of ``transformers``. Each is checked, its weights are written as
safetensors under the names that ``HubertModel`` and ``BertModel(add_pooling_layer=False)`` load
strictly, and the small files that go with them are copied.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from gsv.checkpoints.convert import expected_shapes, fit, shortened
from gsv.checkpoints.detect import Kind, require
from gsv.checkpoints.reader import Checkpoint, read_checkpoint
from gsv.checkpoints.store import save_tensors
from gsv.checkpoints.unpickle import brief
from gsv.constants import BERT_DIM, SSL_RATE
from gsv.errors import CheckpointError

HUBERT_FOLDER = "chinese-hubert-base"
BERT_FOLDER = "chinese-roberta-wwm-ext-large"
OFFICIAL_HUBERT = {"hidden_size": 768, "num_hidden_layers": 12}
OFFICIAL_BERT = {"hidden_size": BERT_DIM, "num_hidden_layers": 24}

# 50 frames a second: T = floor((n - 400) / 320) + 1.
_FRAME_SAMPLES, _FRAME_STRIDE = 400, 320
# The third hidden state from the end feeds the semantic model.
_FEWEST_BERT_LAYERS = 2
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Heads of other tasks, the pooler (unused) and a buffer that older versions stored.
_BERT_DROPPED = re.compile(r"cls\..*|pooler\..*|embeddings\.(position_ids|token_type_ids)")
_HUBERT_DROPPED = re.compile(r"(lm_head|projector|classifier|final_proj|label_embs).*")


def convert_hubert(source: Path, target: Path, ssl_dim: int, *, official: bool) -> list[str]:
    """Check the folder ``source`` and write the converted one.

    Args:
        source: with config.json and weights.
        target: folder to write to.
        ssl_dim: width that the SoVITS file expects.
        official: require the published size.

    Returns:
        Notes for people.

    Raises:
        CheckpointError: a file is missing or is not what v4 works with.
    """
    config = _read_config(source, "hubert", OFFICIAL_HUBERT if official else {})
    _equal(source, "hidden_size", config.get("hidden_size"), ssl_dim)
    frame, stride = 1, 1
    kernels, strides = (_whole(source, config.get(n)) for n in ("conv_kernel", "conv_stride"))
    for kernel, step in zip(kernels, strides, strict=False):
        frame, stride = frame + (kernel - 1) * stride, stride * step
    _equal(source, "samples between frames", stride, _FRAME_STRIDE)
    _equal(source, "samples of a frame", frame, _FRAME_SAMPLES)
    preprocessor = source / "preprocessor_config.json"
    if preprocessor.is_file():
        rate = _read_json(preprocessor).get("sampling_rate")
        if rate != SSL_RATE:
            raise CheckpointError(
                f"{preprocessor}: sampling_rate is {brief(repr(rate))} Hz; v4 needs {SSL_RATE}"
            )
    shapes = _shapes(source, HubertModel, HubertConfig, config)
    checkpoint = read_checkpoint(_weight_file(source))
    require(checkpoint, Kind.HUBERT)
    tensors = {_hubert_name(key): value for key, value in checkpoint.weights.items()}
    notes = []
    if "masked_spec_embed" in shapes and "masked_spec_embed" not in tensors:
        # Takes the place of masked frames in training; never read at inference.
        tensors["masked_spec_embed"] = torch.zeros(shapes["masked_spec_embed"])
        notes.append(f"{HUBERT_FOLDER}: masked_spec_embed is missing; zeros put in, it is not used")
    notes += _write(checkpoint, tensors, shapes, _HUBERT_DROPPED, config, target)
    return notes


def _hubert_name(key: str) -> str:
    key = key.removeprefix("hubert.")
    # transformers ≥ 4.30 registers the positional convolution's weight norm as a parametrisation.
    key = key.replace("pos_conv_embed.conv.weight_g", _POSITION_NORM + "0")
    return key.replace("pos_conv_embed.conv.weight_v", _POSITION_NORM + "1")


_POSITION_NORM = "pos_conv_embed.conv.parametrizations.weight.original"


def convert_bert(source: Path, target: Path, *, official: bool) -> list[str]:
    """Check the folder ``source`` and write the converted one, with ``vocab.txt`` in any case.

    Args:
        source: with config.json, weights, and vocab.txt or tokenizer.json.
        target: folder to write to.
        official: require the published size.

    Returns:
        Notes for people.

    Raises:
        CheckpointError: a file is missing or is not what v4 works with.
    """
    config = _read_config(source, "bert", OFFICIAL_BERT if official else {})
    _equal(source, "hidden_size", config.get("hidden_size"), BERT_DIM)
    layers = config.get("num_hidden_layers")
    if not isinstance(layers, int) or layers < _FEWEST_BERT_LAYERS:
        raise CheckpointError(
            f"{source / 'config.json'}: num_hidden_layers is {brief(repr(layers))}; "
            f"v4 needs at least {_FEWEST_BERT_LAYERS}"
        )
    bert = functools.partial(BertModel, add_pooling_layer=False)
    shapes = _shapes(source, bert, BertConfig, config)
    checkpoint = read_checkpoint(_weight_file(source))
    require(checkpoint, Kind.BERT)
    tensors = {_bert_name(key): value for key, value in checkpoint.weights.items()}
    vocabulary = _vocabulary(source)
    rows = shapes["embeddings.word_embeddings.weight"][0]
    if len(vocabulary) > rows:
        raise CheckpointError(f"{source}: {len(vocabulary)} tokens, but only {rows} embeddings")
    notes = _write(checkpoint, tensors, shapes, _BERT_DROPPED, config, target)
    (target / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return notes


def _bert_name(key: str) -> str:
    key = key.removeprefix("bert.")
    # Files converted from TensorFlow long ago name the norms' scale and shift so.
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _vocabulary(source: Path) -> list[str]:
    """Tokens in the order of their ids."""
    plain, fast = source / "vocab.txt", source / "tokenizer.json"
    if plain.is_file():
        # One token a line; some tokens are characters that Python takes for line ends as well.
        tokens = plain.read_text(encoding="utf-8").rstrip("\n").split("\n")
    elif fast.is_file():
        model = _read_json(fast).get("model")
        table = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(table, dict) or sorted(table.values()) != list(range(len(table))):
            raise CheckpointError(f"{fast}: no WordPiece vocabulary in it")
        tokens = sorted(table, key=lambda token: int(table[token]))
    else:
        raise CheckpointError(f"{source}: neither vocab.txt nor tokenizer.json is there")
    if lacking := [token for token in _SPECIAL_TOKENS if token not in tokens]:
        raise CheckpointError(f"{source}: its vocabulary lacks {', '.join(lacking)}")
    return tokens


def _write(
    checkpoint: Checkpoint,
    tensors: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    dropped: re.Pattern[str],
    config: dict[str, Any],
    target: Path,
) -> list[str]:
    save_tensors(fit(checkpoint.path, tensors, shapes), target / "model.safetensors")
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")
    unknown = [name for name in tensors if name not in shapes and not dropped.fullmatch(name)]
    if not unknown:
        return []
    return [f"{checkpoint.path.parent.name}: unknown tensors dropped: {shortened(unknown)}"]


def _shapes(source: Path, module: Any, kind: Any, config: dict[str, Any]) -> dict[str, torch.Size]:
    try:
        return expected_shapes(module, kind.from_dict(config))
    except (ValueError, RuntimeError, TypeError, KeyError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{source / 'config.json'}: describes no possible network: {brief(error)}"
        ) from error


def _weight_file(source: Path) -> Path:
    for name in _WEIGHT_FILES:
        if (source / name).is_file():
            return source / name
    raise CheckpointError(f"{source}: neither {' nor '.join(_WEIGHT_FILES)} is there")


def _read_config(source: Path, kind: str, wanted: dict[str, int]) -> dict[str, Any]:
    config = _read_json(source / "config.json")
    given = config.get("model_type")
    if given != kind:
        raise CheckpointError(
            f"{source / 'config.json'}: model_type is {brief(repr(given))}; wanted: {kind}"
        )
    for name, value in wanted.items():
        _equal(source, name, config.get(name), value)
    config.pop("auto_map", None)  # names code for transformers to load; the weights need none
    return config


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {brief(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def _equal(source: Path, name: str, given: object, wanted: int) -> None:
    if given != wanted:
        raise CheckpointError(
            f"{source / 'config.json'}: {name} is {brief(repr(given))}; v4 needs {wanted}"
        )


def _whole(source: Path, values: object) -> list[int]:
    if not isinstance(values, list) or not all(type(n) is int and n > 0 for n in values):
        raise CheckpointError(f"{source / 'config.json'}: conv_kernel or conv_stride is missing")
    return values
