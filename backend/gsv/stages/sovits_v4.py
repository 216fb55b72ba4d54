"""sovits_v4: semantic tokens, phonemes and a reference → mel, sentence by sentence.

The condition of every sentence is computed at once; its mel then comes from the flow engine, chunk
after chunk, each next chunk conditioned on the last. Sentences of all requests share the engine's
running batch, and no sentence hears another: an answer never depends on its neighbours.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gsv import audio
from gsv.checkpoints.store import load_module_state
from gsv.config import SoVITSConfig
from gsv.constants import STYLE_BINS
from gsv.device import end_if_fatal, memory_free, synchronize, upload
from gsv.engine.flow.engine import FlowEngine, FlowRequest, Handle
from gsv.engine.flow.planner import Reference, sentence_requests
from gsv.engine.turns import Turn
from gsv.errors import Cancelled, GsvError, InvalidRequest
from gsv.models.sovits import SoVITS
from gsv.options import resolve_seed
from gsv.precision import DEFAULT, torch_dtype
from gsv.reply import Reply
from gsv.stages.arrays import split_by_counts
from gsv.stages.base import Load, Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.conditions import (
    ROUND_TO,
    BatchQueue,
    GraphedConditions,
    Sentence,
    Waiting,
    encode,
)
from gsv.stages.messages import MelRequest, MelResult
from gsv.stages.sizing import voices_budget
from gsv.stages.sovits_voices import SoVITSVoice, SoVITSVoices
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


@dataclasses.dataclass(frozen=True, eq=False)
class _Prepared:
    """A request's sentences: what the flow hears before each, and the condition of the rest."""

    parts: list[tuple[Reference, Tensor]]


class _Work(Waiting):
    """A request whose conditions are to be encoded."""

    def __init__(self, request: MelRequest, key: str, speaker: SoVITSVoice, reply: Reply) -> None:
        counts = request.token_counts
        super().__init__(
            group=speaker.model,
            rows=len(counts),
            longest=int(counts.max()),
            urgent=bool(request.listener_waits),
        )
        self.request, self.key, self.speaker, self.reply = request, key, speaker, reply
        self.cancelled = False
        self.answer: _Answer | None = None
        self._lock = threading.Lock()

    def begin(self, answer: _Answer) -> None:
        """From now on ``answer`` is what a cancellation cancels; Cancelled if there was one."""
        with self._lock:
            if self.cancelled:
                raise Cancelled("cancelled by its caller")
            self.answer = answer

    def cancel(self) -> None:
        """Give up; answered when its turn comes."""
        with self._lock:
            self.cancelled, answer = True, self.answer
        if answer is not None:
            answer.cancel()


class SoVITSStage:
    """Conditions in the caller's thread, on a GPU in batches in one of their own; flow matching in
    the engine's."""

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
        self._engine = FlowEngine(
            self._model.flow, slots=settings.slots, waiting_limit=settings.waiting
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
        self._round_to = 1
        self._graphed = GraphedConditions(self._model, place.device)
        self._queue: BatchQueue[_Work] | None = None
        self._stream: Any = None  # of the queue's thread, on a GPU
        if place.device != "cpu":
            self._stream = torch.cuda.Stream(place.device, priority=-1)  # type: ignore[no-untyped-call]
            self._encode_in_batches(ROUND_TO)
        self._engine.start()

    def _encode_in_batches(self, round_to: int) -> None:
        """From now on encode conditions in a thread, those that wait at the same time at once."""
        self._round_to = round_to
        self._queue = BatchQueue(
            "conditions", self._device, self._serve, lambda work, error: work.reply.fail(error)
        )

    def warm_up(self) -> None:
        """Solve one short flow, and on a GPU capture or meet the shapes of chunks, before the
        model reports ready."""
        self._engine.warm_up()
        if self._queue is not None:
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
        if self._queue is not None:
            self._queue.close()
        self._engine.stop()

    def load(self) -> Load:
        """The running batch of mel chunks."""
        stats = self._engine.stats()
        return Load(stats.running, stats.waiting, stats.steps, stats.rows)

    def submit(self, request: MelRequest, reply: Reply) -> Callable[[], None]:
        """Encode the conditions and put every sentence into the running batch.

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
        work = _Work(request, key, speaker, reply)
        if self._queue is not None:
            self._queue.put(work)
        else:
            (prepared,) = self._prepare([work])
            if isinstance(prepared, GsvError):
                raise prepared
            self._start(work, prepared)
        return work.cancel

    def _serve(self, batch: list[_Work]) -> None:
        """Start a batch of requests; each one's error is its own."""
        wanted = [work for work in batch if not work.cancelled]
        for work in (work for work in batch if work not in wanted):
            work.reply.fail(Cancelled("cancelled by its caller"))
        if not wanted:
            return
        try:
            answers = self._prepare(wanted)
        except Exception as error:  # whatever it is, the request at fault gets it
            end_if_fatal(error)
            if len(wanted) == 1:
                wanted[0].reply.fail(error)
                return
            for work in wanted:  # each alone, so that only the one at fault fails
                self._serve([work])
            return
        for work, prepared in zip(wanted, answers, strict=True):
            try:
                if isinstance(prepared, GsvError):
                    raise prepared
                self._start(work, prepared)
            except Exception as error:  # whatever it is, its caller gets it
                work.reply.fail(error)

    def _start(self, work: _Work, prepared: _Prepared) -> None:
        """Put the sentences into the running batch."""
        request, seed = work.request, resolve_seed(work.request.seed)
        turn = Turn.of(request.owner, request.listener_waits, request.listener_seconds)
        answer = _Answer(work.reply, self._engine, prepared, work.speaker)
        work.begin(answer)
        for index, (prompt, rest) in enumerate(prepared.parts):
            plan = sentence_requests(
                prompt,
                rest,
                request.sample_steps,
                seed,
                sentence=request.first_sentence + index,
                first_frame=request.first_frame,
                turn=turn,
            )
            answer.start(index, plan)
        if work.cancelled:  # meanwhile
            answer.cancel()

    @torch.inference_mode()
    def _prepare(self, batch: Sequence[_Work]) -> list[_Prepared | GsvError]:
        """References, conditions and pasts of requests that speak through one model.

        On a GPU in a stream of its own, so that it doesn't wait for the steps of the flow that are
        queued; afterwards it is done, so that other streams may read it.
        """
        if self._stream is None:
            return self._prepared(batch)
        with torch.cuda.stream(self._stream):
            prepared = self._prepared(batch)
        self._stream.synchronize()
        return prepared

    def _prepared(self, batch: Sequence[_Work]) -> list[_Prepared | GsvError]:
        heard = [self._reference(work) for work in batch]
        sentences = [
            Sentence(tokens, phonemes, timbre, work.request.speed)
            for work, (timbre, _) in zip(batch, heard, strict=True)
            for tokens, phonemes in _sentences(work.request)
        ]
        model = batch[0].speaker.model
        conditions = iter(encode(model, sentences, self._device, self._round_to, self._graphed))
        answers: list[_Prepared | GsvError] = []
        for work, (_, reference) in zip(batch, heard, strict=True):
            own = [next(conditions) for _ in range(work.rows)]
            try:
                parts = [self._after_past(work.request, reference, one) for one in own]
                answers.append(_Prepared(parts))
            except GsvError as error:
                answers.append(error)
        return answers

    def _after_past(
        self, request: MelRequest, reference: Reference, condition: Tensor
    ) -> tuple[Reference, Tensor]:
        """What the flow hears before the new frames, and the condition of those.

        The reference first, then the sentence's own past, the last frames of both together as
        many as the reference alone has: with chunks of that length it is upstream's sequential
        mode.
        """
        first = request.first_frame
        end = first + request.frame_count if request.frame_count else condition.shape[-1]
        if first == 0 or request.past_mel is None:
            return reference, condition[:, :end]
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
        return Reference(heard.condition[:, -limit:], heard.mel[:, -limit:]), condition[
            :, first:end
        ]

    def _reference(self, work: _Work) -> tuple[Tensor, Reference]:
        """Timbre [1, gin, 1], condition and mel of the reference; kept by content and weights."""
        request, model = work.request, work.speaker.model
        digest = hashlib.sha256(work.key.encode())
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


def _sentences(request: MelRequest) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Tokens and phonemes of each sentence."""
    return zip(
        split_by_counts(request.tokens, request.token_counts),
        split_by_counts(request.phonemes, request.phoneme_counts),
        strict=True,
    )


class _Answer:
    """One request: drives the chunk plan of each sentence, replies when the last one is done."""

    def __init__(
        self, reply: Reply, engine: FlowEngine, prepared: _Prepared, speaker: SoVITSVoice
    ) -> None:
        sentences = len(prepared.parts)
        # Kept until the flow has read it: its memory belongs to another stream, on a GPU.
        self._prepared: _Prepared | None = prepared
        self._reply = reply
        self._speaker = speaker
        self._engine = engine
        self._mels: list[Tensor | None] = [None] * sentences
        self._open = sentences
        self._ended = False
        self._handles: dict[int, Handle] = {}
        self._lock = threading.Lock()

    def start(self, index: int, plan: Generator[FlowRequest, Tensor, Tensor]) -> None:
        """Ask the plan of sentence ``index`` for its first chunk."""
        self._advance(index, plan, None)

    def cancel(self) -> None:
        """Take all sentences out of the running batch."""
        for handle in list(self._handles.values()):
            handle.cancel()

    def _advance(
        self, index: int, plan: Generator[FlowRequest, Tensor, Tensor], mel: Tensor | None
    ) -> None:
        """Give a chunk to the plan and submit the next one, or keep the finished sentence."""
        if self._ended:
            return
        try:
            request = self._speaker.request(next(plan) if mel is None else plan.send(mel))
        except StopIteration as finished:
            self._finish(index, finished.value)
            return
        try:
            self._handles[index] = self._engine.submit(
                request, lambda chunk: self._advance(index, plan, chunk), self._fail
            )
        except Exception as error:  # whatever it is, its caller gets it
            self._fail(error)

    def _finish(self, index: int, mel: Tensor) -> None:
        with self._lock:
            self._mels[index] = mel
            self._open -= 1
            if self._open or self._ended:
                return
            self._ended = True
        mels = [m for m in self._mels if m is not None]
        whole = audio.denormalize_mel(torch.cat(mels, dim=-1).float())
        counts = np.array([m.shape[-1] for m in mels], np.int32)
        self._reply.send(MelResult(whole.contiguous().numpy(), counts), final=True)
        self._prepared = None

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._ended:
                return
            self._ended = True
        self.cancel()
        self._reply.fail(error)
