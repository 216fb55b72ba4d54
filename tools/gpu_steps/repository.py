"""A model repository for the real Triton: the run's weights, placeholders for the first stages."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from gpu_steps.pipeline import vocoder_dtype
from gpu_steps.setup import Setup
from gsv.checkpoints.manifest import write_manifest
from gsv.repository import bundled_voices, template_root

PLACEHOLDERS = ("text_frontend", "reference_encoder")


def make(setup: Setup, folder: Path, sentence_tokens: int) -> Path:
    """Make ``folder/model_repository`` with ``folder/voices`` beside it.

    Args:
        setup: the run; its weights are linked and not copied where that is possible.
        folder: is emptied first.
        sentence_tokens: length of every sentence; the GPT itself never ends one.
    """
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "model_repository"
    for config in sorted(template_root().glob("*/config.pbtxt")):
        name = config.parent.name
        shutil.copytree(
            config.parent, root / name, ignore=shutil.ignore_patterns("__pycache__", ".git*")
        )
        (root / name / "1").mkdir(exist_ok=True)
    for name in PLACEHOLDERS:
        shutil.copy(
            Path(__file__).parent / "placeholders" / f"{name}.py", root / name / "1/model.py"
        )
    for weights in setup.repository.glob("*/1/*"):
        _link(weights, root / weights.parent.parent.name / "1" / weights.name)
    for model, parameters in {
        "semantic_gpt": {"dtype": setup.dtype, "max_tokens": str(sentence_tokens)},
        "sovits_v4": {"dtype": setup.dtype},
        "vocoder": {"dtype": vocoder_dtype(setup)},
    }.items():
        for key, value in parameters.items():
            set_parameter(root / model / "config.pbtxt", key, value)
    for config in root.glob("*/config.pbtxt"):
        write_manifest(config.parent / "1", {"prepared_by": "tools/gpu_triton.py", "demo": True})
    voices = bundled_voices()
    if voices is None:
        raise FileNotFoundError("the sample voice is not there; run from a source checkout")
    shutil.copytree(voices, folder / "voices", ignore=shutil.ignore_patterns(".cache"))
    return root


def set_parameter(config: Path, key: str, value: str) -> None:
    """Change one parameter of a model; ValueError when it has none of that name."""
    text = config.read_text(encoding="utf-8")
    pattern = rf'(key: "{key}" value: \{{ string_value: ")[^"]*(")'
    changed, count = re.subn(pattern, rf"\g<1>{value}\g<2>", text)
    if count != 1:
        raise ValueError(f"{config}: {count} parameters are called {key!r}; one was to be changed")
    config.write_text(changed, encoding="utf-8")


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
