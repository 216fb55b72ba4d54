"""HuBERT and BERT folders: what is written loads strictly, and wrong folders are named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.files import marker_bomb, save
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from gsv.checkpoints.pretrained import BERT_FOLDER, HUBERT_FOLDER, convert_bert, convert_hubert
from gsv.errors import CheckpointError


@pytest.fixture
def hubert(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo / HUBERT_FOLDER, tmp_path / HUBERT_FOLDER))


@pytest.fixture
def bert(demo: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo / BERT_FOLDER, tmp_path / BERT_FOLDER))


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))


def test_hubert_loads_strictly_and_sounds_alike(hubert: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert_hubert(hubert, out, 40, official=False) == []
    model = HubertModel(HubertConfig.from_json_file(out / "config.json")).eval()
    model.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    # transformers' own loader, which knows the older names of the weight norm, must agree.
    loaded = HubertModel.from_pretrained(hubert).eval()
    wave = torch.randn(1, 16_000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model(wave)[0], loaded(wave)[0])
        assert model(wave)[0].shape == (1, (16_000 - 400) // 320 + 1, 40)


def test_hubert_from_safetensors_and_other_prefix(hubert: Path, tmp_path: Path) -> None:
    convert_hubert(hubert, tmp_path / "expected", 40, official=False)
    tensors = load_file(tmp_path / "expected" / "model.safetensors")
    (hubert / "pytorch_model.bin").unlink()
    prefixed = {f"hubert.{k}": v for k, v in tensors.items()}
    save_file(prefixed | {"lm_head.weight": torch.ones(2)}, hubert / "model.safetensors")
    notes = convert_hubert(hubert, tmp_path / "out", 40, official=False)
    assert notes == []
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(read[k], v) for k, v in tensors.items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 768}, "hidden_size is 768; v4 needs 40"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "samples between frames is 160; v4 needs 320"),
        ({"conv_kernel": [10, 3, 3, 3, 3, 2, 3]}, "samples of a frame"),
        ({"conv_stride": "x"}, "conv_kernel or conv_stride"),
        ({"model_type": "wav2vec2"}, "model_type is 'wav2vec2'; wanted: hubert"),
        ({"num_hidden_layers": 3}, "tensors are missing: encoder.layers.2"),
        ({"intermediate_size": 79}, "wrong shapes"),
        ({"num_attention_heads": 7}, "no possible network"),
    ],
)
def test_wrong_hubert_settings(
    hubert: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    edit(hubert / "config.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        convert_hubert(hubert, tmp_path / "out", 40, official=False)


def test_wrong_hubert_rate_and_size(hubert: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="hidden_size is 40; v4 needs 768"):
        convert_hubert(hubert, tmp_path / "out", 768, official=True)
    edit(hubert / "preprocessor_config.json", sampling_rate=8000)
    with pytest.raises(CheckpointError, match="sampling_rate is 8000 Hz; v4 needs 16000"):
        convert_hubert(hubert, tmp_path / "out", 40, official=False)


def test_hostile_and_missing_files(hubert: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    save({"a": marker_bomb(marker)}, hubert / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="nothing was run"):
        convert_hubert(hubert, tmp_path / "out", 40, official=False)
    assert not marker.exists()
    (hubert / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="neither model.safetensors nor pytorch_model.bin"):
        convert_hubert(hubert, tmp_path / "out", 40, official=False)
    (hubert / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not readable as JSON"):
        convert_hubert(hubert, tmp_path / "out", 40, official=False)


def test_bert_loads_strictly(bert: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert_bert(bert, out, official=False) == []
    model = BertModel(BertConfig.from_json_file(out / "config.json"), add_pooling_layer=False)
    model.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    tokens = (out / "vocab.txt").read_text(encoding="utf-8").split("\n")
    table = json.loads((bert / "tokenizer.json").read_text())["model"]["vocab"]
    assert {token: i for i, token in enumerate(tokens[:-1])} == table


def test_names_of_old_bert_files(bert: Path, tmp_path: Path) -> None:
    convert_bert(bert, tmp_path / "expected", official=False)
    weights = torch.load(bert / "pytorch_model.bin", weights_only=True)
    renamed = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): v
        for k, v in weights.items()
    }
    renamed["bert.embeddings.position_ids"] = torch.arange(512)
    renamed["bert.pooler.dense.bias"] = torch.ones(3)
    renamed["cls.predictions.bias"] = torch.ones(3)
    renamed["bert.new"] = torch.ones(3)
    save(renamed, bert / "pytorch_model.bin")
    notes = convert_bert(bert, tmp_path / "out", official=False)
    assert notes == [f"{BERT_FOLDER}: unknown tensors dropped: new"]
    expected = load_file(tmp_path / "expected" / "model.safetensors")
    read = load_file(tmp_path / "out" / "model.safetensors")
    assert set(read) == set(expected)
    assert all(torch.equal(read[k], v) for k, v in expected.items())


def test_vocabulary_file(bert: Path, tmp_path: Path) -> None:
    (bert / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="neither vocab.txt nor tokenizer.json"):
        convert_bert(bert, tmp_path / "out", official=False)
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2028", "\x85", "你"]
    (bert / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    convert_bert(bert, tmp_path / "out", official=False)
    written = (tmp_path / "out" / "vocab.txt").read_text(encoding="utf-8")
    assert written.split("\n")[:-1] == tokens
    (bert / "vocab.txt").write_text("\n".join(tokens[2:]), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"lacks \[PAD\], \[UNK\]"):
        convert_bert(bert, tmp_path / "out", official=False)
    many = tokens + [f"t{n}" for n in range(10_000)]
    (bert / "vocab.txt").write_text("\n".join(many), encoding="utf-8")
    with pytest.raises(CheckpointError, match="10007 tokens, but only"):
        convert_bert(bert, tmp_path / "out", official=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 768}, "hidden_size is 768; v4 needs 1024"),
        ({"num_hidden_layers": 1}, "num_hidden_layers is 1; v4 needs at least 2"),
        ({"model_type": "roberta"}, "model_type is 'roberta'"),
    ],
)
def test_wrong_bert_settings(
    bert: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    edit(bert / "config.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        convert_bert(bert, tmp_path / "out", official=False)


def test_the_official_size_is_required_beside_official_files(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="num_hidden_layers is 3; v4 needs 24"):
        convert_bert(bert, tmp_path / "out", official=True)


def test_swapped_folders(hubert: Path, bert: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="model_type is 'bert'; wanted: hubert"):
        convert_hubert(bert, tmp_path / "out", 40, official=False)
    shutil.copyfile(bert / "pytorch_model.bin", hubert / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match="this is a BERT text encoder; wanted: chinese-hubert"
    ):
        convert_hubert(hubert, tmp_path / "out", 40, official=False)
