"""A small repository with voices of every kind, for a GPU that is pretended."""

from __future__ import annotations

from pathlib import Path

import pytest
from voices.voice_files import make_voice, write_wave
from voices.weights_files import full_file, gpt_file, lora_file

from gsv.checkpoints.demo import make_demo
from gsv.checkpoints.prepare import Files, prepare
from gsv.checkpoints.text_data import Sources
from gsv.checkpoints.voice_editing import NewVoice, Shapes, add_voice


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and the voices plain, tuned (a LoRA and a GPT of its own) and full."""
    root = tmp_path_factory.mktemp("pretended")
    make_demo("tiny", root / "demo")
    prepare(
        Files.find(root / "demo"), root / "repository", voices=root / "voices", text=Sources(),
        replace=False, demo=True, report=lambda line: None,
    )  # fmt: skip
    voices, shapes = root / "voices", Shapes.of(root / "repository")
    make_voice(voices / "plain", seed=1)
    recording = write_wave(root / "take.wav", seed=4)
    gpt, lora, full = (
        gpt_file(root / "g.ckpt"),
        lora_file(root / "l.pth"),
        full_file(root / "f.pth"),
    )
    add_voice(voices, NewVoice("tuned", recording, "Words.", "en", gpt, lora), shapes)
    add_voice(voices, NewVoice("full", recording, "Words.", "en", None, full), shapes)
    return root / "repository"
