"""BERT and HuBERT at the official checkpoints' sizes: errors of each precision, and times."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gpu_steps.precision import decibels
from gpu_steps.report import Report, Section
from gpu_steps.setup import Setup, tidy
from gpu_steps.timing import steady
from gsv.constants import SSL_RATE
from gsv.models.bert import Bert, BertSizes
from gsv.models.hubert import Hubert, HubertSizes
from gsv.models.pretrained import CharacterFeatures, SpeechFeatures

# dB; the product takes float16 for both encoders, and bfloat16 only where somebody asks for it.
_BOUNDS = {"float32": -100.0, "float16": -50.0, "bfloat16": -30.0}
_BERT = BertSizes(
    vocab_size=21128, hidden_size=1024, num_hidden_layers=22, num_attention_heads=16,
    intermediate_size=4096,
)  # fmt: skip
_TINY_BERT = BertSizes(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
_TINY_HUBERT = HubertSizes(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
    conv_dim=(16,) * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
)  # fmt: skip
_LENGTHS = (62, 33, 12, 47)  # tokens of BERT's rows
_SECONDS = 5


def run(setup: Setup, section: Section, report: Report) -> None:
    """Both in float32 and in the half types, against the CPU's float32."""
    networks: dict[str, Callable[[Setup], tuple[nn.Module, Callable[[nn.Module, str], Tensor]]]]
    networks = {"bert": _bert, "hubert": _hubert}
    for name, make in networks.items():
        with torch.no_grad():
            module, answer = make(setup)
            exact = answer(module, "cpu")
            for dtype in ("float32", "float16", "bfloat16") if setup.on_gpu else ("float32",):
                section.attempt(
                    f"{name}_{dtype}",
                    functools.partial(_measure, setup, module, answer, exact, dtype),
                )
        tidy()


def _measure(
    setup: Setup, module: nn.Module, answer: Callable[[nn.Module, str], Tensor], exact: Tensor,
    dtype: str,
) -> dict[str, Any]:  # fmt: skip
    moved = module.to(setup.device, getattr(torch, dtype))
    try:
        made = answer(moved, setup.device)
        call = functools.partial(answer, moved, setup.device)
        error = decibels(made, exact)
        finite = bool(made.isfinite().all())
        times = steady(call, setup.device, setup.pick(10, 1))
    finally:
        module.to("cpu", torch.float32)
    return {"error_db": error, "finite": finite, "ok": finite and error < _BOUNDS[dtype], **times}


def _fill(module: nn.Module, seed: int) -> nn.Module:
    """Weights of a sensible size, rounded to float16 so that all precisions hold the same ones."""
    random = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        drawn = torch.randn(value.shape, generator=random)
        if name.endswith("LayerNorm.weight") or "norm.weight" in name:
            value.copy_(1 + 0.1 * drawn)
        elif value.ndim > 1:
            value.copy_(drawn / math.sqrt(value[0].numel()))
        else:
            value.copy_(0.1 * drawn)
        value.copy_(value.half().float())
    return module.eval()


def _bert(setup: Setup) -> tuple[nn.Module, Callable[[nn.Module, str], Tensor]]:
    module = _fill(CharacterFeatures(Bert(setup.pick(_BERT, _TINY_BERT))), 1)
    tokens = torch.randint(100, 1000, (len(_LENGTHS), max(_LENGTHS)))

    def answer(features: nn.Module, device: str) -> Tensor:
        return torch.cat(features(tokens.to(device), _LENGTHS))

    return module, answer


def _hubert(setup: Setup) -> tuple[nn.Module, Callable[[nn.Module, str], Tensor]]:
    module = _fill(SpeechFeatures(Hubert(setup.pick(HubertSizes(), _TINY_HUBERT))), 2)
    wave = 0.1 * torch.randn(1, setup.pick(_SECONDS, 1) * SSL_RATE)

    def answer(features: nn.Module, device: str) -> Tensor:
        made: Tensor = features(wave.to(device)).cpu()
        return made

    return module, answer
