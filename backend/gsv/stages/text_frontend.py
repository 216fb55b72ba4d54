"""text_frontend: text and its language → phoneme ids and BERT features, sentence by sentence.

Only Chinese pieces have BERT features; they are carried as one row a character, and each phoneme
names its row (row 0 is all zeros). What comes of a voice's transcript is kept beside the voice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsv.constants import BERT_DIM, PHONEMES
from gsv.device import end_if_fatal, prepare
from gsv.engine.gpt.judge import PHONEME_LANGUAGES, language_of
from gsv.errors import Cancelled, ConfigurationError, GsvError, InvalidRequest, VoiceError
from gsv.options import (
    READINGS,
)
from gsv.precision import DEFAULT, torch_dtype
from gsv.reply import Reply
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.messages import TextRequest, TextResult
from gsv.stages.pretrained import BertFeatures, load_bert
from gsv.text.frontend import TextFrontend
from gsv.text.lexicon import Lexicon
from gsv.text.symbols import LANGUAGES
from gsv.text.types import Sentence
from gsv.timings import Timings
from gsv.voices import Voice
from gsv.voices.feature_cache import FeatureCache
from gsv.voices.features import Arrays, FeatureStore, Layout
from gsv.voices.metrics import VoiceMetrics

logger = logging.getLogger(__name__)

_LEXICA = 64  # of voices, kept
_PROMPTS = 128  # transcripts of voices, kept
_LOAD_SECONDS = 2.0  # between two languages that nobody has asked for yet
_TURN_CHARACTERS = 256  # that BERT reads in a turn, unless one piece has more


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    dtype: str = DEFAULT  # of BERT
    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""
    bert_cache: int = 512  # sentences
    reading: str = READINGS[0]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What comes of a transcript; empty where there is none."""

    phonemes: NDArray[np.int32]  # [p]
    bert_features: NDArray[np.float32]  # [prompt rows, 1024]
    bert_rows: NDArray[np.int32]  # [p]


_LAYOUT = {
    "phonemes": Layout(np.int32, (None,), PHONEMES),
    "bert_features": Layout(np.float32, (None, BERT_DIM)),
    "bert_rows": Layout(np.int32, (None,)),
}


@dataclasses.dataclass(frozen=True)
class _Analysed:
    """A request's sentences, and its transcript: known already, or analysed."""

    sentences: list[Sentence]
    prompt: Prompt | None = None
    transcript: Sentence | None = None
    voice: Voice | None = None  # whose transcript it is
    key: str = ""  # under which it will be kept
    pinned: str = ""  # the voice that speaks, with its content


class TextFrontendStage:
    """Sentence splitting, segmentation, normalisation, phonemes; then BERT for all that are ready.

    One thread does the work of all requests in turns, a sentence of each at a time: a long text
    delays a short one by a sentence, not by the whole of it.
    """

    request_type = TextRequest
    result_type = TextResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._frontend = TextFrontend(place.folder / "text_data", reading=settings.reading)
        dtype = torch_dtype(settings.dtype, place.device, half=torch.float16)
        self._bert: BertFeatures = load_bert(
            place.folder / "bert", place.device, dtype, cache_size=settings.bert_cache
        )
        self._voices = place.voices(settings.voice_folder, settings.default_voice)
        self._lexica: OrderedDict[str, Lexicon] = OrderedDict()
        self.voice_metrics = VoiceMetrics(self._voices)
        self.timings = Timings("queue")
        words = self._frontend.data.lexicon  # the operator's, in no manifest
        own = "" if words is None else hashlib.sha256(words.read_bytes()).hexdigest()
        encoder = place.identity(dtype, own, settings.reading)
        store = FeatureStore("text", encoder, _LAYOUT)
        self._prompts: FeatureCache[Prompt] = FeatureCache(
            store, _PROMPTS, self.voice_metrics, dataclasses.asdict, _unpack
        )
        self._device = place.device
        self._is_awaited = place.is_awaited
        self._unloaded: list[str] = []  # languages that are loaded one after the other
        self._load_next = 0.0  # when, by time.monotonic
        self._new: list[_Job] = []
        self._closing = False
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None

    def warm_up(self) -> None:
        """Load every language's data and run BERT once.

        Where callers wait already, a language is loaded when the first of them needs it, the others
        one by one afterwards.
        """
        self._bert(["你好"])
        if self._is_awaited:
            self._unloaded = list(LANGUAGES)
            self._load_next = time.monotonic() + _LOAD_SECONDS
            self._start()
        else:
            self._frontend.warm_up()

    def close(self) -> None:
        """End the thread; what is not answered then is refused."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._worker is not None:
            self._worker.join()

    def load(self) -> None:
        """Requests are short: there is no running batch to tell of."""

    def submit(self, request: TextRequest, reply: Reply) -> Callable[[], None]:
        """Put a request in line; what is returned takes it out again."""
        job = _Job(request, reply)
        with self._changed:
            if self._closing:
                raise Cancelled("the server is stopping")
            self._start()
            self._new.append(job)
            self._changed.notify()

        def cancel() -> None:
            job.left = True

        return cancel

    def _start(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="text", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        """Take turns until the stage is closed."""
        prepare(self._device)
        jobs: list[_Job] = []
        while True:
            with self._changed:
                while not (self._new or jobs or self._closing or self._load_due() == 0):
                    self._changed.wait(self._load_due())
                jobs += self._new
                self._new.clear()
                if self._closing:
                    break
            jobs = self._turn(jobs)
            if self._load_due() == 0:
                self._load(self._unloaded.pop(0))
        for job in jobs:
            job.reply.fail(Cancelled("the server is stopping"))

    def _load(self, language: str) -> None:
        """Load a language; one that can't be loaded is refused to those who ask for it."""
        try:
            self._frontend.warm_up([language])
        except Exception as error:  # whatever it is, the other languages are served
            logger.warning("%s text can't be read: %s: %s", language, type(error).__name__, error)
        self._load_next = time.monotonic() + _LOAD_SECONDS

    def _load_due(self) -> float | None:
        """Seconds until the next language is to be loaded; None: all are."""
        return max(0.0, self._load_next - time.monotonic()) if self._unloaded else None

    def _turn(self, jobs: list[_Job]) -> list[_Job]:
        """One sentence of each request, then BERT for some of those that are analysed.

        Returns:
            The requests that are not answered yet.
        """
        for job in jobs:
            try:
                self._step(job)
            except Exception as error:  # whatever it is, its caller gets it
                end_if_fatal(error)
                job.end(error)
        ready = [job for job in jobs if job.analysed is not None and not job.ended]
        try:
            self._encode(ready)
        except Exception as error:  # whatever it is, its callers get it
            end_if_fatal(error)
            for job in ready:  # whose text it was is not known
                job.end(error)
        return [job for job in jobs if not job.ended]

    def _step(self, job: _Job) -> None:
        """Read one more sentence of a request."""
        if job.left:
            job.end(Cancelled("the caller went away"))
        if job.ended or job.analysed is not None:
            return
        if job.steps is None:
            self.timings.waited(time.monotonic() - job.submitted)
            job.steps = self._analysing(job.request)
        try:
            next(job.steps)
        except StopIteration as end:
            analysed: _Analysed = end.value
            job.analysed = analysed
            job.texts = _chinese_texts(analysed)

    def _encode(self, ready: list[_Job]) -> None:
        """BERT for as many texts as a turn has time for, those of short requests first."""
        left = _TURN_CHARACTERS
        batch: list[str] = []
        for job in sorted(ready, key=lambda job: sum(map(len, job.texts))):
            while job.texts and (left > 0 or not batch):
                text = job.texts.pop()
                batch.append(text)
                job.taken.append(text)
                left -= len(text)
        found = dict(zip(batch, self._bert(batch), strict=True)) if batch else {}
        for job in ready:
            job.features |= {text: found[text] for text in job.taken}
            job.taken.clear()
            if not job.texts and job.analysed is not None:
                prompt = self._prompt(job.analysed, job.features)
                job.end(_pack(job.request, job.analysed, prompt, job.features))

    def run_batch(self, requests: Sequence[TextRequest]) -> list[TextResult | GsvError]:
        """Analyse each text by itself, then run BERT once over all Chinese pieces of the batch."""
        analysed: list[_Analysed | GsvError] = []
        for request in requests:
            try:
                analysed.append(self._analysed(request))
            except GsvError as error:
                analysed.append(error)
        features = self._features([a for a in analysed if not isinstance(a, GsvError)])
        return [
            a if isinstance(a, GsvError) else _pack(r, a, self._prompt(a, features), features)
            for r, a in zip(requests, analysed, strict=True)
        ]

    def _analysed(self, request: TextRequest) -> _Analysed:
        """The text's sentences and the transcript, all at once."""
        steps = self._analysing(request)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                analysed: _Analysed = end.value
                return analysed

    def _analysing(self, request: TextRequest) -> Generator[None, None, _Analysed]:
        """The text's sentences and the transcript, with the words of the voice's own lexicon."""
        voice = self._voice(request)
        lexicon = self._lexicon(voice) if voice else None
        pinned = voice.pinned if voice else request.voice
        sentences = yield from self._frontend.analyze_in_steps(
            request.text, request.language, request.split_method, lexicon
        )
        if unread := sum(len(sentence.unread) for sentence in sentences):
            label = self.voice_metrics.label(
                request.voice, own_recording=bool(request.reference_text)
            )
            self.voice_metrics.count("unread_characters", label, unread)
        if request.reference_text:
            transcript = self._frontend.prompt(
                request.reference_text, request.reference_language, lexicon
            )
            return _Analysed(sentences, transcript=transcript, pinned=pinned)
        if voice is None:
            return _Analysed(sentences, pinned=pinned)
        key = self._prompts.key(voice, voice.lexicon_content)
        prompt = self._prompts.find(voice, key)
        if prompt is not None:
            return _Analysed(sentences, prompt, pinned=pinned)
        try:
            transcript = self._frontend.prompt(voice.text, voice.language, lexicon)
        except InvalidRequest as error:  # of nothing that the caller has sent
            raise VoiceError(f"voice {voice.name}: its text can't be read: {error}") from error
        return _Analysed(sentences, transcript=transcript, voice=voice, key=key, pinned=pinned)

    def _prompt(self, analysed: _Analysed, features: dict[str, NDArray[np.float32]]) -> Prompt:
        """The transcript of one request, kept if it is a voice's."""
        if analysed.prompt is not None:
            return analysed.prompt
        transcript = analysed.transcript
        table, rows = _bert_table([transcript] if transcript else [], features)
        ids = transcript.ids if transcript else ()
        prompt = Prompt(np.array(ids, np.int32), table, rows)
        if analysed.voice is not None:
            self._prompts.keep(analysed.voice, analysed.key, prompt)
        return prompt

    def _voice(self, request: TextRequest) -> Voice | None:
        """The voice that speaks; None for a reference in the request, or for analysis alone."""
        default = self._voices.default
        known = bool(default) and default.partition("/")[0] in self._voices
        if not request.voice and (request.reference_text or not known):
            return None  # where a reference is missing, the reference encoder says so
        return self._voices.get(request.voice)

    def _lexicon(self, voice: Voice) -> Lexicon | None:
        """The voice's lexicon, made once for each content of its folder."""
        if not voice.lexicon:
            return None
        key = f"{voice.name.partition('/')[0]}@{voice.digest}"
        if key not in self._lexica:
            try:
                self._lexica[key] = self._frontend.voice_lexicon(voice.lexicon)
            except ConfigurationError as error:
                raise VoiceError(f"voice {voice.name}: {error}") from error
        self._lexica.move_to_end(key)
        while len(self._lexica) > _LEXICA:
            self._lexica.popitem(last=False)
        return self._lexica[key]

    def _features(self, analysed: list[_Analysed]) -> dict[str, NDArray[np.float32]]:
        """Features [characters, 1024] of every Chinese piece, by its normalised text."""
        texts = list(dict.fromkeys(text for one in analysed for text in _chinese_texts(one)))
        return dict(zip(texts, self._bert(texts), strict=True)) if texts else {}


@dataclasses.dataclass(eq=False)
class _Job:
    """One request on its way.

    Attributes:
        left: the caller has gone away.
        ended: it is answered.
        steps: its analysis under way.
        analysed: what came of it.
        texts: those that BERT has not read yet.
        taken: those of them in BERT's batch.
        features: BERT's, by text.
        submitted: when it came, in seconds of the monotonic clock.
    """

    request: TextRequest
    reply: Reply
    left: bool = False
    ended: bool = False
    steps: Generator[None, None, _Analysed] | None = None
    analysed: _Analysed | None = None
    texts: list[str] = dataclasses.field(default_factory=list)
    taken: list[str] = dataclasses.field(default_factory=list)
    features: dict[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)
    submitted: float = dataclasses.field(default_factory=time.monotonic)

    def end(self, answer: TextResult | BaseException) -> None:
        """Answer the request, once."""
        if self.ended:
            return
        self.ended = True
        if isinstance(answer, BaseException):
            self.reply.fail(answer)
        else:
            self.reply.send(answer, final=True)


def _chinese_texts(analysed: _Analysed) -> list[str]:
    """The Chinese pieces of a request and its transcript, each once, as they are read."""
    transcript = [analysed.transcript] if analysed.transcript else []
    return list(
        dict.fromkeys(
            piece.norm_text
            for sentence in [*analysed.sentences, *transcript]
            for piece in sentence.pieces
            if piece.language == "zh" and piece.norm_text
        )
    )


def _pack(
    request: TextRequest,
    analysed: _Analysed,
    prompt: Prompt,
    features: dict[str, NDArray[np.float32]],
) -> TextResult:
    sentences = analysed.sentences
    pauses = [sentences[0].pause_before] + [
        request.pause_seconds if s.pause_after is None else s.pause_after for s in sentences
    ]
    table, rows = _bert_table(sentences, features)
    return TextResult(
        phonemes=np.array([i for s in sentences for i in s.ids], np.int32),
        phoneme_counts=np.array([len(s.ids) for s in sentences], np.int32),
        bert_features=table,
        bert_rows=rows,
        phoneme_languages=_languages(sentences),
        pauses=np.array(pauses, np.float32),
        prompt_phonemes=prompt.phonemes,
        prompt_bert_features=prompt.bert_features,
        prompt_bert_rows=prompt.bert_rows,
        pinned_voice=analysed.pinned,
        analysis=json.dumps(describe(sentences), ensure_ascii=False),
    )


def _languages(sentences: Sequence[Sentence]) -> NDArray[np.int32]:
    """The language of every phoneme, [n]."""
    pieces = [piece for sentence in sentences for piece in sentence.pieces]
    numbers = [PHONEME_LANGUAGES.index(language_of(piece.language)) for piece in pieces]
    return np.repeat(np.array(numbers, np.int32), [len(piece.ids) for piece in pieces])


def _unpack(arrays: Arrays) -> Prompt:
    return Prompt(**arrays)


def _bert_table(
    sentences: Sequence[Sentence], features: dict[str, NDArray[np.float32]]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """All rows [r, 1024] with zeros first, and the row of every phoneme [n]."""
    tables = [np.zeros((1, BERT_DIM), np.float32)]
    rows: list[NDArray[np.int32]] = []
    first = 1
    for piece in (p for s in sentences for p in s.pieces):
        if piece.word2ph is None or piece.norm_text not in features or piece.language != "zh":
            rows.append(np.zeros(len(piece.ids), np.int32))
            continue
        table = features[piece.norm_text]
        rows.append(np.repeat(np.arange(len(table), dtype=np.int32) + first, piece.word2ph))
        tables.append(table)
        first += len(table)
    empty = np.zeros(0, np.int32)
    return np.concatenate(tables), np.concatenate(rows) if rows else empty


def describe(sentences: Sequence[Sentence]) -> dict[str, Any]:
    """What was understood, for people: the ``ANALYSIS`` tensor's JSON."""
    return {
        "sentences": [
            {
                "text": s.text,
                "normalized": s.norm_text,
                "pause_after": s.pause_after,
                "unread": list(s.unread),
                "segments": [
                    {
                        "language": p.language,
                        "text": p.text,
                        "normalized": p.norm_text,
                        "phonemes": list(p.symbols),
                        "ids": list(p.ids),
                        "word2ph": list(p.word2ph) if p.word2ph is not None else None,
                        "words": [list(word) for word in p.words],
                        "changes": [
                            {"written": c.written, "spoken": c.spoken, "reason": c.reason}
                            for c in p.changes
                        ],
                        "unread": list(p.unread),
                    }
                    for p in s.pieces
                ],
            }
            for s in sentences
        ]
    }
