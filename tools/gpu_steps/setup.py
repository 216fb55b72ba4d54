"""What all steps share: the device, the sizes, and the networks on it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch

from gsv.checkpoints.store import load_module_state, save_tensors
from gsv.config import GPTConfig, SoVITSConfig, VocoderConfig
from gsv.models.gpt import SemanticGPT
from gsv.models.sovits import SoVITS
from gsv.models.vocoder import Vocoder

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Setup:
    """One run.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        dtype: of speed measurements; the product's choice for the device.
        quick: tiny networks and few repeats.
        folder: scratch room, with the weights in it.
    """

    device: str
    dtype: str
    quick: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether there is CUDA."""
        return self.device.startswith("cuda")

    @property
    def size(self) -> str:
        """Of the networks: ``tiny`` or ``full``."""
        return "tiny" if self.quick else "full"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The precision of speed measurements."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def repository(self) -> Path:
        """A model repository with the generators' weights in the run's size."""
        return self.folder / self.size

    def pick(self, full: Value, tiny: Value) -> Value:
        """``tiny`` in a quick run."""
        return tiny if self.quick else full


def prepare_device(device: str) -> None:
    """Set what the product sets: current device, no TF32, no cuDNN attention."""
    if not device.startswith("cuda"):
        return
    torch.cuda.set_device(device)
    try:
        # The product's own function; older trees lack it and get the same settings below.
        from gsv.device import prepare
    except ImportError:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.enable_cudnn_sdp(False)
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    else:
        prepare(torch.device(device))


def has_weights(setup: Setup, size: str) -> bool:
    """Whether :func:`write_weights` has been through with this size."""
    return (setup.folder / size / "complete").is_file()


def write_weights(setup: Setup, size: str) -> None:
    """The golden cases' networks as a model repository, and a GPT that never ends a sentence."""
    from acoustic_models import sovits, vocoder
    from golden import sovits_config, vocoder_config
    from gpt_models import golden_config, golden_gpt

    root = setup.folder / size
    gpt = golden_gpt(size)
    save_tensors(gpt.state_dict(), root / "golden" / "gpt.safetensors")
    # The end's logit becomes 0. It is never among the 15 best then, so that a sentence is as long
    # as its limit of tokens; everything else is as before.
    gpt.head.weight.data[gpt.config.eos] = 0.0
    _store(root, "semantic_gpt", "gpt", gpt.state_dict(), golden_config(size))
    _store(root, "sovits_v4", "sovits", sovits(size).state_dict(), sovits_config(size))
    _store(root, "vocoder", "vocoder", vocoder(size).state_dict(), vocoder_config(size))
    sovits.cache_clear()
    vocoder.cache_clear()
    (root / "complete").touch()


def _store(
    root: Path,
    model: str,
    name: str,
    state: dict[str, torch.Tensor],
    config: GPTConfig | SoVITSConfig | VocoderConfig,
) -> None:
    save_tensors(state, root / model / "1" / f"{name}.safetensors")
    config.save(root / model / "1" / f"{name}.json")


@functools.lru_cache(maxsize=2)
def _gpt(root: Path, endless: bool) -> SemanticGPT:
    folder = root / "semantic_gpt" / "1"
    model = SemanticGPT(GPTConfig.load(folder / "gpt.json"))
    file = folder / "gpt.safetensors" if endless else root / "golden" / "gpt.safetensors"
    model.load_state_dict(load_module_state(file), strict=True)
    return model.eval().requires_grad_(False)


@functools.lru_cache(maxsize=2)
def _sovits(root: Path) -> SoVITS:
    folder = root / "sovits_v4" / "1"
    model = SoVITS(SoVITSConfig.load(folder / "sovits.json"))
    model.load_state_dict(load_module_state(folder / "sovits.safetensors"), strict=True)
    return model.eval().requires_grad_(False)


@functools.lru_cache(maxsize=2)
def _vocoder(root: Path) -> Vocoder:
    folder = root / "vocoder" / "1"
    model = Vocoder(VocoderConfig.load(folder / "vocoder.json"))
    model.load_state_dict(load_module_state(folder / "vocoder.safetensors"), strict=True)
    return model.eval().requires_grad_(False)


def gpt(setup: Setup, size: str = "", *, endless: bool = True) -> SemanticGPT:
    """A GPT of one's own on the CPU, in float32; engines move it.

    Args:
        setup: the run.
        size: the run's own by default.
        endless: never ends a sentence before its limit.
    """
    return copy.deepcopy(_gpt(setup.folder / (size or setup.size), endless))


def sovits(setup: Setup, size: str = "", dtype: torch.dtype = torch.float32) -> SoVITS:
    """A SoVITS of one's own on the device."""
    with torch.inference_mode(False):  # parameters are to be ordinary tensors, whoever asks
        model = copy.deepcopy(_sovits(setup.folder / (size or setup.size))).to(setup.device)
        model.set_precision(dtype)
    return model


def vocoder(setup: Setup, size: str = "", dtype: torch.dtype = torch.float32) -> Vocoder:
    """A vocoder of one's own on the device."""
    with torch.inference_mode(False):
        model = copy.deepcopy(_vocoder(setup.folder / (size or setup.size))).to(setup.device)
        model.set_precision(dtype)
    return model


def tidy() -> None:
    """Give back what the last measurement held on the device."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


@contextlib.contextmanager
def scratch(given: Path | None) -> Iterator[Path]:
    """``given``, which stays, or a temporary folder."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="gpu-check.", dir=os.environ.get("TMPDIR")) as name:
        yield Path(name)


def gpt_config(setup: Setup) -> GPTConfig:
    """The GPT's shape."""
    return _gpt(setup.repository, True).config


def sovits_config(setup: Setup) -> SoVITSConfig:
    """SoVITS's shape."""
    return SoVITSConfig.load(setup.repository / "sovits_v4" / "1" / "sovits.json")
