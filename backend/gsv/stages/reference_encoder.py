"""reference_encoder: a reference wave → prompt tokens, spectrum and mel.

The wave comes with the request or from a voice's recording. HuBERT hears it at 16 kHz, the
quantizer turns its features into 25 tokens a second; the spectrum (for timbre) and the mel (for
the flow's prompt) are taken at 32 kHz. Encoded references are kept by content, never by name; those
of voices on disk as well.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gsv import audio
from gsv.checkpoints.store import load_module_state
from gsv.checkpoints.voice_weights import read_quantizer
from gsv.config import SoVITSConfig
from gsv.constants import (
    EOS,
    MEL_CHANNELS,
    REFERENCE_MAX_SECONDS,
    REFERENCE_MIN_SECONDS,
    REFERENCE_RATE,
    SSL_RATE,
    SSL_TAIL_SAMPLES,
    STYLE_BINS,
)
from gsv.device import upload
from gsv.errors import CheckpointError, GsvError, InvalidRequest, VoiceError
from gsv.models.quantizer import Quantizer
from gsv.precision import DEFAULT, torch_dtype
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.messages import ReferenceRequest, ReferenceResult, wrong_length
from gsv.stages.pretrained import load_hubert
from gsv.voices import Voice
from gsv.voices.failures import Failures
from gsv.voices.feature_cache import FeatureCache
from gsv.voices.features import Arrays, FeatureStore, Layout
from gsv.voices.metrics import VoiceMetrics
from gsv.voices.recording import read_recording


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    dtype: str = DEFAULT  # of HuBERT
    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""
    cache: int = 64  # references


_LAYOUT = {
    "prompt_tokens": Layout(np.int32, (None,), EOS),
    "reference_spectrum": Layout(np.float32, (STYLE_BINS, None)),
    "reference_mel": Layout(np.float32, (MEL_CHANNELS, None)),
}


def _pack(result: ReferenceResult) -> Arrays:
    return {name: getattr(result, name) for name in _LAYOUT}


def _unpack(arrays: Arrays) -> ReferenceResult:
    return ReferenceResult(**arrays)


def _own_quantizer(voice: Voice) -> str:
    """Stands for the voice's own quantizer; its file is too long to be read at a request."""
    if voice.sovits is None:
        return ""
    try:
        state = voice.sovits.stat()
    except OSError as error:
        raise VoiceError(f"voice {voice.label}: {voice.sovits.name}: {error.strerror}") from error
    return f"{state.st_size}:{state.st_mtime_ns}"


class ReferenceEncoderStage:
    """HuBERT, quantizer and the two spectral views, with a bounded cache by content."""

    request_type = ReferenceRequest
    result_type = ReferenceResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._config = config = SoVITSConfig.load(place.folder / "quantizer.json")
        self._device = place.device
        dtype = torch_dtype(settings.dtype, place.device, half=torch.float16)
        self._hubert = load_hubert(place.folder / "hubert", place.device, dtype)
        self._quantizer = Quantizer(config.ssl_dim, config.codebook_size)
        self._quantizer.load_state_dict(
            load_module_state(place.folder / "quantizer.safetensors"), strict=True
        )
        self._quantizer.to(place.device).eval()
        self._voices = place.voices(settings.voice_folder, settings.default_voice)
        self.voice_metrics = VoiceMetrics(self._voices)
        self._failures = Failures()
        encoder = place.identity(dtype)
        store = FeatureStore("acoustic", encoder, _LAYOUT)
        self._kept: FeatureCache[ReferenceResult] = FeatureCache(
            store, settings.cache, self.voice_metrics, _pack, _unpack
        )

    def warm_up(self) -> None:
        """Encode three seconds of a quiet tone."""
        time = np.arange(3 * REFERENCE_RATE, dtype=np.float32) / REFERENCE_RATE
        tone = 0.1 * np.sin(2 * np.pi * 220 * time).astype(np.float32)
        self._encode(tone, REFERENCE_RATE, self._quantizer)

    def close(self) -> None:
        """Nothing runs between requests."""

    def run_batch(self, requests: Sequence[ReferenceRequest]) -> list[ReferenceResult | GsvError]:
        """Encode each reference by itself: HuBERT's first norm spans the whole time axis, so a
        padded batch would change the answer."""
        answers: list[ReferenceResult | GsvError] = []
        for request in requests:
            try:
                answers.append(self._answer(request))
            except GsvError as error:
                answers.append(error)
        return answers

    def _answer(self, request: ReferenceRequest) -> ReferenceResult:
        samples, rate = request.reference_audio, request.reference_sample_rate
        if samples is not None and rate is not None:
            content = f"{rate}:".encode() + samples.tobytes()
            key = hashlib.sha256(content).hexdigest()
            found = self._kept.find(None, key)
            if found is None:
                found = self._encode(samples, rate, self._quantizer)
                self._kept.keep(None, key, found)
            return found
        voice = self._voices.get(request.voice)
        key = self._kept.key(voice, _own_quantizer(voice))
        found = self._kept.find(voice, key)
        if found is None:
            found = self._encode_voice(voice)
            self._kept.keep(voice, key, found)
        return found

    def _encode_voice(self, voice: Voice) -> ReferenceResult:
        quantizer = self._quantizer
        if voice.sovits is not None:
            content = f"{voice.sovits}:{_own_quantizer(voice)}"
            self._failures.check(content)
            try:
                own = read_quantizer(voice.sovits, self._config)
            except CheckpointError as error:
                self.voice_metrics.count("load_failures", voice.label)
                raise self._failures.remember(content, voice, voice.sovits, error) from error
            quantizer = copy.deepcopy(quantizer)
            quantizer.load_state_dict(quantizer.state_dict() | own, strict=True)
        samples, rate = self._recording(voice)
        try:
            return self._encode(samples, rate, quantizer)
        except InvalidRequest as error:  # the caller named a voice and did nothing wrong
            raise VoiceError(f"voice {voice.name}: {error}") from error

    def _recording(self, voice: Voice) -> tuple[NDArray[np.float32], int]:
        try:
            samples, rate = read_recording(voice.reference, REFERENCE_MAX_SECONDS + 0.01)
        except (OSError, ValueError) as error:
            raise VoiceError(f"voice {voice.name}: {error}") from error
        self._voices.get(voice.pinned, fresh=True)  # it may have been replaced while it was read
        return samples, rate

    @torch.inference_mode()
    def _encode(
        self, samples: NDArray[np.float32], rate: int, quantizer: Quantizer
    ) -> ReferenceResult:
        samples = audio.peak_guard(samples)
        heard = audio.resample_soxr(samples, rate, SSL_RATE)
        seconds = len(heard) / SSL_RATE
        if not REFERENCE_MIN_SECONDS <= seconds <= REFERENCE_MAX_SECONDS:
            raise wrong_length(seconds)
        tail = np.zeros(SSL_TAIL_SAMPLES, np.float32)
        wave = upload(np.concatenate([heard, tail]), self._device)
        codes = quantizer.extract_tokens(self._hubert(wave[None]))
        reference = audio.resample_sinc(upload(samples, self._device), rate, REFERENCE_RATE)
        spectrum = audio.spectrum(reference[None])[0, :STYLE_BINS].contiguous()
        mel = audio.normalize_mel(audio.log_mel(reference[None]))[0]
        return ReferenceResult(
            prompt_tokens=codes[0].cpu().numpy().astype(np.int32),
            reference_spectrum=spectrum.cpu().numpy(),
            reference_mel=mel.cpu().numpy(),
        )
