"""vocoder: mel → wave at the rate asked for, with the pauses between sentences.

Windows of all requests take turns in the vocoder's engine: a listener's chunk doesn't wait for a
whole answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from gsv import audio
from gsv.checkpoints.store import load_module_state
from gsv.config import VocoderConfig
from gsv.constants import MEL_CHANNELS, OUTPUT_RATE
from gsv.device import synchronize
from gsv.engine.chunk_plan import ChunkPlan
from gsv.engine.kernels.cpu import convolution as native
from gsv.engine.kernels.cuda import vocoder as kernels
from gsv.engine.turns import Turn
from gsv.engine.vocoder_engine import VocoderEngine, VocoderRequest, WindowLimits
from gsv.engine.vocoder_windows import GraphedVocoder, batch_shapes, vocode
from gsv.models.vocoder import Vocoder
from gsv.precision import DEFAULT, torch_dtype
from gsv.reply import Reply
from gsv.stages.arrays import split_by_counts
from gsv.stages.base import Load, Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.messages import WaveRequest, WaveResult
from gsv.timings import Timings

# On a GPU, windows of all lengths share batches of so many frames (some 0.4 MB each while they are
# computed), which keep it busy; a CPU is busy with one window, and computes none of its frames
# twice.
CUDA_BATCH_FRAMES = 1024
CUDA_ROUND_TO = 64
# Frames of a window. On a CPU a listener's first chunk (50 frames) may wait for a whole window, and
# half of 400 costs the long answers 8 % of the vocoder's speed.
CUDA_WINDOW, CPU_WINDOW = 400, 200


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    dtype: str = DEFAULT
    window: int = 0  # frames computed in one piece; 0 is the device's
    waiting: int = 1024  # requests that may be there at once; one more is refused


def window_limits(device: str, window: int = 0) -> WindowLimits:
    """Windows and batches on ``device``.

    Args:
        device: ``cpu`` or ``cuda:N``.
        window: frames of the largest; 0 is the device's choice.
    """
    if torch.device(device).type == "cuda":
        return WindowLimits(window or CUDA_WINDOW, CUDA_ROUND_TO, CUDA_BATCH_FRAMES)
    return WindowLimits(window or CPU_WINDOW)


class VocoderStage:
    """All sentences of all requests, window by window."""

    request_type = WaveRequest
    result_type = WaveResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._device = torch.device(place.device)
        self._limits = window_limits(place.device, settings.window)
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
        self.timings = Timings("queue")
        self._engine = VocoderEngine(
            self._graphed, self._limits, settings.waiting, self.timings.waited, place.give_way()
        )
        # Resampling a long answer takes a while, which no listener's chunk waits for.
        self._joiner = ThreadPoolExecutor(1, thread_name_prefix="vocoder-join")

    def warm_up(self) -> None:
        """Capture graphs of all windows and run the first chunk of a stream, then start."""
        first, limits = ChunkPlan().first, self._limits
        if self._device.type == "cuda":
            shapes = batch_shapes(limits.frames, limits.multiple, limits.batch_frames)
            # Shorter than a window, and somebody waits for it.
            shapes += [(rows, first) for rows in (1, 2, 4, 8, 16)]
            self._graphed.capture_all(shapes)
        mel = torch.zeros(MEL_CHANNELS, first, device=self._device)
        vocode(self._model, [mel], limits.frames, compute=self._graphed)
        synchronize(self._device)  # before another thread's stream reads what all of them share
        self._engine.start()

    def close(self) -> None:
        """Stop the engine; whoever still waits gets an error."""
        self._engine.stop()
        self._joiner.shutdown()

    def load(self) -> Load:
        """The requests whose windows are computed."""
        stats = self._engine.stats()
        return Load(stats.running, stats.waiting, stats.steps, stats.rows)

    def submit(self, request: WaveRequest, reply: Reply) -> Callable[[], None]:
        """Put every sentence's windows in line; the answer leaves when the last one is done."""
        turn = Turn.of(request)
        mels = split_by_counts(request.mel, request.mel_counts)

        def join(waves: list[NDArray[np.float32]]) -> None:
            try:
                reply.send(_join(request, waves), final=True)
            except Exception as error:  # whatever it is, its caller gets it
                reply.fail(error)

        def done(waves: list[NDArray[np.float32]]) -> None:
            if turn.has_listener:
                join(waves)
            else:
                self._joiner.submit(join, waves)

        return self._engine.submit(VocoderRequest(mels, turn), done, reply.fail).cancel


def _join(request: WaveRequest, waves: list[NDArray[np.float32]]) -> WaveResult:
    """Pauses are true seconds at the output rate, so each sentence is resampled by itself."""
    rate = request.sample_rate
    pauses = np.zeros(len(waves) + 1) if request.pauses is None else request.pauses
    parts = [audio.silence(float(pauses[0]), rate)]
    for wave, pause in zip(waves, pauses[1:], strict=True):
        resampled = audio.resample_soxr(wave, OUTPUT_RATE, rate)
        parts += [np.clip(resampled, -1.0, 1.0), audio.silence(float(pause), rate)]
    return WaveResult(np.concatenate(parts), rate)
