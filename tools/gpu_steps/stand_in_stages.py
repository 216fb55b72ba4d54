"""Stages in the place of text_frontend and reference_encoder, whose packages may be missing.

They answer at once, whatever is asked for: in one process and, through ``stand_ins/``, in Triton.
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


class TextStandIn:
    """Fixed phonemes of as many sentences as the text says (``3``)."""

    request_type = TextRequest
    result_type = TextResult
    settings_type = TextSettings

    def __init__(self, place: Place, settings: TextSettings) -> None:
        """Nothing is loaded."""

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def run_batch(self, requests: Sequence[TextRequest]) -> list[TextResult]:
        """The same numbers for the same number of sentences."""
        return [text(int(request.text)) for request in requests]

    def close(self) -> None:
        """Nothing to end."""


@dataclasses.dataclass(frozen=True)
class ReferenceSettings(BaseSettings):
    """As the real model's; none is used."""

    dtype: str = "float32"
    voice_folder: str = "../voices"
    default_voice: str = ""
    cache: int = 64


class ReferenceStandIn:
    """The same reference for every voice, as from its cache."""

    request_type = ReferenceRequest
    result_type = ReferenceResult
    settings_type = ReferenceSettings

    def __init__(self, place: Place, settings: ReferenceSettings) -> None:
        self._result = reference()

    def warm_up(self) -> None:
        """Nothing to warm up."""

    def run_batch(self, requests: Sequence[ReferenceRequest]) -> list[ReferenceResult]:
        """The same for all."""
        return [self._result for _ in requests]

    def close(self) -> None:
        """Nothing to end."""
