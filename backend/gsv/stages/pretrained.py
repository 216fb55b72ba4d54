"""HuBERT and BERT from their converted folders, ready to be called."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from gsv.checkpoints.store import load_module_state
from gsv.errors import CheckpointError
from gsv.models.pretrained import BERT_SKIPPED_LAYERS, CharacterFeatures, SpeechFeatures

try:
    from transformers.initialization import no_init_weights  # from 5 on
except ImportError:
    from transformers.modeling_utils import no_init_weights

_MAX_CHARACTERS = 510  # BERT has 512 positions, two of them for [CLS] and [SEP]
_BATCH_TOKENS = 4_096  # of a padded batch; bounds the memory


def load_hubert(folder: Path, device: str, dtype: torch.dtype = torch.float32) -> SpeechFeatures:
    """HuBERT from a folder that ``gsv prepare`` wrote.

    Raises:
        CheckpointError: the files don't fit together.
    """
    config = HubertConfig.from_json_file(folder / "config.json")
    hubert = _load(HubertModel, folder, config)
    return SpeechFeatures(hubert).to(device, dtype).eval().requires_grad_(False)


def load_bert(
    folder: Path, device: str, dtype: torch.dtype = torch.float32, cache_size: int = 512
) -> BertFeatures:
    """BERT and its vocabulary from a folder that ``gsv prepare`` wrote.

    Raises:
        CheckpointError: the files don't fit together.
    """
    config = BertConfig.from_json_file(folder / "config.json")
    config.num_hidden_layers -= BERT_SKIPPED_LAYERS
    bert = _load(BertModel, folder, config, add_pooling_layer=False)
    model = CharacterFeatures(bert).to(device, dtype).eval().requires_grad_(False)
    # Not splitlines: some tokens are characters that Python takes for line ends as well.
    tokens = (folder / "vocab.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    return BertFeatures(model, {token: i for i, token in enumerate(tokens)}, device, cache_size)


def _load(kind: Any, folder: Path, config: Any, **arguments: Any) -> nn.Module:
    with no_init_weights():  # random numbers for 300 million weights take seconds
        module: nn.Module = kind(config, **arguments)
    state = load_module_state(folder / "model.safetensors")
    layers: int = config.num_hidden_layers
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
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.full((len(rows), int(lengths.max())), ids["[PAD]"])
        for target, row in zip(tokens, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        features = self._model(tokens.to(self._device), lengths.to(self._device))
        return [row.cpu().numpy() for row in features]

    def _nothing(self) -> NDArray[np.float32]:
        return np.zeros((0, self._model.width), np.float32)
