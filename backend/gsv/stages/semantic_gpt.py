"""semantic_gpt_engine and semantic_gpt: phonemes and prompt tokens → semantic tokens.

The engine owns weights, cache and the running batch; every sentence of a request is a sequence of
its own. It serves whole answers, to ``semantic_gpt``, the pipeline's step, which is a thin face on
it, and sentences in portions, to streams.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsv.checkpoints.store import load_module_state
from gsv.checkpoints.voice_weights import parameters_in, read_gpt
from gsv.config import GPTConfig
from gsv.constants import BERT_DIM, EOS, PHONEMES
from gsv.device import memory_free
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.guard import DEFAULT_RETRIES, Cancellable, Guard, submit_guarded
from gsv.engine.gpt.judge import (
    PHONEME_LANGUAGES,
    BoundsTable,
    phonemes_by_language,
    silent_tokens,
)
from gsv.engine.gpt.sequence import IsBuffered, SamplingParams, SequenceRequest
from gsv.errors import InvalidRequest
from gsv.models.gpt import SemanticGPT
from gsv.options import DEFAULTS, check_range, check_seed, resolve_seed
from gsv.precision import DEFAULT, torch_dtype
from gsv.reply import Reply
from gsv.stages.base import Load, Place, check_counts, check_ids, split_by_counts
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.calls import ENGINE, CallModel, CallPool, CancelScope
from gsv.stages.sizing import LANDING_ROWS, positions, row_bytes, slots, voices_budget
from gsv.stages.token_sessions import TokenSessions
from gsv.voices.lease import start_in_voice
from gsv.voices.metrics import VoiceMetrics
from gsv.voices.weight_cache import WeightCache

logger = logging.getLogger(__name__)

CPU_BUDGET_MIB = 4096


@dataclasses.dataclass(frozen=True)
class Request:
    """Sentences to speak, the reference before them, and how to sample."""

    phonemes: NDArray[np.int32]  # [n], all sentences
    phoneme_counts: NDArray[np.int32]  # [sentences]
    bert_features: NDArray[np.float32]  # [rows, 1024]
    bert_rows: NDArray[np.int32]  # [n]
    prompt_phonemes: NDArray[np.int32]  # [p]
    prompt_bert_features: NDArray[np.float32]  # [prompt rows, 1024]
    prompt_bert_rows: NDArray[np.int32]  # [p]
    prompt_tokens: NDArray[np.int32]  # [tokens]
    top_k: int = DEFAULTS.top_k
    top_p: float = DEFAULTS.top_p
    temperature: float = DEFAULTS.temperature
    repetition_penalty: float = DEFAULTS.repetition_penalty
    seed: int = DEFAULTS.seed
    voice: str = ""  # one with a GPT of its own speaks through that
    phoneme_languages: NDArray[np.int32] | None = None  # [n], places in PHONEME_LANGUAGES
    guard: int = DEFAULTS.guard  # 1: a sentence that goes bad is drawn again

    def __post_init__(self) -> None:
        check_counts("PHONEME_COUNTS", self.phoneme_counts, len(self.phonemes), "PHONEMES")
        check_ids("PHONEMES", self.phonemes, PHONEMES)
        check_ids("PROMPT_PHONEMES", self.prompt_phonemes, PHONEMES)
        check_ids("PROMPT_TOKENS", self.prompt_tokens, EOS)
        for prefix, table, rows, ids in (
            ("", self.bert_features, self.bert_rows, self.phonemes),
            ("PROMPT_", self.prompt_bert_features, self.prompt_bert_rows, self.prompt_phonemes),
        ):
            if table.ndim != 2 or table.shape[1] != BERT_DIM:
                raise InvalidRequest.value(
                    f"{prefix}BERT_FEATURES", list(table.shape), f"[rows, {BERT_DIM}]"
                )
            check_ids(f"{prefix}BERT_ROWS", rows, len(table))
            if len(rows) != len(ids):
                raise InvalidRequest.value(
                    f"{prefix}BERT_ROWS", f"{len(rows)} rows", f"{len(ids)}, one a phoneme"
                )
        for name in ("top_k", "top_p", "temperature", "repetition_penalty"):
            check_range(name.upper(), getattr(self, name))
        check_range("GUARD", self.guard)
        check_seed(self.seed)
        if self.phoneme_languages is not None:
            check_ids("PHONEME_LANGUAGES", self.phoneme_languages, len(PHONEME_LANGUAGES))
            if len(self.phoneme_languages) != len(self.phonemes):
                raise InvalidRequest.value(
                    "PHONEME_LANGUAGES",
                    f"{len(self.phoneme_languages)} entries",
                    f"{len(self.phonemes)}, one a phoneme",
                )


@dataclasses.dataclass(frozen=True)
class EngineRequest(Request):
    """The same, and in what portions to answer."""

    first_sentence: int = 0  # index of the first sentence in the caller's whole text
    chunk_tokens: int = 0  # tokens of one sentence in an answer, at the least; 0 is everything
    job: str = ""  # the caller's name for that sentence
    portion: int = 0  # 0 begins the sentence, n asks for its next tokens and reads nothing else

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chunk_tokens < 0 or (self.chunk_tokens > 0) != bool(self.job):
            raise InvalidRequest.value(
                "CHUNK_TOKENS", self.chunk_tokens, "1 or more with a JOB, 0 without"
            )
        if self.job and len(self.phoneme_counts) != 1:
            raise InvalidRequest.value(
                "PHONEME_COUNTS", f"{len(self.phoneme_counts)} sentences", "one sentence with JOB"
            )


@dataclasses.dataclass(frozen=True)
class Result:
    """Semantic tokens, 25 a second of speech."""

    tokens: NDArray[np.int32]  # [m], all sentences
    token_counts: NDArray[np.int32]  # [sentences]


@dataclasses.dataclass(frozen=True)
class EngineResult(Result):
    """The same, and whether the sentence of a JOB goes on."""

    ended: int = 1  # 0: there is another portion


@dataclasses.dataclass(frozen=True)
class EngineSettings(BaseSettings):
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


class SemanticGPTEngineStage:
    """The continuous batch; one sequence a sentence."""

    request_type = EngineRequest
    result_type = EngineResult
    settings_type = EngineSettings

    def __init__(self, place: Place, settings: EngineSettings) -> None:
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
            "semantic_gpt_engine on %s: %s, %d slots of %d positions (%d MiB%s), %d MiB for voices",
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

    def submit(self, request: EngineRequest, reply: Reply) -> Callable[[], None]:
        """Put every sentence into the running batch of its voice, loading that first if need be.

        The portions of a job come out of one sentence; to cancel one of them cancels the sentence.
        """
        if not request.job:
            return self._start(request, reply)
        if request.portion > 0:
            session = self._sessions.find(request.job)
        else:
            session = self._sessions.begin(request.job, _portion)
            try:
                session.cancel = self._start(request, session, session.is_buffered)
            except BaseException:
                self._sessions.abandon(request.job)
                raise
        session.ask(reply, request.chunk_tokens, request.portion)
        self._engine.wake()
        return session.cancel

    def abandon(self, job: str) -> None:
        """Stop a job that nobody will ask for any more."""
        self._sessions.abandon(job)

    def _start(
        self, request: EngineRequest, reply: Reply, is_buffered: IsBuffered = lambda: False
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
        self, request: EngineRequest, model: str, reply: Reply, is_buffered: IsBuffered
    ) -> Callable[[], None]:
        answer = _Gathering(reply, len(request.phoneme_counts), streaming=bool(request.job))
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
        except BaseException:
            answer.cancel()
            raise
        return answer.cancel

    def _guards(self, request: EngineRequest) -> list[Guard]:
        """The guard of each sentence; none where the request wants none."""
        if not request.guard:
            return []
        silent = silent_tokens(request.prompt_tokens)
        counts = phonemes_by_language(request.phoneme_counts, request.phoneme_languages)
        # What a stream asks for at first is what its first chunk needs.
        first = request.chunk_tokens if request.job else None
        return [Guard(self._bounds.limits(count, silent), self._retries, first) for count in counts]

    def _sequences(
        self, request: EngineRequest, model: str, is_buffered: IsBuffered
    ) -> list[SequenceRequest]:
        params = SamplingParams(
            top_k=request.top_k,
            top_p=request.top_p,
            temperature=request.temperature,
            repetition_penalty=request.repetition_penalty,
            seed=resolve_seed(request.seed),
            max_tokens=self._max_tokens,
        )
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
                chunk_tokens=min(request.chunk_tokens, 1),  # portions are cut by who hands them out
                model=model,
                is_buffered=is_buffered,
            )
            for index, (phonemes, rows) in enumerate(sentences)
        ]


def _portion(tokens: NDArray[np.int32], last: bool) -> EngineResult:
    return EngineResult(tokens, np.array([len(tokens)], np.int32), ended=int(last))


class _Gathering:
    """Collects the sentences of one request, or passes one sentence's portions on."""

    def __init__(self, reply: Reply, sentences: int, *, streaming: bool) -> None:
        self._reply = reply
        self._streaming = streaming
        self._portions: list[list[NDArray[np.int32]]] = [[] for _ in range(sentences)]
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
            self._reply.send(_portion(tokens, done), final=done)
            return
        with self._lock:
            self._portions[index].append(tokens)
            self._open -= done
            finished = self._open == 0 and not self._failed
        if finished:
            sentences = [np.concatenate(portions) for portions in self._portions]
            counts = np.array([len(s) for s in sentences], np.int32)
            self._reply.send(EngineResult(np.concatenate(sentences), counts), final=True)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first, self._failed = not self._failed, True
        if first:
            self.cancel()
            self._reply.fail(error)


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the face."""

    concurrency: int = 64
    waiting: int = 256


class SemanticGPTStage:
    """The whole answer of the engine, gathered."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings, call: CallModel) -> None:
        self._pool = CallPool("semantic", call, settings.concurrency, settings.waiting)

    def warm_up(self) -> None:
        """The engine warms itself up."""

    def close(self) -> None:
        """Wait for calls under way."""
        self._pool.close()

    def load(self) -> None:
        """The running batch is the engine's."""

    def submit(self, request: Request, reply: Reply) -> Callable[[], None]:
        """Ask the engine; the answer leaves when its last sentence is done."""

        def work(scope: CancelScope) -> None:
            given = {f.name.upper(): getattr(request, f.name) for f in dataclasses.fields(Request)}
            tensors = {name: value for name, value in given.items() if value is not None}
            answer = scope(ENGINE, tensors, ["TOKENS", "TOKEN_COUNTS"])
            reply.send(Result(answer["TOKENS"], answer["TOKEN_COUNTS"]), final=True)

        return self._pool.submit(work, reply)
