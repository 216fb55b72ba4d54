"""Conversion is exact, complete, and strict about what it is given."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.files import HParams, save
from golden import case_weights, sovits_config, vocoder_config

from gsv.checkpoints import convert
from gsv.checkpoints.reader import read_checkpoint
from gsv.config import GPTConfig
from gsv.errors import CheckpointError
from gsv.models.gpt import SemanticGPT
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder

Content = dict[str, Any]


@pytest.fixture(scope="module")
def contents(demo: Path) -> dict[str, Content]:
    names = {"s1": "s1v3.ckpt", "s2": "gsv-v4-pretrained/s2Gv4.pth"}
    files = names | {"voc": "gsv-v4-pretrained/vocoder.pth"}
    return {k: torch.load(demo / v, weights_only=True) for k, v in files.items()}


CONVERTERS: dict[str, Callable[..., Any]] = {
    "s1": convert.convert_gpt, "s2": convert.convert_sovits, "voc": convert.convert_vocoder,
}  # fmt: skip


def converted(which: str, content: Content, folder: Path) -> Any:
    return CONVERTERS[which](read_checkpoint(save(content, folder / f"{which}.pth")))


def refused(which: str, content: Content, folder: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        converted(which, content, folder)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_modules_load_the_result_strictly(contents: dict[str, Content], tmp_path: Path) -> None:
    gpt = converted("s1", contents["s1"], tmp_path)
    assert gpt.config == GPTConfig(hidden_dim=64, heads=4, layers=2)
    SemanticGPT(gpt.config).load_state_dict(gpt.tensors, strict=True)
    sovits = converted("s2", contents["s2"], tmp_path)
    assert sovits.config == sovits_config("tiny")
    SoVITS(sovits.config).load_state_dict(sovits.tensors, strict=True)
    vocoder = converted("voc", contents["voc"], tmp_path)
    assert vocoder.config == vocoder_config("tiny")
    Vocoder(vocoder.config).load_state_dict(vocoder.tensors, strict=True)
    assert gpt.unknown == sovits.unknown == vocoder.unknown == []


def test_values_are_kept_and_weight_norms_folded(tmp_path: Path) -> None:
    weights = case_weights("s2", "tiny")
    content = {"weight": weights, **official_config()}
    tensors = converted("s2", content, tmp_path).tensors
    same = "enc_p.text_embedding.weight", "text_encoder.phoneme_embedding.weight"
    assert torch.equal(tensors[same[1]], weights[same[0]])
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(48, 96, 5))
    layer.parametrizations.weight.original0.data = weights["wns1.enc.in_layers.1.weight_g"]
    layer.parametrizations.weight.original1.data = weights["wns1.enc.in_layers.1.weight_v"]
    torch.testing.assert_close(tensors["wavenet.gates.1.weight"], layer.weight.detach())


def official_config() -> Content:
    from golden import manifest

    layout = manifest("s2Gv4", "tiny")
    return {"config": layout["config"], "arch": layout["arch"], "info": "x"}


def test_half_precision_is_kept_but_folded_weights_are_float32(
    contents: dict[str, Content], tmp_path: Path
) -> None:
    content = copy.copy(contents["s2"])
    content["weight"] = {k: v.half() for k, v in content["weight"].items()}
    tensors = converted("s2", content, tmp_path).tensors
    assert tensors["bridge.weight"].dtype == torch.float16
    assert tensors["wavenet.gates.0.weight"].dtype == torch.float32


def test_newer_weight_norm_names(contents: dict[str, Content], tmp_path: Path) -> None:
    expected = converted("s2", contents["s2"], tmp_path).tensors
    content = copy.copy(contents["s2"])
    content["weight"] = {
        k.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): v
        for k, v in content["weight"].items()
    }
    tensors = converted("s2", content, tmp_path).tensors
    assert all(torch.equal(tensors[name], value) for name, value in expected.items())


def test_config_as_upstream_object(contents: dict[str, Content], tmp_path: Path) -> None:
    content = contents["s2"] | {"config": HParams(**contents["s2"]["config"])}
    assert converted("s2", content, tmp_path).config == sovits_config("tiny")


def test_unknown_tensors_are_listed_and_dropped(
    contents: dict[str, Content], tmp_path: Path
) -> None:
    content = copy.copy(contents["s2"])
    extra = {"enc_q.pre.weight": torch.ones(3), "new.thing": torch.ones(2)}
    content["weight"] = content["weight"] | extra
    result = converted("s2", content, tmp_path)
    assert result.unknown == list(extra)
    assert set(result.tensors) == set(converted("s2", contents["s2"], tmp_path).tensors)


@pytest.mark.parametrize("which", ["s1", "s2", "voc"])
def test_missing_tensors_and_wrong_shapes(
    contents: dict[str, Content], tmp_path: Path, which: str
) -> None:
    content = contents[which]
    nested = "weight" in content
    weights = dict(content["weight"] if nested else content)
    key = [k for k in weights if k.endswith("bias")][-1]
    value = weights.pop(key)

    def put(changed: dict[str, torch.Tensor]) -> Content:
        return content | {"weight": changed} if nested else changed

    refused(which, put(weights), tmp_path, "missing")
    longer = weights | {key: torch.cat([value, value])}
    refused(which, put(longer), tmp_path, "wrong shapes", "instead of")
    broken = weights | {key: torch.full_like(value, torch.nan)}
    refused(which, put(broken), tmp_path, "not finite")


def test_long_lists_are_shortened(contents: dict[str, Content], tmp_path: Path) -> None:
    weights = {k: v for k, v in contents["s2"]["weight"].items() if "encoder_text" not in k}
    refused("s2", contents["s2"] | {"weight": weights}, tmp_path, "missing", " more")


@pytest.mark.parametrize(
    ("section", "key", "value", "word"),
    [
        ("data", "sampling_rate", 24_000, "sampling_rate is 24000 Hz; v4 needs 32000 Hz"),
        ("data", "hop_length", 320, "hop_length"),
        ("data", "win_length", 1024, "win_length"),
        ("model", "n_layers", 3, "missing"),
        ("model", "n_layers", "six", "'six'"),
        ("model", "n_heads", 0, "n_heads is 0"),
        ("model", "hidden_channels", 1 << 40, "hidden_channels"),
        ("model", "gin_channels", None, "gin_channels"),
    ],
)
def test_wrong_settings(
    contents: dict[str, Content], tmp_path: Path, section: str, key: str, value: Any, word: str
) -> None:
    content = copy.deepcopy(contents["s2"])
    content["config"][section][key] = value
    refused("s2", content, tmp_path, word)
    del content["config"][section][key]
    refused("s2", content, tmp_path, key)
    del content["config"][section]
    refused("s2", content, tmp_path, section)


@pytest.mark.parametrize(
    ("key", "value"), [("EOS", 1023), ("phoneme_vocab_size", 512), ("n_layer", 3), ("head", 5)]
)
def test_wrong_gpt_settings(
    contents: dict[str, Content], tmp_path: Path, key: str, value: int
) -> None:
    content = copy.deepcopy(contents["s1"])
    content["config"]["model"][key] = value
    refused("s1", content, tmp_path)


def test_a_vocoder_of_another_rate(contents: dict[str, Content], tmp_path: Path) -> None:
    weights = dict(contents["voc"])
    weights["ups.0.weight"] = weights["ups.0.weight"][:, :, :10]
    refused("voc", weights, tmp_path, "240 samples of each mel frame (24,000 Hz)", "480")


def test_a_generator_in_place_of_a_vocoder(contents: dict[str, Content], tmp_path: Path) -> None:
    refused("voc", contents["s2"], tmp_path, "this is a v4 SoVITS file; wanted: the 48 kHz vocoder")
    refused("s2", contents["voc"], tmp_path, "this is a vocoder; wanted: the v4 generator")
    refused("s1", contents["s2"], tmp_path, "wanted: the semantic model s1v3.ckpt")
