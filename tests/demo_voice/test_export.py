"""What the training exports is what the product's reader takes for an official file."""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any

import export
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hubert import Ear
from vocoder import build

from gsv.checkpoints.convert import convert_vocoder
from gsv.checkpoints.manifest import verify_manifest
from gsv.checkpoints.names import gpt as gpt_names
from gsv.checkpoints.names import sovits as sovits_names
from gsv.checkpoints.names import vocoder as vocoder_names
from gsv.checkpoints.reader import read_checkpoint
from gsv.commands.prepare import prepare
from gsv.config import GPTConfig, SoVITSConfig
from gsv.models.gpt import SemanticGPT
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder
from gsv.repository import demo_voice
from gsv.voices import load_voice

MEGABYTES = 30


@functools.cache
def layouts() -> Any:
    file = resources.files("gsv.checkpoints") / "layouts" / "full.json"
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "file", "names"),
    [
        (lambda: SemanticGPT(GPTConfig(hidden_dim=32, heads=2, layers=2)), "s1v3", gpt_names),
        (lambda: SoVITS(SoVITSConfig(dit_dim=64, dit_depth=1)), "s2Gv4", sovits_names),
        (build, "vocoder", vocoder_names),
    ],
)
def test_every_tensor_finds_its_official_name(module: Any, file: str, names: Any) -> None:
    with torch.device("meta"):
        state = {key: torch.empty(value.shape) for key, value in module().state_dict().items()}
    made = export.official(state, list(layouts()[file]["tensors"]), names.rename)
    back = {names.rename(key).removesuffix("_g").removesuffix("_v") for key in made}
    assert back == set(state)
    assert all(value.dtype is torch.float16 for value in made.values())


def test_the_vocoders_scaling_is_folded(tmp_path: Path, no_grad: None) -> None:
    torch.manual_seed(1)
    learner = build().eval()
    learner.output.weight *= 20
    tensors = export.official(
        learner.product_state(), list(layouts()["vocoder"]["tensors"]), vocoder_names.rename
    )
    torch.save(tensors, tmp_path / "vocoder.pth")
    converted = convert_vocoder(read_checkpoint(tmp_path / "vocoder.pth"))
    product = Vocoder(converted.config)
    product.load_state_dict({name: value.float() for name, value in converted.tensors.items()})
    mel = 3 * torch.randn(1, 100, 20) - 5
    wanted = learner(mel)
    assert wanted.abs().max() > 0.05
    torch.testing.assert_close(product(mel), wanted, atol=2e-3, rtol=0.0)


def test_the_quantizer_is_the_learned_projection(no_grad: None) -> None:
    torch.manual_seed(1)
    ear = Ear().eval()
    codes = np.random.default_rng(0).normal(size=(1024, ear.projection.out_channels))
    hidden = torch.randn(1, ear.projection.in_channels, 11)
    told = ear.projection(hidden)[0].T.numpy()
    nearest = ((told[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
    found = ear.quantizer(codes.astype(np.float32)).extract_tokens(hidden)[0].numpy()
    np.testing.assert_array_equal(found, nearest)


def test_the_voice_is_small_and_says_its_defaults() -> None:
    files = [path for path in demo_voice().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MEGABYTES * 1e6
    voice = load_voice(demo_voice() / "voices" / "demo")
    assert voice.sampling == export.SAMPLING


def test_prepare_puts_it_through_the_reader(tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    result = CliRunner().invoke(prepare, ["--demo", "voice", "--out", str(repository)])
    assert result.exit_code == 0, result.output
    assert "small demo voice" in result.stderr
    assert "unknown" not in result.stderr
    for manifest in repository.glob("*/1/manifest.json"):
        verify_manifest(manifest.parent)
    voices = sorted(path.name for path in (tmp_path / "voices").iterdir())
    assert voices == ["demo", "demo_rms"]
