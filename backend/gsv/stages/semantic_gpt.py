"""semantic_gpt: phonemes and prompt tokens → semantic tokens.

The engine owns weights, cache and the running batch; every sentence is a sequence of its own there.
It serves whole answers, as the pipeline's step, and single sentences in chunks, to streams.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.checkpoints.store import load_module_state
from gsv.checkpoints.voice_weights import parameters_in, read_gpt
from gsv.config import GPTConfig
from gsv.device import memory_free
from gsv.engine.gpt.aligner import Aligner
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.guard import DEFAULT_RETRIES
from gsv.engine.gpt.judge import BoundsTable, silent_tokens
from gsv.engine.gpt.sequence import IsBuffered, SamplingParams
from gsv.errors import InvalidRequest
from gsv.models.gpt import SemanticGPT
from gsv.options import resolve_seed
from gsv.precision import DEFAULT, torch_dtype
from gsv.reply import CancellableReply, Reply
from gsv.stages.base import Load, Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.drawn_answer import DrawnAnswer
from gsv.stages.messages import MoreTokens, SemanticRequest, SemanticResult
from gsv.stages.sentence_list import GuardSettings, SentenceList
from gsv.stages.sentence_report import GuardCounts
from gsv.stages.sizing import LANDING_ROWS, positions, row_bytes, slots, voices_budget
from gsv.stages.token_sessions import TokenSessions
from gsv.timings import Timings
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
        self.timings = Timings("queue")
        self._engine = Engine(
            model,
            device=place.device,
            dtype=dtype,
            slots=count,
            waiting_limit=settings.waiting,
            max_length=self._max_length,
            on_wait=self.timings.waited,
            give_way=place.give_way(),
        )
        self._aligner = Aligner(self._engine.model_of, place.device)
        self.guard_counts = GuardCounts()
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
        self._aligner.close()

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
        if not request.in_chunks:
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
            reply.send(_chunk(np.zeros(0, np.int32), True, None), final=True)
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
        """Let a voice's GPT go. Its objects refer to each other: only a collection frees them."""
        self._engine.remove_model(key)
        gc.collect()

    def _begin(
        self, request: SemanticRequest, model: str, reply: Reply, is_buffered: IsBuffered
    ) -> Callable[[], None]:
        params = SamplingParams(
            top_k=request.top_k,
            top_p=request.top_p,
            temperature=request.temperature,
            repetition_penalty=request.repetition_penalty,
            seed=resolve_seed(request.seed),
            max_tokens=self._max_tokens,
        )
        sentences = SentenceList(request, params, model, is_buffered)
        silent = silent_tokens(request.prompt_tokens)
        guards = GuardSettings(self._bounds, self._retries, silent)
        slots = self._voice_slots if model else self._engine.stats().slots
        answer = DrawnAnswer(reply, sentences, guards, self._aligner, self.guard_counts)
        answer.begin(self._engine.submit, at_once=slots)
        return answer.cancel


def _chunk(tokens: NDArray[np.int32], last: bool, latest: SemanticResult | None) -> SemanticResult:
    """A chunk of a stream; beside its tokens it says what the ``latest`` of them came with."""
    counts = np.array([len(tokens)], np.int32)
    if latest is None:
        return SemanticResult(tokens, counts, is_last=int(last))
    return dataclasses.replace(latest, tokens=tokens, token_counts=counts, is_last=int(last))
