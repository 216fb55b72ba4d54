"""LoRA files of v4, against upstream's merged weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints.files import lora_content, save
from golden import case_weights, has_case, load_case, manifest, sovits_config

from gsv.checkpoints import convert
from gsv.checkpoints.lora import read_lora
from gsv.checkpoints.reader import read_checkpoint
from gsv.errors import CheckpointError

A = "cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q.lora_A.default.weight"


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return lora_content()


def base_tensors(folder: Path) -> dict[str, torch.Tensor]:
    layout = manifest("s2Gv4", "tiny")
    content = {"weight": case_weights("s2", "tiny"), "info": "x"}
    content |= {"config": layout["config"], "arch": layout["arch"]}
    return convert.convert_sovits(read_checkpoint(save(content, folder / "s2.pth"))).tensors


@pytest.mark.golden
@pytest.mark.skipif(not has_case("tiny_lora"), reason="no tiny_lora case")
def test_merges_as_upstream(content: dict[str, Any], tmp_path: Path) -> None:
    lora = read_lora(save(content, tmp_path / "lora.pth", header=b"04"), sovits_config("tiny"))
    assert lora.rank == 8
    assert lora.unknown == []
    merged = lora.merge(base_tensors(tmp_path))
    case = load_case("tiny_lora")
    attention = "flow.estimator.blocks.0.attention"
    case.check("merged_to_q0", merged[f"{attention}.query.weight"])
    case.check("merged_to_out0", merged[f"{attention}.output.weight"])
    case.check("inv_freq", merged["flow.estimator.inverse_frequencies"].float())


def test_leaves_the_base_alone(content: dict[str, Any], tmp_path: Path) -> None:
    base = base_tensors(tmp_path)
    before = {name: value.clone() for name, value in base.items()}
    read_lora(save(content, tmp_path / "lora.pth", header=b"04"), sovits_config("tiny")).merge(base)
    assert all(torch.equal(base[name], value) for name, value in before.items())


def refused(content: dict[str, Any], folder: Path, word: str, header: bytes = b"04") -> None:
    with pytest.raises(CheckpointError, match=word):
        read_lora(save(content, folder / "lora.pth", header=header), sovits_config("tiny"))


def test_other_versions_and_files(content: dict[str, Any], tmp_path: Path) -> None:
    refused(content, tmp_path, "this is a v3 SoVITS LoRA file", header=b"03")
    full = {"weight": case_weights("s2", "tiny"), "config": {"model": {"version": "v4"}}}
    refused(full, tmp_path, "this is a v4 SoVITS file; wanted: a LoRA file", header=b"PK")


def test_wrong_ranks_and_shapes(content: dict[str, Any], tmp_path: Path) -> None:
    refused(content | {"lora_rank": 16}, tmp_path, "does not fit")
    refused(content | {"lora_rank": 0}, tmp_path, "lora_rank is 0")
    refused(content | {"lora_rank": 1 << 20}, tmp_path, "lora_rank")
    refused(lora_content(129), tmp_path, "lora_rank is 129; allowed: 1 to 128")
    refused(content | {"lora_rank": True}, tmp_path, "lora_rank is True")
    refused({k: v for k, v in content.items() if k != "lora_rank"}, tmp_path, "lora_rank is None")
    half = copy.copy(content)
    half["weight"] = {k: v for k, v in content["weight"].items() if k != A}
    refused(half, tmp_path, "does not fit the base model of v4 in: flow.estimator.blocks.0")
    wide = copy.copy(content)
    wide["weight"] = content["weight"] | {A: torch.ones(8, 65)}
    refused(wide, tmp_path, "does not fit")
    for value in (torch.inf, torch.nan):
        infinite = copy.copy(content)
        infinite["weight"] = content["weight"] | {A: torch.full((8, 64), value)}
        refused(infinite, tmp_path, "does not fit")
