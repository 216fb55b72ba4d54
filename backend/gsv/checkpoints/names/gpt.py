"""Names of ``s1v3.ckpt`` → names of ``gsv.models.gpt.SemanticGPT``."""

from __future__ import annotations

import re

_WHOLE = {
    "model.bert_proj.weight": "bert_projection.weight",
    "model.bert_proj.bias": "bert_projection.bias",
    "model.ar_text_embedding.word_embeddings.weight": "text_embedding.weight",
    "model.ar_text_position.alpha": "text_alpha",
    "model.ar_audio_embedding.word_embeddings.weight": "audio_embedding.weight",
    "model.ar_audio_position.alpha": "audio_alpha",
    "model.ar_predict_layer.weight": "head.weight",
}
_IN_LAYER = {
    "self_attn.in_proj_weight": "attention.qkv.weight",
    "self_attn.in_proj_bias": "attention.qkv.bias",
    "self_attn.out_proj.weight": "attention.output.weight",
    "self_attn.out_proj.bias": "attention.output.bias",
    "linear1.weight": "expand.weight",
    "linear1.bias": "expand.bias",
    "linear2.weight": "contract.weight",
    "linear2.bias": "contract.bias",
    "norm1.weight": "attention_norm.weight",
    "norm1.bias": "attention_norm.bias",
    "norm2.weight": "feed_forward_norm.weight",
    "norm2.bias": "feed_forward_norm.bias",
}
_LAYER = re.compile(r"model\.h\.layers\.(\d+)\.(.+)")


def rename(key: str) -> str | None:
    """Our name for one key of the file.

    Returns:
        The name; None for a key that is dropped on purpose (this file has none).

    Raises:
        KeyError: the key is not one of this file's.
    """
    match = _LAYER.fullmatch(key)
    if match is None:
        return _WHOLE[key]
    layer, rest = match.groups()
    return f"layers.{layer}.{_IN_LAYER[rest]}"
