"""reference_encoder's place: the same reference for every voice, as from its cache."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gpu_steps.inputs import reference
from gsv.serving.backend.adapter import BatchedModel
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings


@dataclasses.dataclass(frozen=True)
class Request:
    """As the real model's; nothing is read."""

    voice: str = ""
    reference_audio: Any = None
    reference_sample_rate: int | None = None
    prompt_phonemes: Any = None


@dataclasses.dataclass(frozen=True)
class Result:
    """As the real model's."""

    prompt_tokens: Any
    reference_spectrum: Any
    reference_mel: Any


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """As the real model's; none is used."""

    dtype: str = "float32"
    voice_folder: str = "../voices"
    default_voice: str = ""
    cache: int = 64


class ReferenceStandIn:
    """Answers at once."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._result = Result(**{name.lower(): value for name, value in reference().items()})

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def run_batch(self, requests: Sequence[Request]) -> list[Result]:
        """The same for all."""
        return [self._result for _ in requests]

    def close(self) -> None:
        """Nothing to end."""


class TritonPythonModel(BatchedModel):
    stage = ReferenceStandIn
