"""Every file that people have at hand is recognised, and the wrong ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.files import HParams, save

from gsv.checkpoints import detect
from gsv.checkpoints.detect import Kind, identify, require
from gsv.checkpoints.reader import read_checkpoint
from gsv.errors import CheckpointError

ENCODER = {
    "enc_p.text_embedding.weight": torch.zeros(732, 4),
    "ref_enc.fc.fc.weight": torch.ones(1),
}
ENCODER_V1 = ENCODER | {"enc_p.text_embedding.weight": torch.zeros(322, 4)}
FLOW = ENCODER | {"cfm.estimator.proj_out.weight": torch.ones(1)}
DECODER = {"dec.conv_pre.weight": torch.zeros(512, 4, 7)}
PRO = {"sv_emb.weight": torch.ones(1)}
LORA = {
    "cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q.lora_A.default.weight": (
        torch.ones(1)
    )
}
GPT = "model.ar_text_embedding.word_embeddings.weight"
VOCODER = {"conv_pre.weight": torch.ones(1), "ups.0.weight": torch.ones(1)}
BIGVGAN = {"conv_pre.weight": torch.ones(1), "ups.0.0.weight_g": torch.ones(1)}


def sovits(weights: dict[str, Any], version: str | None = None) -> dict[str, Any]:
    model = {} if version is None else {"version": version}
    return {"weight": weights, "config": {"model": model}, "info": "x"}


FILES = {
    # name: content, header, kind, version
    "gpt v1": ({"weight": {GPT: torch.zeros(512, 4)}}, b"PK", Kind.GPT, "v1"),
    "gpt": ({"weight": {GPT: torch.zeros(732, 4)}}, b"PK", Kind.GPT, ""),
    "v1": (sovits(ENCODER_V1 | DECODER), b"PK", Kind.SOVITS, "v1"),
    "v2": (sovits(ENCODER | DECODER), b"PK", Kind.SOVITS, "v2"),
    "v2Pro": (sovits(ENCODER | DECODER | PRO), b"05", Kind.SOVITS, "v2Pro"),
    "v2ProPlus": (
        sovits(ENCODER | PRO | {"dec.conv_pre.weight": torch.zeros(768, 4, 7)}),
        b"06",
        Kind.SOVITS,
        "v2ProPlus",
    ),
    "v3": (sovits(FLOW, "v3"), b"PK", Kind.SOVITS, "v3"),
    "v3 by header": (sovits(FLOW, "v4"), b"02", Kind.SOVITS, "v3"),
    "v4": (sovits(FLOW, "v4"), b"PK", Kind.SOVITS, "v4"),
    "v4 of HParams": (
        {"weight": FLOW, "config": HParams(model=HParams(version="v4"))},
        b"PK",
        Kind.SOVITS,
        "v4",
    ),
    "no version": (sovits(FLOW), b"PK", Kind.SOVITS, ""),
    "impossible version": (sovits(FLOW, "v2"), b"PK", Kind.SOVITS, ""),
    "v3 LoRA": (sovits(LORA), b"03", Kind.SOVITS_LORA, "v3"),
    "v4 LoRA": (sovits(LORA), b"04", Kind.SOVITS_LORA, "v4"),
    "LoRA by config": (sovits(LORA, "v3"), b"PK", Kind.SOVITS_LORA, "v3"),
    "vocoder": (VOCODER, b"PK", Kind.VOCODER, ""),
    "BigVGAN": ({"generator": BIGVGAN}, b"PK", Kind.VOCODER, "v3"),
    "HuBERT": ({"feature_extractor.conv_layers.0.conv.weight": torch.ones(1)}, b"PK",
               Kind.HUBERT, ""),
    "BERT": ({"bert.encoder.layer.0.attention.self.query.weight": torch.ones(1)}, b"PK",
             Kind.BERT, ""),
    "discriminator": (sovits({"discriminators.0.convs.0.bias": torch.ones(1)}), b"PK",
                      Kind.TRAINING, ""),
    "GPT training": ({"state_dict": {GPT: torch.zeros(732, 4)}, "epoch": 1,
                      "pytorch-lightning_version": "2.0"}, b"PK", Kind.TRAINING, ""),
    "SoVITS training": ({"model": FLOW, "iteration": 1, "optimizer": {}}, b"PK",
                        Kind.TRAINING, ""),
    "foreign": ({"layer1.0.weight": torch.ones(1)}, b"PK", Kind.UNKNOWN, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_identify(tmp_path: Path, name: str) -> None:
    content, header, kind, version = FILES[name]
    identity = identify(read_checkpoint(save(content, tmp_path / "file", header=header)))
    assert (identity.kind, identity.version) == (kind, version)


ACCEPTED = {
    Kind.GPT: {"gpt"},
    Kind.SOVITS: {"v4", "v4 of HParams", "no version", "impossible version"},
    Kind.SOVITS_LORA: {"v4 LoRA"},
    Kind.VOCODER: {"vocoder"},
    Kind.HUBERT: {"HuBERT"},
    Kind.BERT: {"BERT"},
}


@pytest.mark.parametrize("wanted", ACCEPTED)
@pytest.mark.parametrize("name", FILES)
def test_require(tmp_path: Path, name: str, wanted: Kind) -> None:
    content, header, *_ = FILES[name]
    checkpoint = read_checkpoint(save(content, tmp_path / "file.pth", header=header))
    if name in ACCEPTED[wanted]:
        notes = require(checkpoint, wanted)
        assert bool(notes) == (name in ("no version", "impossible version"))
        return
    with pytest.raises(CheckpointError) as caught:
        require(checkpoint, wanted)
    message = str(caught.value)
    assert "this is " in message
    assert "; wanted: " in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("v1", "this is a v1 SoVITS file; wanted: the v4 generator s2Gv4.pth"),
        ("v2", "this is a v2 SoVITS file; wanted: the v4 generator s2Gv4.pth"),
        ("v3", "this is a v3 SoVITS file; wanted: the v4 generator s2Gv4.pth"),
        ("v2Pro", "this is a v2Pro SoVITS file"),
        ("v2ProPlus", "this is a v2ProPlus SoVITS file"),
        ("vocoder", "this is a vocoder; wanted: the v4 generator"),
        ("gpt", "this is a GPT file of v2 or later (732 phonemes)"),
    ],
)
def test_messages_say_what_it_is(tmp_path: Path, name: str, words: str) -> None:
    content, header, *_ = FILES[name]
    checkpoint = read_checkpoint(save(content, tmp_path / "file.pth", header=header))
    with pytest.raises(CheckpointError) as caught:
        require(checkpoint, Kind.SOVITS)
    assert words in str(caught.value)


def test_the_published_file_is_known_whatever_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = read_checkpoint(save(sovits(FLOW, "v3"), tmp_path / "s2Gv4.pth"))
    monkeypatch.setitem(detect._FINGERPRINTS, checkpoint.fingerprint, "v4")
    assert identify(checkpoint).version == "v4"
