"""Fine-tuned checkpoints of the tiny models, in upstream's formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from checkpoints.files import lora_content, save
from golden import case_weights, manifest, sovits_config
from gpt_models import golden_config

from gsv.checkpoints.voice_editing import Shapes


def tiny_shapes() -> Shapes:
    """The configurations of the tiny base models."""
    return Shapes(golden_config("tiny"), sovits_config("tiny"))


def gpt_file(path: Path, seed: int = 5) -> Path:
    """A GPT as fine-tuning saves it: half precision."""
    weights = {key: value.half() for key, value in case_weights("s1", "tiny", seed).items()}
    content = {"weight": weights, "config": manifest("s1v3", "tiny")["config"], "info": "GPT-e15"}
    return save(content, path)


def lora_file(path: Path, rank: int = 8, scale: float = 1.0, header: bytes = b"04") -> Path:
    """A LoRA by the golden rule, its matrices scaled."""
    content = lora_content(rank)
    weight: dict[str, torch.Tensor] = content["weight"]
    content["weight"] = {k: v * scale if "lora_B" in k else v for k, v in weight.items()}
    return save(content, path, header=header)


def full_file(path: Path, seed: int = 6) -> Path:
    """A full SoVITS v4 of other weights than the base."""
    layout = manifest("s2Gv4", "tiny")
    config: dict[str, Any] = {**layout["config"]}
    config["model"] = {**config["model"], "version": "v4"}
    weights = {key: value.half() for key, value in case_weights("s2", "tiny", seed).items()}
    return save({"weight": weights, "config": config, "arch": layout["arch"], "info": "x"}, path)
