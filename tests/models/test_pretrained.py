"""HuBERT and BERT as they are loaded from a prepared folder, against transformers' own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from gsv.errors import CheckpointError
from gsv.stages.pretrained import load_bert, load_hubert

pytestmark = pytest.mark.usefixtures("no_grad")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"你好世界天气，。a1"]


def prepared(folder: Path, model: torch.nn.Module) -> Path:
    model.eval()
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> tuple[Path, BertModel]:
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=48,
    )
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False)
    return prepared(tmp_path, model), model


def test_bert_gives_the_third_hidden_state_from_the_end(bert: tuple[Path, BertModel]) -> None:
    folder, model = bert
    texts = ["你好世界", "天", "天气，a1。", ""]
    features = load_bert(folder, "cpu")(texts)
    assert [len(f) for f in features] == [4, 1, 6, 0]
    for text, feature in zip(texts[:3], features, strict=False):
        ids = [VOCABULARY.index(t) for t in ("[CLS]", *text, "[SEP]")]
        hidden = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-3]
        np.testing.assert_allclose(feature, hidden[0, 1:-1].numpy(), atol=1e-5)


def test_bert_texts_of_any_length_and_unknown_characters(bert: tuple[Path, BertModel]) -> None:
    features = load_bert(bert[0], "cpu", cache_size=1)
    long = "你好" * 400
    (whole,) = features([long])
    assert whole.shape == (800, 32)
    (start,) = features([long[:510]])
    np.testing.assert_allclose(whole[:510], start, atol=1e-5)
    assert features(["龘"])[0].shape == (1, 32)


def test_bert_folder_that_does_not_fit(bert: tuple[Path, BertModel]) -> None:
    folder, model = bert
    config = model.config.to_dict() | {"num_hidden_layers": 9}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"weights and config.json disagree"):
        load_bert(folder, "cpu")


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_hubert_hears_the_wave_as_it_is(tmp_path: Path) -> None:
    config = HubertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    torch.manual_seed(0)
    model = HubertModel(config)
    hubert = load_hubert(prepared(tmp_path, model), "cpu")
    wave = torch.randn(1, 16000) * 0.3 + 0.1
    features = hubert(wave)
    assert features.shape == (1, 32, (16000 - 400) // 320 + 1)
    torch.testing.assert_close(features, model(wave).last_hidden_state.mT)


def test_rows_of_several_lengths_are_as_alone(bert: tuple[Path, BertModel]) -> None:
    features = load_bert(bert[0], "cpu", cache_size=0)
    texts = ["你好世界天气", "天", "天气"]
    for text, together in zip(texts, features(texts), strict=True):
        np.testing.assert_allclose(together, features([text])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_act", "relu"), ("position_embedding_type", "relative_key")]
)
def test_another_network_is_refused(bert: tuple[Path, BertModel], field: str, value: str) -> None:
    folder, model = bert
    config = model.config.to_dict() | {field: value}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"{field} is '{value}'; allowed: '"):
        load_bert(folder, "cpu")
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="config.json.*gsv prepare"):
        load_bert(folder, "cpu")


def test_nothing_of_transformers_is_imported() -> None:
    """It takes as long as PyTorch itself, at each start of a process."""
    stages = "gsv.stages.text_frontend, gsv.stages.reference_encoder"
    program = f"import sys, {stages}; sys.exit('transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
