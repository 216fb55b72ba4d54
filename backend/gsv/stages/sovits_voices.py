"""Voices with a SoVITS of their own: what they share with the base and what is theirs alone.

A LoRA file changes the estimator's attention by low-rank matrices, which ride along in the batches
of the shared base, and replaces the condition side's small parts (style encoder, bridge, WaveNet,
codebook), of which the voice gets copies. A full fine-tune is a base of its own and batches with
its own requests only; so is a LoRA file that replaces more than upstream's training does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from gsv.checkpoints.lora import Lora
from gsv.checkpoints.store import load_module_state
from gsv.checkpoints.voice_weights import parameters_in, read_sovits
from gsv.device import synchronize
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.models.adapters import PROJECTIONS, Adapter
from gsv.models.sovits import SoVITS

_FREQUENCIES = "flow.estimator.inverse_frequencies"
# Parts that every LoRA file replaces and that are small enough to be kept once a voice.
_OWN_PARTS = ("quantizer.", "style_encoder.", "bridge.", "wavenet.")


@dataclasses.dataclass(frozen=True)
class SoVITSVoice:
    """What a request computes with.

    Attributes:
        model: for the condition.
        flow: name of the engine's estimator.
        adapter: name of its low-rank changes.
    """

    model: SoVITS
    flow: str = ""
    adapter: str = ""

    def request(self, request: FlowRequest) -> FlowRequest:
        """The same job in this voice."""
        return dataclasses.replace(request, model=self.flow, adapter=self.adapter)


class SoVITSVoices:
    """Brings voices' weights to the engine and takes them away again.

    Args:
        folder: version folder with the base's files.
        base: the shared model, ready to run.
        engine: runs its estimator.
        dtype: of matrices.
    """

    def __init__(self, folder: Path, base: SoVITS, engine: FlowEngine, dtype: torch.dtype) -> None:
        self._folder = folder
        self._base = base
        self._engine = engine
        self._dtype = dtype
        self._device = base.flow.device

    def size(self, path: Path) -> int:
        """Bytes in memory, at most."""
        return parameters_in(path) * torch.float32.itemsize

    def load(self, key: str, path: Path) -> SoVITSVoice:
        """Read a voice's file and serve it under ``key``.

        Raises:
            CheckpointError: the file is not what it should be, or does not fit the base.
        """
        found = read_sovits(path, self._base.config)
        if not isinstance(found, Lora):
            return self._load_full(key, found)
        small = {k: v for k, v in found.replaced.items() if k.startswith(_OWN_PARTS)}
        if set(found.replaced) - set(small) - {_FREQUENCIES}:
            base = load_module_state(self._folder / "sovits.safetensors")
            return self._load_full(key, found.merge(base))
        speaker = SoVITSVoice(self._base.with_parts(small), adapter=key)
        adapter = self._adapter(found)
        synchronize(self._device)  # conditions are encoded in another stream
        self._engine.add_adapter(key, adapter)  # last: nothing is left of a failure
        return speaker

    def unload(self, key: str, speaker: SoVITSVoice) -> None:
        """Let a voice's weights go; InvalidRequest while its jobs run."""
        if speaker.adapter:
            self._engine.remove_adapter(key)
        else:
            self._engine.remove_model(key)

    def _load_full(self, key: str, tensors: dict[str, Tensor]) -> SoVITSVoice:
        model = SoVITS(self._base.config)
        model.load_state_dict(tensors, strict=True)
        model.to(self._device).eval().requires_grad_(False)
        model.set_precision(self._dtype)
        synchronize(self._device)
        self._engine.add_model(key, model.flow)
        return SoVITSVoice(model, flow=key)

    def _adapter(self, lora: Lora) -> Adapter:
        config = self._base.config
        shape = (config.dit_depth, len(PROJECTIONS))
        down = torch.zeros(*shape, lora.rank, config.dit_dim, dtype=self._dtype)
        up = torch.zeros(*shape, config.dit_dim, lora.rank, dtype=self._dtype)
        for block in range(config.dit_depth):
            for index, projection in enumerate(PROJECTIONS):
                name = f"flow.estimator.blocks.{block}.attention.{projection}.weight"
                if name in lora.projections:
                    down[block, index] = lora.projections[name].down
                    up[block, index] = lora.projections[name].up
        own = lora.replaced.get(_FREQUENCIES, self._base.flow.estimator.inverse_frequencies)
        device = self._device
        return Adapter(down.to(device), up.to(device), own.to(device).float())
