"""HuBERT and BERT from their converted folders, ready to be called."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gsv.checkpoints.store import load_module_state
from gsv.device import upload
from gsv.errors import CheckpointError
from gsv.models.bert import Bert, BertSizes
from gsv.models.hubert import Hubert, HubertSizes
from gsv.models.pretrained import BERT_SKIPPED_LAYERS, CharacterFeatures, SpeechFeatures

Sizes = TypeVar("Sizes", BertSizes, HubertSizes)
Module = TypeVar("Module", Bert, Hubert)

# What the published networks have, and ours know no other of; by the names of config.json.
_BERT = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
_HUBERT = {
    "hidden_act": "gelu", "feat_extract_activation": "gelu", "feat_extract_norm": "group",
    "conv_bias": False, "do_stable_layer_norm": False, "feat_proj_layer_norm": True,
    "conv_pos_batch_norm": False,
}  # fmt: skip
_MAX_CHARACTERS = 510  # BERT has 512 positions, two of them for [CLS] and [SEP]
_BATCH_TOKENS = 4_096  # of a padded batch; bounds the memory


def load_hubert(folder: Path, device: str, dtype: torch.dtype = torch.float32) -> SpeechFeatures:
    """HuBERT from a folder that ``gsv prepare`` wrote.

    Raises:
        CheckpointError: the files don't fit together.
    """
    config = _config(folder, _HUBERT)
    hubert = _load(Hubert, _sizes(HubertSizes, config), folder)
    return SpeechFeatures(hubert).to(device, dtype).eval().requires_grad_(False)


def load_bert(
    folder: Path, device: str, dtype: torch.dtype = torch.float32, cache_size: int = 512
) -> BertFeatures:
    """BERT and its vocabulary from a folder that ``gsv prepare`` wrote.

    Raises:
        CheckpointError: the files don't fit together.
    """
    config = _config(folder, _BERT)
    sizes = _sizes(BertSizes, config)
    layers = sizes.num_hidden_layers - BERT_SKIPPED_LAYERS
    bert = _load(Bert, dataclasses.replace(sizes, num_hidden_layers=layers), folder)
    model = CharacterFeatures(bert).to(device, dtype).eval().requires_grad_(False)
    # Not splitlines: some tokens are characters that Python takes for line ends as well.
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return BertFeatures(model, {token: i for i, token in enumerate(tokens)}, device, cache_size)


def _config(folder: Path, required: dict[str, Any]) -> dict[str, Any]:
    """``config.json``; CheckpointError when a field has another value than the required one."""
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {error}; prepare the model repository with `gsv prepare`"
        ) from error
    for name, value in required.items():
        if (given := config.get(name, value)) != value:
            raise CheckpointError(f"{path}: {name} is {given!r}; allowed: {value!r}")
    return config


def _sizes(kind: type[Sizes], config: dict[str, Any]) -> Sizes:
    names = [field.name for field in dataclasses.fields(kind)]
    values: dict[str, Any] = {name: config[name] for name in names if name in config}
    for name, value in values.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def _load(kind: Callable[[Sizes], Module], sizes: Sizes, folder: Path) -> Module:
    module = kind(sizes)
    state = load_module_state(folder / "model.safetensors")
    layers: int = sizes.num_hidden_layers
    state = {key: value for key, value in state.items() if _layer(key) < layers}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights and config.json disagree: {error}") from error
    return module


def _layer(key: str) -> int:
    """The encoder layer that a tensor belongs to; -1 when it is in none."""
    match = re.match(r"encoder\.layers?\.(\d+)\.", key)
    return int(match.group(1)) if match else -1


class BertFeatures:
    """Features of Chinese texts, a row a character; the texts used last are kept.

    Args:
        model: on ``device``.
        vocabulary: ids by token.
        device: where the model is.
        cache_size: texts kept.
    """

    def __init__(
        self, model: CharacterFeatures, vocabulary: dict[str, int], device: str, cache_size: int
    ) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._device = device
        self._cache: OrderedDict[str, NDArray[np.float32]] = OrderedDict()
        self._cache_size = cache_size

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """float32 [characters, 1024] of each text."""
        known = {text: self._cache[text] for text in texts if text in self._cache}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        known |= dict(zip(missing, self._encode(missing), strict=True))
        for text in texts:
            self._cache[text] = known[text]
            self._cache.move_to_end(text)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return [known[text] for text in texts]

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Encode texts in batches of about equal length; a text longer than BERT's is cut."""
        pieces = [
            (row, text[start : start + _MAX_CHARACTERS])
            for row, text in enumerate(texts)
            for start in range(0, len(text), _MAX_CHARACTERS)
        ]
        order = sorted(range(len(pieces)), key=lambda index: len(pieces[index][1]))
        features: dict[int, NDArray[np.float32]] = {}
        while order:
            longest = len(pieces[order[-1]][1]) + 2
            count = max(1, _BATCH_TOKENS // longest)
            batch, order = order[-count:], order[:-count]
            encoded = self._batch([pieces[index][1] for index in batch])
            features.update(zip(batch, encoded, strict=True))
        rows: list[list[NDArray[np.float32]]] = [[] for _ in texts]
        for index, (row, _) in enumerate(pieces):
            rows[row].append(features[index])
        return [np.concatenate(row) if row else self._nothing() for row in rows]

    @torch.inference_mode()
    def _batch(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        ids = self._vocabulary
        # One token a character, which is what WordPiece makes of Chinese; so rows and characters
        # never get out of step, also where a letter or digit has slipped through.
        rows = [
            [ids["[CLS]"], *(ids.get(char, ids["[UNK]"]) for char in text), ids["[SEP]"]]
            for text in texts
        ]
        lengths = [len(row) for row in rows]
        tokens = np.full((len(rows), max(lengths)), ids["[PAD]"], np.int64)
        for target, row in zip(tokens, rows, strict=True):
            target[: len(row)] = row
        features = self._model(upload(tokens, self._device), lengths)
        return [row.numpy().copy() for row in features]  # a kept row keeps nothing else

    def _nothing(self) -> NDArray[np.float32]:
        return np.zeros((0, self._model.width), np.float32)
