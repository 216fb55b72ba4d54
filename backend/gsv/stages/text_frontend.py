"""text_frontend: text and its language → phoneme ids and BERT features, sentence by sentence.

Only Chinese pieces have BERT features; they are carried as one row a character, and each phoneme
names its row (row 0 is all zeros).
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.constants import BERT_DIM
from gsv.errors import ConfigurationError, GsvError, VoiceError
from gsv.options import (
    DEFAULTS,
    LANGUAGES,
    SPLIT_METHODS,
    check_choice,
    check_range,
    check_text,
)
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.pretrained import BertFeatures, load_bert
from gsv.text.frontend import TextFrontend
from gsv.text.lexicon import Lexicon
from gsv.text.types import Sentence
from gsv.voices import Voice

_LEXICA = 64  # of voices, kept


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

    dtype: str = "float32"  # of BERT
    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""
    bert_cache: int = 512  # sentences


class TextFrontendStage:
    """Sentence splitting, segmentation, normalisation, phonemes; then one BERT batch for all."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._frontend = TextFrontend(place.folder / "text_data")
        self._bert: BertFeatures = load_bert(
            place.folder / "bert", place.device, settings.dtype, cache_size=settings.bert_cache
        )
        self._voices = place.voices(settings.voice_folder, settings.default_voice)
        self._lexica: OrderedDict[str, Lexicon] = OrderedDict()

    def warm_up(self) -> None:
        """Load every language's data and run BERT once."""
        self._frontend.warm_up()
        self._bert(["你好"])

    def close(self) -> None:
        """Nothing runs between requests."""

    def run_batch(self, requests: Sequence[Request]) -> list[Result | GsvError]:
        """Analyse each text by itself, then run BERT once over all Chinese pieces of the batch."""
        analysed: list[tuple[list[Sentence], Sentence | None] | GsvError] = []
        for request in requests:
            try:
                analysed.append(self._analysed(request))
            except GsvError as error:
                analysed.append(error)
        features = self._features([a for a in analysed if not isinstance(a, GsvError)])
        return [
            a if isinstance(a, GsvError) else _pack(r, *a, features)
            for r, a in zip(requests, analysed, strict=True)
        ]

    def _analysed(self, request: Request) -> tuple[list[Sentence], Sentence | None]:
        """The text's sentences and the transcript, with the words of the voice's own lexicon."""
        voice = self._voice(request)
        lexicon = self._lexicon(voice) if voice else None
        sentences = self._frontend.analyze(
            request.text, request.language, request.split_method, lexicon
        )
        if request.reference_text:
            transcript = request.reference_text, request.reference_language
        elif voice:
            transcript = voice.text, voice.language
        else:
            return sentences, None
        return sentences, self._frontend.prompt(*transcript, lexicon)

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

    def _features(
        self, analysed: list[tuple[list[Sentence], Sentence | None]]
    ) -> dict[str, NDArray[np.float32]]:
        """Features [characters, 1024] of every Chinese piece, by its normalised text."""
        texts = {
            piece.norm_text: None
            for sentences, prompt in analysed
            for sentence in [*sentences, *([prompt] if prompt else [])]
            for piece in sentence.pieces
            if piece.language == "zh" and piece.norm_text
        }
        return dict(zip(texts, self._bert(list(texts)), strict=True)) if texts else {}


def _pack(
    request: Request,
    sentences: list[Sentence],
    prompt: Sentence | None,
    features: dict[str, NDArray[np.float32]],
) -> Result:
    pauses = [sentences[0].pause_before] + [
        request.pause_seconds if s.pause_after is None else s.pause_after for s in sentences
    ]
    table, rows = _bert_table(sentences, features)
    prompt_table, prompt_rows = _bert_table([prompt] if prompt else [], features)
    return Result(
        phonemes=np.array([i for s in sentences for i in s.ids], np.int32),
        phoneme_counts=np.array([len(s.ids) for s in sentences], np.int32),
        bert_features=table,
        bert_rows=rows,
        pauses=np.array(pauses, np.float32),
        prompt_phonemes=np.array(prompt.ids if prompt else (), np.int32),
        prompt_bert_features=prompt_table,
        prompt_bert_rows=prompt_rows,
        analysis=json.dumps(describe(sentences), ensure_ascii=False),
    )


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
