"""text_frontend's place: fixed phonemes of as many sentences as the text says ("3")."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gpu_steps.inputs import text
from gsv.serving.backend.adapter import BatchedModel
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings


@dataclasses.dataclass(frozen=True)
class Request:
    """Only ``text`` is read; the others are the real model's."""

    text: str
    language: str = "auto"
    split_method: str = "cut5"
    pause_seconds: float = 0.3
    voice: str = ""
    reference_text: str = ""
    reference_language: str = "auto"


@dataclasses.dataclass(frozen=True)
class Result:
    """As the real model's."""

    phonemes: Any
    phoneme_counts: Any
    bert_features: Any
    bert_rows: Any
    phoneme_languages: Any
    pauses: Any
    prompt_phonemes: Any
    prompt_bert_features: Any
    prompt_bert_rows: Any
    analysis: str = "{}"


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """As the real model's; none is used."""

    dtype: str = "float32"
    voice_folder: str = "../voices"
    default_voice: str = ""
    bert_cache: int = 512


class TextStandIn:
    """Answers at once."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        """Nothing is loaded."""

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def run_batch(self, requests: Sequence[Request]) -> list[Result]:
        """The same numbers for the same number of sentences."""
        found = [text(int(request.text)) for request in requests]
        return [Result(**{name.lower(): value for name, value in one.items()}) for one in found]

    def close(self) -> None:
        """Nothing to end."""


class TritonPythonModel(BatchedModel):
    stage = TextStandIn
