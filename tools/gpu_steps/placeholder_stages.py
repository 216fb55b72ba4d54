"""Placeholders for the stages text_frontend and reference_encoder, whose packages may be missing.

They answer any request at once: in one process and, through ``placeholders/``, in Triton.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gpu_steps.inputs import reference, text
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.messages import ReferenceRequest, ReferenceResult, TextRequest, TextResult


@dataclasses.dataclass(frozen=True)
class TextSettings(BaseSettings):
    """As the real model's; none is used."""

    dtype: str = "float32"
    voice_folder: str = "../voices"
    default_voice: str = ""
    reading: str = "corrected"
    bert_cache: int = 512


class Placeholder:
    """What needs no files and no warming up."""

    def __init__(self, place: Place, settings: BaseSettings) -> None:
        """Nothing is loaded."""

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def close(self) -> None:
        """Nothing to end."""


class TextPlaceholder(Placeholder):
    """Fixed phonemes of as many sentences as the text says (``3``)."""

    request_type = TextRequest
    result_type = TextResult
    settings_type = TextSettings

    def run_batch(self, requests: Sequence[TextRequest]) -> list[TextResult]:
        """The same numbers for the same number of sentences."""
        return [text(int(request.text)) for request in requests]


@dataclasses.dataclass(frozen=True)
class ReferenceSettings(BaseSettings):
    """As the real model's; none is used."""

    dtype: str = "float32"
    voice_folder: str = "../voices"
    default_voice: str = ""
    cache: int = 64


class ReferencePlaceholder(Placeholder):
    """The same reference for every voice, as from its cache."""

    request_type = ReferenceRequest
    result_type = ReferenceResult
    settings_type = ReferenceSettings

    def __init__(self, place: Place, settings: ReferenceSettings) -> None:
        super().__init__(place, settings)
        self._result = reference()

    def run_batch(self, requests: Sequence[ReferenceRequest]) -> list[ReferenceResult]:
        """The same for all."""
        return [self._result for _ in requests]
