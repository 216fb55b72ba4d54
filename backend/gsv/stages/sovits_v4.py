"""sovits_v4: semantic tokens, phonemes and a reference → mel, sentence by sentence.

The condition of a sentence is computed at once; its mel then comes from the flow engine, chunk
after chunk, each next chunk conditioned on the last. Sentences of all requests share the engine's
running batch, and no sentence hears another: an answer never depends on its neighbours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsv import audio
from gsv.checkpoints.store import load_module_state
from gsv.config import SoVITSConfig
from gsv.constants import STYLE_BINS
from gsv.device import end_if_fatal, memory_free, synchronize, upload
from gsv.engine.flow.engine import FlowEngine
from gsv.engine.flow.planner import Reference
from gsv.errors import Cancelled, GsvError, InvalidRequest
from gsv.models.sovits import SoVITS
from gsv.precision import DEFAULT, torch_dtype
from gsv.reply import Reply
from gsv.stages.base import Load, Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.conditions import (
    ROUND_TO,
    BatchQueue,
    GraphedConditions,
    Sentence,
    encode,
)
from gsv.stages.mel_answer import MelAnswer, MelPart, MelWindow
from gsv.stages.messages import MelRequest, MelResult
from gsv.stages.sizing import voices_budget
from gsv.stages.sovits_voices import SoVITSVoice, SoVITSVoices
from gsv.timings import Timings
from gsv.voices.lease import start_in_voice
from gsv.voices.metrics import VoiceMetrics
from gsv.voices.weight_cache import WeightCache

logger = logging.getLogger(__name__)

CPU_BUDGET_MIB = 8192
# Tokens and phonemes of the first chunks that most streams begin with.
WARM_UP_SIZES = ((32, 32), (32, 64), (32, 96), (64, 64), (64, 96))


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    dtype: str = DEFAULT
    slots: int = 16  # sentences in the running batch
    waiting: int = 1024  # sentences that may wait; one more is refused
    cache: int = 64  # encoded references
    voice_folder: str = "../voices"  # relative to the model repository
    memory_budget_mib: int = 0  # of all voices' own SoVITS together; 0 is a share of a GPU's


class SoVITSStage:
    """Conditions in a thread of their own, on a GPU in batches; flow matching in the engine's."""

    request_type = MelRequest
    result_type = MelResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._device = place.device
        budget = voices_budget(
            settings.memory_budget_mib, memory_free(place.device), CPU_BUDGET_MIB
        )
        self._model = SoVITS(SoVITSConfig.load(place.folder / "sovits.json"))
        self._model.load_state_dict(
            load_module_state(place.folder / "sovits.safetensors"), strict=True
        )
        self._model.to(place.device).eval()
        dtype = torch_dtype(settings.dtype, place.device)
        self._model.set_precision(dtype)
        logger.info("sovits_v4 on %s: %s, %d MiB for voices", place.device, dtype, budget >> 20)
        self.timings = Timings("queue")
        self._engine = FlowEngine(
            self._model.flow,
            slots=settings.slots,
            waiting_limit=settings.waiting,
            on_wait=self.timings.waited,
            give_way=place.give_way(),
        )
        self._voices_of_sovits = SoVITSVoices(place.folder, self._model, self._engine, dtype)
        self._base = SoVITSVoice(self._model)
        voices = place.voices(settings.voice_folder, "")
        self.voice_metrics = VoiceMetrics(voices)
        self._weight_cache: WeightCache[SoVITSVoice] = WeightCache(
            "voices-sovits",
            voices,
            which=lambda voice: voice.sovits,
            size=self._voices_of_sovits.size,
            load=self._voices_of_sovits.load,
            unload=self._voices_of_sovits.unload,
            budget=budget,
            waiting_limit=settings.waiting,
            device=place.device,
            voice_metrics=self.voice_metrics,
        )
        self._references: OrderedDict[bytes, tuple[Tensor, Reference]] = OrderedDict()
        self._cache_size = settings.cache
        self._lock = threading.Lock()  # requests that waited for weights begin on another thread
        self._at_once = settings.slots
        self._graphed = GraphedConditions(self._model, place.device)
        self._stream: Any = None  # of the queue's thread, on a GPU
        if place.device != "cpu":
            self._stream = torch.cuda.Stream(place.device, priority=-1)  # type: ignore[no-untyped-call]
        self._start_queue(ROUND_TO if self._stream else 1)
        self._engine.start()

    def _start_queue(self, round_to: int) -> None:
        """Encode conditions in a thread; if they are rounded, those that wait at the same time
        at once."""
        self._round_to = round_to
        self._queue: BatchQueue[MelWindow] = BatchQueue(
            "conditions",
            self._device,
            self._serve,
            lambda window, error: window.answer.fail(error),
            in_company=round_to > 1,
        )

    def warm_up(self) -> None:
        """Solve one short flow, and on a GPU capture or meet the shapes of chunks, before the
        model reports ready."""
        self._engine.warm_up()
        if self._round_to > 1:
            self._graphed.capture_all()
            self._warm_up_conditions()

    @torch.inference_mode()
    def _warm_up_conditions(self) -> None:
        spectrum = torch.zeros(1, STYLE_BINS, 100, device=self._device)
        timbre = self._model.style(spectrum)
        for tokens, phonemes in WARM_UP_SIZES:
            ids = np.zeros(tokens, np.int32), np.zeros(phonemes, np.int32)
            for rows in (1, 8):
                encode(self._model, [Sentence(*ids, timbre)] * rows, self._device, self._round_to)
        synchronize(self._device)  # before another stream reads what all of them share

    def close(self) -> None:
        """Stop the engine; whoever still waits gets an error."""
        self._weight_cache.close()
        self._queue.close()
        self._engine.stop()

    def load(self) -> Load:
        """The running batch of mel chunks."""
        stats = self._engine.stats()
        return Load(stats.running, stats.waiting, stats.steps, stats.rows)

    def submit(self, request: MelRequest, reply: Reply) -> Callable[[], None]:
        """Encode the conditions and put sentences into the running batch, as there is room.

        With a voice's own weights, which are loaded first if need be.
        """
        return start_in_voice(
            self._weight_cache,
            request.voice,
            reply,
            lambda key, speaker, leased: self._begin(request, key, speaker or self._base, leased),
        )

    def _begin(
        self, request: MelRequest, key: str, speaker: SoVITSVoice, reply: Reply
    ) -> Callable[[], None]:
        answer = MelAnswer(request, key, speaker, reply, self._at_once)
        answer.begin(self._queue.put, self._engine.submit)
        return answer.cancel

    def _serve(self, batch: list[MelWindow]) -> None:
        """Give windows their conditions; each one's error is its answer's own."""
        wanted = [window for window in batch if not window.answer.cancelled]
        for window in (window for window in batch if window not in wanted):
            window.answer.fail(Cancelled("cancelled by its caller"))
        if not wanted:
            return
        try:
            prepared = self._prepare(wanted)
        except Exception as error:  # whatever it is, the request at fault gets it
            end_if_fatal(error)
            if len(wanted) == 1:
                wanted[0].answer.fail(error)
                return
            for window in wanted:  # each alone, so that only the one at fault fails
                self._serve([window])
            return
        for window, parts in zip(wanted, prepared, strict=True):
            if isinstance(parts, GsvError):
                window.answer.fail(parts)
            else:
                window.answer.start(window, parts)

    @torch.inference_mode()
    def _prepare(self, batch: Sequence[MelWindow]) -> list[list[MelPart] | GsvError]:
        """References, conditions and pasts of sentences that are spoken through one model.

        On a GPU in a stream of its own, so that it doesn't wait for the steps of the flow that are
        queued; afterwards it is done, so that other streams may read it.
        """
        if self._stream is None:
            return self._prepared(batch)
        with torch.cuda.stream(self._stream):
            prepared = self._prepared(batch)
        self._stream.synchronize()
        return prepared

    def _prepared(self, batch: Sequence[MelWindow]) -> list[list[MelPart] | GsvError]:
        heard = [self._reference(window.answer) for window in batch]
        sentences = [
            Sentence(tokens, phonemes, timbre, window.answer.request.speed)
            for window, (timbre, _) in zip(batch, heard, strict=True)
            for tokens, phonemes in window.sentences()
        ]
        model = batch[0].answer.speaker.model
        conditions = iter(encode(model, sentences, self._device, self._round_to, self._graphed))
        prepared: list[list[MelPart] | GsvError] = []
        for window, (_, reference) in zip(batch, heard, strict=True):
            own = [next(conditions) for _ in window.indices]
            try:
                request = window.answer.request
                parts = [self._after_past(request, reference, one) for one in own]
                prepared.append(parts)
            except GsvError as error:
                prepared.append(error)
        return prepared

    def _after_past(self, request: MelRequest, reference: Reference, condition: Tensor) -> MelPart:
        """What the flow hears before the new frames, and the condition of those.

        The reference first, then the sentence's own past, the last frames of both together as
        many as the reference alone has: with chunks of that length it is upstream's sequential
        mode.
        """
        first = request.first_frame
        end = first + request.frame_count if request.frame_count else condition.shape[-1]
        if first == 0 or request.past_mel is None:
            return MelPart(reference, condition[:, :end])
        past = audio.normalize_mel(upload(request.past_mel, self._device))
        if not past.shape[-1] <= first < condition.shape[-1]:
            raise InvalidRequest.value(
                "FIRST_FRAME",
                first,
                f"from the {past.shape[-1]} frames of PAST_MEL, below the sentence's "
                f"{condition.shape[-1]}",
            )
        heard = Reference(
            torch.cat([reference.condition, condition[:, first - past.shape[-1] : first]], dim=-1),
            torch.cat([reference.mel, past], dim=-1),
        )
        limit = reference.frames
        past_and_reference = Reference(heard.condition[:, -limit:], heard.mel[:, -limit:])
        return MelPart(past_and_reference, condition[:, first:end])

    def _reference(self, answer: MelAnswer) -> tuple[Tensor, Reference]:
        """Timbre [1, gin, 1], condition and mel of the reference; kept by content and weights."""
        request, model = answer.request, answer.speaker.model
        digest = hashlib.sha256(answer.key.encode())
        for part in (request.prompt_phonemes, request.prompt_tokens, request.reference_mel):
            digest.update(part.tobytes())
        key = digest.digest()
        with self._lock:
            if key in self._references:
                self._references.move_to_end(key)
                return self._references[key]
        timbre = model.style(upload(request.reference_spectrum, self._device)[None])
        prompt = Sentence(request.prompt_tokens, request.prompt_phonemes, timbre)
        (condition,) = encode(model, [prompt], self._device, self._round_to, self._graphed)
        mel = upload(request.reference_mel, self._device)
        found = (timbre, Reference.trimmed(condition, mel))
        with self._lock:
            self._references[key] = found
            while len(self._references) > self._cache_size:
                self._references.popitem(last=False)
        return found
