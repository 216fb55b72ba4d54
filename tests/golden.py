"""Upstream's arrays and the random weights they were made with.

The folder comes from ``GSV_GOLDEN`` (default ``../shared/golden/open``, else the tiny cases in
``tests/data/golden``). Weights are remade from the seed that the folder's cases name.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gsv.config import SoVITSConfig, VocoderConfig

TESTS = Path(__file__).parent
BUNDLED = TESTS / "data" / "golden" / "open"
SHARED = TESTS.parent.parent / "shared" / "golden" / "open"


def golden_dir() -> Path:
    """The folder of cases."""
    if given := os.environ.get("GSV_GOLDEN"):
        folder = Path(given)
        if not list(folder.glob("*.npz")):
            raise FileNotFoundError(f"GSV_GOLDEN: {folder} holds no .npz case")
        return folder
    return SHARED if SHARED.is_dir() else BUNDLED


def has_case(name: str) -> bool:
    """Whether the folder holds ``name``; full-size cases are not bundled."""
    return (golden_dir() / f"{name}.npz").is_file()


def sizes(case: str) -> list[Any]:
    """Parameters ``tiny`` and ``full`` for a test of ``case``, each skipped where it is missing."""
    return [
        pytest.param(
            size,
            marks=[
                pytest.mark.golden,
                *([pytest.mark.full] if size == "full" else []),
                pytest.mark.skipif(
                    not has_case(f"{size}_{case}"), reason=f"no {size}_{case} in {golden_dir()}"
                ),
            ],
        )
        for size in ("tiny", "full")
    ]


@dataclasses.dataclass(frozen=True)
class Case:
    """One case: inputs and outputs by name, without the ``in_``/``out_`` prefix."""

    name: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    meta: dict[str, Any]

    def tensor(self, name: str) -> torch.Tensor:
        """An input as a tensor."""
        return torch.from_numpy(self.inputs[name])

    def tolerance(self, output: str) -> float:
        """Ten times the noise that was measured for this output, or 2e-5 of its largest value."""
        noise = self.meta.get("measured_fp32_noise", {}).get(output, 0.0)
        return max(10 * noise, 2e-5 * float(np.abs(self.outputs[output]).max()))

    def check(self, output: str, actual: torch.Tensor | NDArray[Any]) -> None:
        """Assert that ``actual`` is this output, within its tolerance; integers exactly."""
        got = actual.detach().cpu().numpy() if isinstance(actual, torch.Tensor) else actual
        expected = self.outputs[output]
        assert got.shape == expected.shape, f"{self.name}:{output}: {got.shape} {expected.shape}"
        if np.issubdtype(expected.dtype, np.integer):
            np.testing.assert_array_equal(got, expected, err_msg=f"{self.name}:{output}")
            return
        difference = float(np.abs(got.astype(np.float64) - expected).max())
        allowed = self.tolerance(output)
        assert difference <= allowed, (
            f"{self.name}:{output}: off by {difference:.3g} > {allowed:.3g}"
        )


@functools.lru_cache(maxsize=16)
def load_case(name: str) -> Case:
    """Read ``name`` (such as ``tiny_cfm``) with its derived inputs and its wave."""
    arrays, meta = _read(golden_dir() / f"{name}.npz")
    inputs = {key[3:]: value for key, value in arrays.items() if key.startswith("in_")}
    outputs = {key[4:]: value for key, value in arrays.items() if key.startswith("out_")}
    for key, derived in meta.get("derived_inputs", {}).items():
        inputs[key] = make_weights().normal(derived["key"], derived["shape"], derived["seed"])
    if "wave" in meta:
        file = meta["wave"].split(" of ")[1]
        inputs["wav_i16"] = _read(golden_dir() / file)[0]["in_wav_i16"]
    return Case(name, inputs, outputs, meta)


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files}
    return arrays, json.loads(str(arrays.pop("meta")))


@functools.lru_cache(maxsize=1)
def make_weights() -> ModuleType:
    """``make_weights.py`` that lies beside the folder of cases, else the bundled one."""
    for folder in (golden_dir().parent, BUNDLED.parent):
        path = folder / "make_weights.py"
        if path.is_file():
            spec = importlib.util.spec_from_file_location("make_weights", path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise FileNotFoundError(f"make_weights.py is neither beside {golden_dir()} nor bundled")


@functools.lru_cache(maxsize=1)
def golden_seed() -> int:
    """The seed of the folder's weights; every case that names one must name the same."""
    seeds = set()
    for path in golden_dir().glob("*.npz"):
        with np.load(path) as file:
            meta = json.loads(str(file["meta"]))
        seeds |= {meta["seed"]} if "seed" in meta else set()
        seeds |= {derived["seed"] for derived in meta.get("derived_inputs", {}).values()}
    if len(seeds) != 1:
        raise ValueError(f"{golden_dir()}: its cases name the seeds {sorted(seeds)}; one is needed")
    return int(seeds.pop())


def manifest(name: str, size: str) -> dict[str, Any]:
    """Layout of an official file: ``s1v3``, ``s2Gv4`` or ``vocoder``; tiny or full."""
    file = ("" if size == "full" else "tiny_") + name + ".json"
    for folder in (golden_dir().parent, BUNDLED.parent):
        path = folder / "manifest" / file
        if path.is_file():
            loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return loaded
    # The product knows the official files' layouts itself; random demo weights need them.
    layouts = resources.files("gsv.checkpoints") / "layouts" / f"{size}.json"
    layout: dict[str, Any] = json.loads(layouts.read_text(encoding="utf-8"))[name]
    tensors = [{"key": key, "shape": shape} for key, shape in layout["tensors"].items()]
    return layout | {"tensors": tensors}


def case_weights(which: str, size: str, seed: int | None = None) -> dict[str, torch.Tensor]:
    """Random weights with upstream's keys.

    Args:
        which: ``s1``, ``s2`` or ``voc``.
        size: ``tiny`` or ``full``.
        seed: the folder's own by default.
    """
    name = {"s1": "s1v3", "s2": "s2Gv4", "voc": "vocoder"}[which]
    seed = golden_seed() if seed is None else seed
    prefix = "vocoder." if which == "voc" else ""
    weights: dict[str, torch.Tensor] = make_weights().build(
        manifest(name, size), which, seed, prefix
    )
    return weights


def sovits_config(size: str) -> SoVITSConfig:
    """The configuration of a manifest's SoVITS."""
    layout = manifest("s2Gv4", size)
    arch, model = layout["arch"], layout["config"]["model"]
    shapes = {tensor["key"]: tensor["shape"] for tensor in layout["tensors"]}
    return SoVITSConfig(
        inter_channels=model["inter_channels"],
        hidden_channels=model["hidden_channels"],
        filter_channels=model["filter_channels"],
        heads=model["n_heads"],
        layers=model["n_layers"],
        kernel_size=model["kernel_size"],
        gin_channels=model["gin_channels"],
        phonemes=shapes["enc_p.text_embedding.weight"][0],
        codebook_size=shapes["quantizer.vq.layers.0._codebook.embed"][0],
        ssl_dim=arch["ssl_dim"],
        condition_channels=arch["inter_channels2"],
        mrte_hidden=arch["mrte_hidden"],
        mrte_heads=arch["mrte_heads"],
        style_bins=arch["style_in"],
        style_hidden=arch["style_hidden"],
        style_heads=arch["style_heads"],
        style_kernel=arch["style_kernel"],
        wavenet_layers=arch["wns1_layers"],
        wavenet_kernel=arch["wns1_kernel"],
        mel_channels=arch["mel_dim"],
        dit_dim=arch["dit_dim"],
        dit_depth=arch["dit_depth"],
        dit_heads=arch["dit_heads"],
        dit_head_dim=arch["dit_dim_head"],
        dit_ff_mult=arch["dit_ff_mult"],
        dit_conv_layers=arch["dit_conv_layers"],
    )


def vocoder_config(size: str) -> VocoderConfig:
    """The configuration of a manifest's vocoder."""
    arch = manifest("vocoder", size)["arch"]
    return VocoderConfig(
        mel_channels=arch["voc_initial_channel"],
        initial_channels=arch["voc_upsample_initial"],
        upsample_rates=tuple(arch["voc_upsample_rates"]),
        upsample_kernels=tuple(arch["voc_upsample_kernels"]),
        resblock_kernels=tuple(arch["voc_resblock_kernels"]),
        resblock_dilations=tuple(tuple(d) for d in arch["voc_resblock_dilations"]),
    )
