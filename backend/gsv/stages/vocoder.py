"""vocoder: mel → wave at the rate asked for, with the pauses between sentences."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gsv import audio
from gsv.checkpoints.store import load_module_state
from gsv.config import VocoderConfig
from gsv.constants import MEL_CHANNELS, OUTPUT_RATE
from gsv.device import upload
from gsv.engine.chunk_plan import ChunkPlan
from gsv.engine.kernels.cpu import convolution as native
from gsv.engine.kernels.cuda import vocoder as kernels
from gsv.engine.transfers import Download
from gsv.engine.vocoder_windows import GraphedVocoder, batch_shapes, vocode
from gsv.errors import GsvError
from gsv.models.vocoder import Vocoder
from gsv.precision import DEFAULT, torch_dtype
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.messages import WaveRequest, WaveResult

# On a GPU, windows of all lengths share batches of so many frames (some 0.4 MB each while they are
# computed), which keep it busy; a CPU is busy with one window, and computes none of its frames
# twice.
CUDA_BATCH_FRAMES = 1024
CUDA_ROUND_TO = 64


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    dtype: str = DEFAULT
    window: int = 400  # frames computed in one piece


class VocoderStage:
    """All sentences of all requests of a batch, window by window."""

    request_type = WaveRequest
    result_type = WaveResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._device = torch.device(place.device)
        self._window = settings.window
        on_gpu = self._device.type == "cuda"
        self._multiple = CUDA_ROUND_TO if on_gpu else 1
        self._batch_frames = CUDA_BATCH_FRAMES if on_gpu else 0
        self._model = Vocoder(VocoderConfig.load(place.folder / "vocoder.json"))
        self._model.load_state_dict(
            load_module_state(place.folder / "vocoder.safetensors"), strict=True
        )
        self._model.to(place.device).eval()
        dtype = torch_dtype(settings.dtype, place.device, half=torch.float16)
        self._model.set_precision(dtype)
        kernels.accelerate(self._model)
        native.accelerate(self._model)
        self._graphed = GraphedVocoder(self._model)

    def warm_up(self) -> None:
        """Capture graphs of all windows, and run the first chunk of a stream."""
        first = ChunkPlan().first
        if self._device.type == "cuda":
            shapes = batch_shapes(self._window, self._multiple, self._batch_frames)
            # Shorter than a window, and somebody waits for it.
            shapes += [(rows, first) for rows in (1, 2, 4, 8, 16)]
            self._graphed.capture_all(shapes)
        self._vocode([torch.zeros(MEL_CHANNELS, first, device=self._device)])

    def close(self) -> None:
        """Nothing runs between requests."""

    @torch.inference_mode()
    def run_batch(self, requests: Sequence[WaveRequest]) -> list[WaveResult | GsvError]:
        """Vocode every sentence of the batch, then join each request's own."""
        sentences = [self._sentences(request) for request in requests]
        waves = self._vocode([mel for own in sentences for mel in own])
        downloads = iter([Download(wave) for wave in waves])  # all queued before one is waited for
        return [
            _join(request, [next(downloads).wait().numpy() for _ in own])
            for request, own in zip(requests, sentences, strict=True)
        ]

    def _vocode(self, mels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return vocode(
            self._model, mels, self._window, self._multiple, self._batch_frames, self._graphed
        )

    def _sentences(self, request: WaveRequest) -> list[torch.Tensor]:
        mel = upload(request.mel, self._device)
        return list(torch.split(mel, request.mel_counts.tolist(), dim=-1))


def _join(request: WaveRequest, waves: list[NDArray[np.float32]]) -> WaveResult:
    """Pauses are true seconds at the output rate, so each sentence is resampled by itself."""
    rate = request.sample_rate
    pauses = np.zeros(len(waves) + 1) if request.pauses is None else request.pauses
    parts = [audio.silence(float(pauses[0]), rate)]
    for wave, pause in zip(waves, pauses[1:], strict=True):
        resampled = audio.resample_soxr(wave, OUTPUT_RATE, rate)
        parts += [np.clip(resampled, -1.0, 1.0), audio.silence(float(pause), rate)]
    return WaveResult(np.concatenate(parts), rate)
