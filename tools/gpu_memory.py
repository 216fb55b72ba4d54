"""Writes the table of docs/gpu.md: what the server takes of a GPU's memory, computed from sizes.

    python tools/gpu_memory.py           # rewrite the table
    python tools/gpu_memory.py --check   # exit 1 if it is stale

Nothing is measured: weights are counted, and the rest is what gsv.stages.sizing says.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from transformers import BertConfig, BertModel, HubertConfig, HubertModel

from gsv.config import GPTConfig, SoVITSConfig, VocoderConfig
from gsv.models.gpt import SemanticGPT
from gsv.models.pretrained import BERT_SKIPPED_LAYERS
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder
from gsv.stages import sizing
from gsv.stages.semantic_gpt import Settings

PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"
BEGIN, END = "<!-- memory: made by tools/gpu_memory.py -->", "<!-- end of memory -->"
# MiB, as nvidia-smi reports them.
GPUS = {
    "T4": 15_360,
    "L4": 23_034,
    "A10": 23_028,
    "RTX 4090": 24_564,
    "A100 40 GB": 40_960,
    "A100 80 GB": 81_920,
    "H100 80 GB": 81_559,
}
HALF, SINGLE = 2, 4  # bytes of a number
CHINESE_WORDS = 21_128  # rows of the vocabulary of chinese-roberta-wwm-ext-large


def weights() -> int:
    """Bytes of all networks' weights, generators and text side in half precision."""
    with torch.device("meta"):
        sovits = SoVITS(SoVITSConfig())
        bert = BertConfig(
            vocab_size=CHINESE_WORDS, hidden_size=1024, num_attention_heads=16,
            num_hidden_layers=24 - BERT_SKIPPED_LAYERS, intermediate_size=4096,
        )  # fmt: skip
        halves = [
            SemanticGPT(GPTConfig()),
            sovits.flow,
            Vocoder(VocoderConfig()),
            BertModel(bert, add_pooling_layer=False),
            HubertModel(HubertConfig()),
        ]
    condition_side = _numbers(sovits) - _numbers(sovits.flow)  # stays float32
    return HALF * sum(map(_numbers, halves)) + SINGLE * condition_side


def table() -> str:
    """The table as Markdown; MiB unless named otherwise."""
    with torch.device("meta"):
        gpt, sovits = _numbers(SemanticGPT(GPTConfig())), _numbers(SoVITS(SoVITSConfig()))
    networks = weights()
    lines = [
        "| GPU | memory | weights | slots | their cache | voices' own GPTs | voices' own SoVITS "
        "| left |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, mib in GPUS.items():
        free = mib * sizing.MIB
        row = sizing.row_bytes(GPTConfig(), sizing.positions(0, free), HALF)
        slots = sizing.slots(0, free, row)
        cache = sizing.rows(slots) * row
        budget = sizing.voices_budget(0, free, 0)
        own_gpt = HALF * gpt + sizing.rows(Settings.voice_slots) * row
        left = free - networks - cache - 2 * budget
        lines.append(
            f"| {name} | {mib:,} | {_mib(networks)} | {slots} | {_mib(cache)} "
            f"| {_mib(budget)} ({budget // own_gpt}) "
            f"| {_mib(budget)} ({budget // (SINGLE * sovits)}) | {_mib(left)} |"
        )
    return "\n".join(lines)


def updated(text: str) -> str:
    """The page with a fresh table."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{table()}\n{END}{tail}"


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _mib(size: int) -> str:
    return f"{size / sizing.MIB:,.0f}"


def main() -> int:
    """Rewrite or check the page."""
    text = PAGE.read_text(encoding="utf-8")
    fresh = updated(text)
    if "--check" in sys.argv[1:]:
        return int(fresh != text)
    PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
