"""voices: what voices there are, as JSON; for people and for ``gsv voices list --url``."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

from gsv.errors import GsvError, InvalidRequest
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.voices import describe

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Request:
    """Which voice to tell about; all of them for an empty name."""

    name: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """JSON: ``{"default": NAME or null, "voices": [...], "broken": [...]}``."""

    voices: str


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""


class VoicesStage:
    """Looks into the voice folder at each request."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings) -> None:
        self._voices = place.voices(settings.voice_folder, settings.default_voice)

    def warm_up(self) -> None:
        """Look at every voice, so that the server's log tells at once which are broken."""
        entries, errors = self._voices.scan()
        logger.info(
            "%d voices in %s, %d of them broken",
            len(entries) + len(errors),
            self._voices.folder,
            len(errors),
        )

    def close(self) -> None:
        """Nothing runs between requests."""

    def run_batch(self, requests: Sequence[Request]) -> list[Result | GsvError]:
        """The present content of the folder."""
        answers: list[Result | GsvError] = []
        for request in requests:
            try:
                answers.append(Result(json.dumps(self._list(request.name), ensure_ascii=False)))
            except GsvError as error:
                answers.append(error)
        return answers

    def _list(self, name: str) -> dict[str, Any]:
        entries, errors = self._voices.scan()
        if name:
            self._voices.get(name)  # for its error
            entries = [entry for entry in entries if entry.base.name == name.partition("/")[0]]
            errors = []
            if not entries:
                raise InvalidRequest.value("NAME", name, self._voices.listing())
        default = self._voices.default
        return {
            "default": default or None,
            "voices": [describe(entry) for entry in entries],
            "broken": [str(error) for error in errors],
        }
