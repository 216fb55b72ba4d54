"""semantic_gpt: phonemes and prompt tokens → semantic tokens.

The engine owns weights, cache and the running batch; every sentence is a sequence of its own there.
It serves whole answers, as the pipeline's step, and single sentences in chunks, to streams.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.checkpoints.store import load_module_state
from gsv.checkpoints.voice_weights import parameters_in, read_gpt
from gsv.config import GPTConfig
from gsv.constants import MAX_TOKENS
from gsv.device import memory_free
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.guard import DEFAULT_RETRIES, Cancellable, Guard, submit_guarded
from gsv.engine.gpt.judge import (
    BoundsTable,
    phonemes_by_language,
    silent_tokens,
)
from gsv.engine.gpt.sequence import IsBuffered, SamplingParams, SequenceRequest
from gsv.engine.turns import Turn
from gsv.errors import InvalidRequest
from gsv.models.gpt import SemanticGPT
from gsv.options import resolve_seed
from gsv.precision import DEFAULT, torch_dtype
from gsv.reply import CancellableReply, Reply
from gsv.stages.arrays import split_by_counts
from gsv.stages.base import Load, Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.messages import MoreTokens, SemanticRequest, SemanticResult
from gsv.stages.sizing import LANDING_ROWS, positions, row_bytes, slots, voices_budget
from gsv.stages.token_sessions import TokenSessions
from gsv.voices.lease import start_in_voice
from gsv.voices.metrics import VoiceMetrics
from gsv.voices.weight_cache import WeightCache

logger = logging.getLogger(__name__)

CPU_BUDGET_MIB = 4096


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the engine."""

    dtype: str = DEFAULT
    slots: int = 0  # sequences in the running batch; 0 is as many as fit
    waiting: int = 1024  # sequences that may wait; one more is refused
    max_tokens: int = 1500  # a sentence is cut after this many (60 s)
    max_length: int = 0  # phonemes and tokens of a sentence and its prompt; 0 is the device's
    voice_folder: str = "../voices"  # relative to the model repository
    retries: int = DEFAULT_RETRIES  # of a sentence that the guard finds bad
    voice_slots: int = 8  # sequences in the running batch of a voice with its own GPT
    memory_budget_mib: int = 0  # of all voices' own GPTs together; 0 is a share of a GPU's


class SemanticGPTStage:
    """The continuous batch; one sequence a sentence."""

    request_type = SemanticRequest
    result_type = SemanticResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._config = GPTConfig.load(place.folder / "gpt.json")
        model = SemanticGPT(self._config)
        model.load_state_dict(load_module_state(place.folder / "gpt.safetensors"), strict=True)
        self._max_tokens = settings.max_tokens
        self._bounds = BoundsTable.load(place.folder)
        self._retries = settings.retries
        dtype = torch_dtype(settings.dtype, place.device, int8=True)
        self._itemsize = max(2, dtype.itemsize)
        free = memory_free(place.device)
        self._max_length = positions(settings.max_length, free)
        row = row_bytes(self._config, self._max_length, self._itemsize)
        count = slots(settings.slots, free, row)
        budget = voices_budget(settings.memory_budget_mib, free, CPU_BUDGET_MIB)
        logger.info(
            "semantic_gpt on %s: %s, %d slots of %d positions (%d MiB%s), %d MiB for voices",
            place.device, dtype, count, self._max_length, count * row >> 20,
            " at most" if free is None else "", budget >> 20,
        )  # fmt: skip
        self._engine = Engine(
            model,
            device=place.device,
            dtype=dtype,
            slots=count,
            waiting_limit=settings.waiting,
            max_length=self._max_length,
        )
        self._on_gpu = place.device != "cpu"
        self._voice_slots = settings.voice_slots
        self._sessions = TokenSessions()
        voices = place.voices(settings.voice_folder, "")
        self.voice_metrics = VoiceMetrics(voices)
        self._weight_cache: WeightCache[str] = WeightCache(
            "voices-gpt",
            voices,
            which=lambda voice: voice.gpt,
            size=self._size,
            load=self._load,
            unload=self._unload,
            budget=budget,
            waiting_limit=settings.waiting,
            device=place.device,
            voice_metrics=self.voice_metrics,
        )

    def warm_up(self) -> None:
        """Run the engine's own warm-up before the model reports ready, then start it."""
        self._engine.warm_up()
        self._engine.start()

    def close(self) -> None:
        """Stop the engine; whoever still waits gets an error."""
        self._weight_cache.close()
        self._engine.stop()

    def load(self) -> Load:
        """The running batch of sentences."""
        stats = self._engine.stats()
        return Load(stats.running, stats.waiting, stats.counters.steps, stats.counters.rows)

    @staticmethod
    def read_request(values: dict[str, Any]) -> SemanticRequest | MoreTokens:
        """The request that a caller sent: the start of a sequence, or what comes after it.

        Raises:
            InvalidRequest: a value is missing or wrong.
        """
        kind = SemanticRequest if values["start"] else MoreTokens
        fields = dataclasses.fields(kind)
        required = [f.name for f in fields if f.default is MISSING]
        if missing := [name.upper() for name in required if name not in values]:
            raise InvalidRequest(
                f"{', '.join(missing)}: missing; the first request of a sequence brings them all"
            )
        return kind(**{f.name: values[f.name] for f in fields if f.name in values})

    def submit(
        self, request: SemanticRequest | MoreTokens, reply: CancellableReply
    ) -> Callable[[], None]:
        """Put every sentence into the running batch of its voice, loading that first if need be.

        A sequence that goes on brings one sentence, which is fetched in chunks; to cancel one of
        its requests cancels the sentence.
        """
        if isinstance(request, MoreTokens):
            return self._continue(request, reply)
        if request.end:
            return self._start(request, reply)
        session = self._sessions.begin(request.sequence, _chunk)
        try:
            session.cancel = self._start(request, session, session.is_buffered)
        except BaseException:  # whatever it is, no session is left behind
            self._sessions.abandon(request.sequence)
            raise
        session.ask(reply, request.chunk_tokens)
        self._engine.wake()
        return session.cancel

    def _continue(self, request: MoreTokens, reply: CancellableReply) -> Callable[[], None]:
        if request.end:
            self._sessions.abandon(request.sequence)
            reply.send(_chunk(np.zeros(0, np.int32), True), final=True)
            return lambda: None
        session = self._sessions.find(request.sequence)
        session.ask(reply, request.chunk_tokens)
        self._engine.wake()
        return session.cancel

    def sweep(self) -> None:
        """Stop sentences whose streams have ended or been idle for too long; called regularly."""
        self._sessions.sweep()

    def _start(
        self, request: SemanticRequest, reply: Reply, is_buffered: IsBuffered = lambda: False
    ) -> Callable[[], None]:
        return start_in_voice(
            self._weight_cache,
            request.voice,
            reply,
            lambda model, _, leased: self._begin(request, model, leased, is_buffered),
        )

    def _size(self, path: Path) -> int:
        """Bytes of a voice's GPT: on a CPU the kernel keeps matrices of its own, on a GPU the cache
        is taken at once."""
        weights = parameters_in(path) * self._itemsize
        if not self._on_gpu:
            return 2 * weights
        row = row_bytes(self._config, self._max_length, self._itemsize)
        return weights + (self._voice_slots + LANDING_ROWS) * row

    def _load(self, key: str, path: Path) -> str:
        model = SemanticGPT(self._config)
        model.load_state_dict(read_gpt(path, self._config), strict=True)
        self._engine.add_model(key, model, self._voice_slots)
        return key

    def _unload(self, key: str, _: str) -> None:
        """Let a voice's GPT go, and its memory with it: what is left are circles of objects."""
        self._engine.remove_model(key)
        gc.collect()

    def _begin(
        self, request: SemanticRequest, model: str, reply: Reply, is_buffered: IsBuffered
    ) -> Callable[[], None]:
        answer = _Gathering(reply, len(request.phoneme_counts), streaming=not request.end)
        try:
            guards = self._guards(request)
            for index, sequence in enumerate(self._sequences(request, model, is_buffered)):
                callbacks = answer.callbacks(index)
                if guards:
                    guarded = submit_guarded(
                        self._engine.submit, sequence, guards[index], *callbacks
                    )
                    answer.add(guarded)
                else:
                    answer.add(self._engine.submit(sequence, *callbacks))
        except BaseException:  # whatever it is, no sentence runs on
            answer.cancel()
            raise
        return answer.cancel

    def _guards(self, request: SemanticRequest) -> list[Guard]:
        """The guard of each sentence; none where the request wants none."""
        if not request.guard:
            return []
        silent = silent_tokens(request.prompt_tokens)
        counts = phonemes_by_language(request.phoneme_counts, request.phoneme_languages)
        # What a stream asks for at first is what its first chunk needs.
        first = None if request.end or request.chunk_tokens >= MAX_TOKENS else request.chunk_tokens
        return [Guard(self._bounds.limits(count, silent), self._retries, first) for count in counts]

    def _sequences(
        self, request: SemanticRequest, model: str, is_buffered: IsBuffered
    ) -> list[SequenceRequest]:
        params = SamplingParams(
            top_k=request.top_k,
            top_p=request.top_p,
            temperature=request.temperature,
            repetition_penalty=request.repetition_penalty,
            seed=resolve_seed(request.seed),
            max_tokens=self._max_tokens,
        )
        turn = Turn.of(request.owner, request.listener_waits, request.listener_seconds)
        drawn = request.drawn_tokens
        prefix = np.zeros(0, np.int32) if drawn is None else drawn
        prompt_bert = request.prompt_bert_features[request.prompt_bert_rows]
        sentences = zip(
            split_by_counts(request.phonemes, request.phoneme_counts),
            split_by_counts(request.bert_rows, request.phoneme_counts),
            strict=True,
        )
        return [
            SequenceRequest(
                phonemes=np.concatenate([request.prompt_phonemes, phonemes]),
                bert=np.concatenate([prompt_bert, request.bert_features[rows]]),
                prompt_tokens=request.prompt_tokens,
                params=params,
                sentence=request.first_sentence + index,
                chunk_tokens=min(request.chunk_tokens, 1),  # the session cuts chunks
                model=model,
                is_buffered=is_buffered,
                prefix_tokens=prefix,
                turn=turn,
            )
            for index, (phonemes, rows) in enumerate(sentences)
        ]


def _chunk(tokens: NDArray[np.int32], last: bool) -> SemanticResult:
    return SemanticResult(tokens, np.array([len(tokens)], np.int32), is_last=int(last))


class _Gathering:
    """Collects the sentences of one request, or passes one sentence's chunks on."""

    def __init__(self, reply: Reply, sentences: int, *, streaming: bool) -> None:
        self._reply = reply
        self._streaming = streaming
        self._chunks: list[list[NDArray[np.int32]]] = [[] for _ in range(sentences)]
        self._open = sentences
        self._handles: list[Cancellable] = []
        self._failed = False
        self._lock = threading.Lock()

    def add(self, handle: Cancellable) -> None:
        self._handles.append(handle)

    def cancel(self) -> None:
        for handle in self._handles:
            handle.cancel()

    def callbacks(
        self, index: int
    ) -> tuple[Callable[[NDArray[np.int32], bool], None], Callable[[BaseException], None]]:
        """What the engine calls for sentence ``index``: with tokens, and with an error."""
        return lambda tokens, done: self._take(index, tokens, done), self._fail

    def _take(self, index: int, tokens: NDArray[np.int32], done: bool) -> None:
        tokens = tokens.astype(np.int32, copy=False)
        if self._streaming:
            self._reply.send(_chunk(tokens, done), final=done)
            return
        with self._lock:
            self._chunks[index].append(tokens)
            self._open -= done
            finished = self._open == 0 and not self._failed
        if finished:
            sentences = [np.concatenate(chunks) for chunks in self._chunks]
            counts = np.array([len(s) for s in sentences], np.int32)
            self._reply.send(SemanticResult(np.concatenate(sentences), counts, 1), final=True)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            self.cancel()
            self._reply.fail(error)
