"""text_frontend: text and its language → phoneme ids and BERT features, sentence by sentence.

Only Chinese pieces have BERT features; they are carried as one row a character, and each phoneme
names its row (row 0 is all zeros). What comes of a voice's transcript is kept beside the voice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gsv.constants import BERT_DIM, PHONEMES
from gsv.errors import ConfigurationError, GsvError, VoiceError
from gsv.options import (
    DEFAULTS,
    LANGUAGES,
    SPLIT_METHODS,
    check_choice,
    check_range,
    check_text,
)
from gsv.precision import DEFAULT, torch_dtype
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.kept import Kept
from gsv.stages.pretrained import BertFeatures, load_bert
from gsv.stages.tally import Tally
from gsv.text.frontend import TextFrontend
from gsv.text.lexicon import Lexicon
from gsv.text.types import Sentence
from gsv.voices import Voice
from gsv.voices.features import Arrays, FeatureStore, Layout

_LEXICA = 64  # of voices, kept
_PROMPTS = 128  # transcripts of voices, kept


@dataclasses.dataclass(frozen=True)
class Request:
    """What to say, and whose transcript goes before it."""

    text: str
    language: str = "auto"
    split_method: str = DEFAULTS.split_method
    pause_seconds: float = DEFAULTS.pause_seconds
    voice: str = ""
    reference_text: str = ""
    reference_language: str = "auto"

    def __post_init__(self) -> None:
        check_text("TEXT", self.text)
        check_choice("LANGUAGE", self.language, LANGUAGES)
        check_choice("SPLIT_METHOD", self.split_method, SPLIT_METHODS)
        check_range("PAUSE_SECONDS", self.pause_seconds)
        check_choice("REFERENCE_LANGUAGE", self.reference_language, LANGUAGES)
        if self.reference_text:
            check_text("REFERENCE_TEXT", self.reference_text)


@dataclasses.dataclass(frozen=True)
class Result:
    """Phonemes of all sentences one after another, and those of the reference's transcript."""

    phonemes: NDArray[np.int32]  # [n]
    phoneme_counts: NDArray[np.int32]  # [sentences]
    bert_features: NDArray[np.float32]  # [rows, 1024]
    bert_rows: NDArray[np.int32]  # [n]
    pauses: NDArray[np.float32]  # [sentences + 1] seconds, before the first and after each
    prompt_phonemes: NDArray[np.int32]  # [p]
    prompt_bert_features: NDArray[np.float32]  # [prompt rows, 1024]
    prompt_bert_rows: NDArray[np.int32]  # [p]
    analysis: str  # JSON: sentences, segments, normalised text, phonemes


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    dtype: str = DEFAULT  # of BERT
    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""
    bert_cache: int = 512  # sentences


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


class TextFrontendStage:
    """Sentence splitting, segmentation, normalisation, phonemes; then one BERT batch for all."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._frontend = TextFrontend(place.folder / "text_data")
        dtype = torch_dtype(settings.dtype, place.device, half=torch.float16)
        self._bert: BertFeatures = load_bert(
            place.folder / "bert", place.device, dtype, cache_size=settings.bert_cache
        )
        self._voices = place.voices(settings.voice_folder, settings.default_voice)
        self._lexica: OrderedDict[str, Lexicon] = OrderedDict()
        self.tally = Tally(self._voices)
        words = self._frontend.data.lexicon  # the operator's, in no manifest
        own = "" if words is None else hashlib.sha256(words.read_bytes()).hexdigest()
        encoder = place.identity(dtype, own)
        store = FeatureStore("text", encoder, _LAYOUT)
        self._prompts: Kept[Prompt] = Kept(store, _PROMPTS, self.tally, dataclasses.asdict, _unpack)

    def warm_up(self) -> None:
        """Load every language's data and run BERT once."""
        self._frontend.warm_up()
        self._bert(["你好"])

    def close(self) -> None:
        """Nothing runs between requests."""

    def run_batch(self, requests: Sequence[Request]) -> list[Result | GsvError]:
        """Analyse each text by itself, then run BERT once over all Chinese pieces of the batch."""
        analysed: list[_Analysed | GsvError] = []
        for request in requests:
            try:
                analysed.append(self._analysed(request))
            except GsvError as error:
                analysed.append(error)
        features = self._features([a for a in analysed if not isinstance(a, GsvError)])
        return [
            a
            if isinstance(a, GsvError)
            else _pack(r, a.sentences, self._prompt(a, features), features)
            for r, a in zip(requests, analysed, strict=True)
        ]

    def _analysed(self, request: Request) -> _Analysed:
        """The text's sentences and the transcript, with the words of the voice's own lexicon."""
        voice = self._voice(request)
        lexicon = self._lexicon(voice) if voice else None
        sentences = self._frontend.analyze(
            request.text, request.language, request.split_method, lexicon
        )
        if request.reference_text:
            transcript = self._frontend.prompt(
                request.reference_text, request.reference_language, lexicon
            )
            return _Analysed(sentences, transcript=transcript)
        if voice is None:
            return _Analysed(sentences)
        key = self._prompts.key(voice, json.dumps(voice.lexicon, sort_keys=True))
        prompt = self._prompts.find(voice, key)
        if prompt is not None:
            return _Analysed(sentences, prompt)
        transcript = self._frontend.prompt(voice.text, voice.language, lexicon)
        return _Analysed(sentences, transcript=transcript, voice=voice, key=key)

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

    def _voice(self, request: Request) -> Voice | None:
        """The voice that speaks; None for a reference in the request, or for analysis alone."""
        if not request.voice and (request.reference_text or not self._voices.default):
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
        texts = {
            piece.norm_text: None
            for one in analysed
            for sentence in [*one.sentences, *([one.transcript] if one.transcript else [])]
            for piece in sentence.pieces
            if piece.language == "zh" and piece.norm_text
        }
        return dict(zip(texts, self._bert(list(texts)), strict=True)) if texts else {}


def _pack(
    request: Request,
    sentences: list[Sentence],
    prompt: Prompt,
    features: dict[str, NDArray[np.float32]],
) -> Result:
    pauses = [sentences[0].pause_before] + [
        request.pause_seconds if s.pause_after is None else s.pause_after for s in sentences
    ]
    table, rows = _bert_table(sentences, features)
    return Result(
        phonemes=np.array([i for s in sentences for i in s.ids], np.int32),
        phoneme_counts=np.array([len(s.ids) for s in sentences], np.int32),
        bert_features=table,
        bert_rows=rows,
        pauses=np.array(pauses, np.float32),
        prompt_phonemes=prompt.phonemes,
        prompt_bert_features=prompt.bert_features,
        prompt_bert_rows=prompt.bert_rows,
        analysis=json.dumps(describe(sentences), ensure_ascii=False),
    )


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


def expand_bert(features: NDArray[np.float32], rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """One feature row a phoneme: [r, 1024] and [n] → [n, 1024]."""
    return features[rows]


def describe(sentences: Sequence[Sentence]) -> dict[str, Any]:
    """What was understood, for people: the ``ANALYSIS`` tensor's JSON."""
    return {
        "sentences": [
            {
                "text": s.text,
                "normalized": s.norm_text,
                "pause_after": s.pause_after,
                "segments": [
                    {
                        "language": p.language,
                        "text": p.text,
                        "normalized": p.norm_text,
                        "phonemes": list(p.symbols),
                        "ids": list(p.ids),
                        "word2ph": list(p.word2ph) if p.word2ph is not None else None,
                    }
                    for p in s.pieces
                ],
            }
            for s in sentences
        ]
    }
