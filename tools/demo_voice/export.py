"""Writes what was trained in the official file formats, with the voice's reference beside it.

    .venv/bin/python tools/demo_voice/export.py

What a run has not trained stays as it is, so that a step can go on from the files (``--init``).

Into ``demo_voice/``: ``pretrained`` in upstream's layout (float16, no BERT: English needs none) and
``voices/demo``. ``gsv prepare --demo voice`` reads both.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import click
import gpt as gpt_step
import hubert as hubert_step
import numpy as np
import places
import sentences
import soundfile
import sovits as sovits_step
import torch
import vocoder as vocoder_step
from codes import Codebook, read, teacher_names
from loop import mean_weights
from torch import Tensor

from gsv.checkpoints.names import gpt as gpt_names
from gsv.checkpoints.names import sovits as sovits_names
from gsv.checkpoints.names import vocoder as vocoder_names
from gsv.config import SoVITSConfig
from gsv.constants import EOS, PHONEMES, REFERENCE_RATE, SSL_RATE, VOCABULARY

INFO = "demo voice of gpt-sovits-triton, trained on synthesizers' speech; see NOTICE"
# Near-greedy: such a small GPT says best what it is surest of, and steady sounds repeat tokens.
SAMPLING = {"top_k": 1, "temperature": 1.0, "repetition_penalty": 1.0, "sample_steps": 8}
_VOICE_TOML = """\
# A small voice trained for this project (tools/demo_voice). Its teacher, slowed down a little, also
# speaks this reference: {teacher}. See NOTICE.
reference = "reference.flac"
text = "{text}"
language = "en"

[sampling]
{sampling}
"""
VOICES = {  # name of the voice, and how its teacher is called, by teacher
    "slt": ("demo", "Festival's voice cmu_us_slt_arctic_hts"),
    "rms": ("demo_rms", "flite's voice cmu_us_rms"),
    "note": ("demo", "Festival's voice cmu_us_slt_arctic_hts, on one note"),
}
# Ours to the fields that upstream hard-codes and a reduced file tells.
_ARCH = {
    "ssl_dim": "ssl_dim", "inter_channels2": "condition_channels", "mrte_hidden": "mrte_hidden",
    "mrte_heads": "mrte_heads", "style_in": "style_bins", "style_hidden": "style_hidden",
    "style_heads": "style_heads", "style_kernel": "style_kernel", "wns1_layers": "wavenet_layers",
    "wns1_kernel": "wavenet_kernel", "mel_dim": "mel_channels", "dit_dim": "dit_dim",
    "dit_depth": "dit_depth", "dit_heads": "dit_heads", "dit_dim_head": "dit_head_dim",
    "dit_ff_mult": "dit_ff_mult", "dit_conv_layers": "dit_conv_layers",
}  # fmt: skip


def trained(step: str) -> bool:
    """Whether this run has."""
    return (places.RUN / f"{step}.pt").is_file()


def official(
    tensors: Mapping[str, Tensor], keys: list[str], rename: Callable[[str], str | None]
) -> dict[str, Tensor]:
    """Our tensors under upstream's names, float16, weight norms unfolded where the file has them.

    Args:
        tensors: by our names.
        keys: of the official file, which has at least as many layers.
        rename: the official names to ours.
    """
    theirs = {name: key for key in keys if (name := rename(key)) is not None}
    made: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in theirs:
            made[theirs[name]] = value.half()
            continue
        norm = value.flatten(1).norm(dim=1).reshape(-1, *[1] * (value.ndim - 1))
        made[theirs[f"{name}_g"]] = norm.half()
        made[theirs[f"{name}_v"]] = value.half()
    return made


def write_gpt(path: Path, layout: dict[str, Any]) -> None:
    """s1v3.ckpt, of as many layers as were trained."""
    gpt = gpt_step.trained()
    config = gpt.config
    model = {
        "vocab_size": VOCABULARY, "phoneme_vocab_size": PHONEMES, "EOS": EOS,
        "embedding_dim": config.hidden_dim, "hidden_dim": config.hidden_dim, "head": config.heads,
        "linear_units": 4 * config.hidden_dim, "n_layer": config.layers, "dropout": 0,
    }  # fmt: skip
    weight = official(gpt.state_dict(), list(layout["tensors"]), gpt_names.rename)
    torch.save(
        {"weight": weight, "config": layout["config"] | {"model": model}, "info": INFO}, path
    )


def write_sovits(path: Path, layout: dict[str, Any]) -> None:
    """s2Gv4.pth; without a HuBERT of this run the quantizer is that of the file that is there."""
    learner = mean_weights("sovits", sovits_step.Learner())
    tensors = dict(learner.sovits.state_dict())
    keys = list(layout["tensors"])
    if trained("hubert"):
        ear = mean_weights("hubert", hubert_step.Ear())
        quantizer = ear.quantizer(Codebook.load().codes)
        tensors |= {f"quantizer.{name}": value for name, value in quantizer.state_dict().items()}
        weight = official(tensors, keys, sovits_names.rename)
    else:
        before = torch.load(path, weights_only=True)["weight"]
        kept = [key for key in before if (sovits_names.rename(key) or "").startswith("quantizer.")]
        weight = official(tensors, keys, sovits_names.rename) | {key: before[key] for key in kept}
    weight |= {f"linear_mel.{k}": v.half() for k, v in learner.linear_mel.state_dict().items()}
    config: SoVITSConfig = sovits_step.CONFIG
    model = {
        "inter_channels": config.inter_channels, "hidden_channels": config.hidden_channels,
        "filter_channels": config.filter_channels, "n_heads": config.heads,
        "n_layers": config.layers, "kernel_size": config.kernel_size,
        "gin_channels": config.gin_channels, "version": "v4", "semantic_frame_rate": "25hz",
    }  # fmt: skip
    shapes = dataclasses.asdict(config)
    torch.save(
        {
            "weight": weight,
            "config": layout["config"] | {"model": model},
            "arch": {theirs: shapes[ours] for theirs, ours in _ARCH.items()},
            "info": INFO,
        },
        path,
    )


def write_vocoder(path: Path, layout: dict[str, Any]) -> None:
    """vocoder.pth"""
    vocoder = mean_weights("vocoder", vocoder_step.build())
    torch.save(
        official(vocoder.product_state(), list(layout["tensors"]), vocoder_names.rename), path
    )


def write_hubert(folder: Path) -> None:
    """The folder that ``transformers`` reads."""
    ear = mean_weights("hubert", hubert_step.Ear())
    folder.mkdir(parents=True, exist_ok=True)
    config = hubert_step.CONFIG.to_dict() | {"architectures": ["HubertModel"]}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    half = {name: value.half() for name, value in ear.hubert.state_dict().items()}
    torch.save(half, folder / "pytorch_model.bin")
    settings = {"sampling_rate": SSL_RATE, "feature_size": 1, "do_normalize": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings) + "\n", encoding="utf-8")


def write_voices(folder: Path) -> None:
    """For each teacher of the run its reference recording and voice.toml."""
    judged = read("judged")
    for number, teacher in enumerate(teacher_names()):
        name, called = VOICES[teacher]
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        wave = judged.waves[int(np.flatnonzero(judged.teachers == number)[-1])]
        soundfile.write(
            place / "reference.flac", np.asarray(wave), REFERENCE_RATE, subtype="PCM_16"
        )
        sampling = "\n".join(f"{key} = {value}" for key, value in SAMPLING.items())
        text = _VOICE_TOML.format(teacher=called, text=sentences.REFERENCE, sampling=sampling)
        (place / "voice.toml").write_text(text, encoding="utf-8")


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default=places.ROOT / "demo_voice", show_default=True
)
def main(out: Path) -> None:
    """Write the files, and say how big they are."""
    file = resources.files("gsv.checkpoints") / "layouts" / "full.json"
    layouts = json.loads(file.read_text(encoding="utf-8"))
    pretrained = out / "pretrained"
    (pretrained / "gsv-v4-pretrained").mkdir(parents=True, exist_ok=True)
    log = places.logger("export")
    writers: dict[str, Callable[[], None]] = {
        "gpt": lambda: write_gpt(pretrained / "s1v3.ckpt", layouts["s1v3"]),
        "sovits": lambda: write_sovits(
            pretrained / "gsv-v4-pretrained" / "s2Gv4.pth", layouts["s2Gv4"]
        ),
        "vocoder": lambda: write_vocoder(
            pretrained / "gsv-v4-pretrained" / "vocoder.pth", layouts["vocoder"]
        ),
        "hubert": lambda: write_hubert(pretrained / "chinese-hubert-base"),
    }
    for step, write in writers.items():
        if trained(step):
            write()
        else:
            log.info("%s: this run has not trained one; what is there stays", step)
    write_voices(out / "voices")
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    for path in files:
        log.info("%10d bytes  %s", path.stat().st_size, path.relative_to(out))
    log.info("%.1f MB together", sum(path.stat().st_size for path in files) / 1e6)


if __name__ == "__main__":
    main()
