"""The options of speech as fields of a JSON body, under their own names, for every door."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request

from gsv_client.audio import Audio
from gsv_client.errors import InvalidRequest
from gsv_client.gateway.recordings import LONGEST_WHOLE_SECONDS, cut, decoded, from_base64
from gsv_client.gateway.settings import Settings
from gsv_client.options import SpeechOptions

# Values of a JSON body, with the marks in its texts; each costs memory and time.
MOST_PARTS = 100_000

Fields = TypeVar("Fields", bound=BaseModel)


class OptionFields(BaseModel):
    """What `SpeechOptions` holds, but the voice: each door has its own word for that."""

    model_config = ConfigDict(extra="ignore")

    language: str | None = None
    reference: str | None = Field(
        None, description="A recording of 3 to 10 s: a sound file in base64, or a data: URL."
    )
    reference_window: tuple[float, float] | None = Field(
        None, description="Take this piece of the recording: start and end in seconds."
    )
    reference_text: str | None = None
    reference_language: str | None = None
    top_k: int | None = None
    top_p: float | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    speed: float | None = None
    sample_steps: int | None = None
    split_method: str | None = None
    pause_seconds: float | None = None
    sample_rate: int | None = None
    guard: int | None = None

    async def options(self, voice: str | None, sample_rate: int) -> SpeechOptions:
        """As the client takes them.

        Raises:
            InvalidRequest, AudioError: what can't be.
        """
        values = self.model_dump(include=set(OptionFields.model_fields))
        window, recording = values.pop("reference_window"), values.pop("reference")
        values |= {"voice": voice, "sample_rate": sample_rate}
        if recording is not None:
            values["reference"] = await _recording(recording, window)
        elif window is not None:
            raise InvalidRequest("reference_window: given without a reference to cut it out of")
        return SpeechOptions(**values)


async def _recording(text: str, window: tuple[float, float] | None) -> Audio:
    data = from_base64(text, "reference")
    if window is None:
        return await decoded(data, "reference", LONGEST_WHOLE_SECONDS)
    return cut(await decoded(data, "reference"), *window)


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RequestValidationError: it is none.
    """
    body = await request.body()
    try:
        values = parsed(body)
    except (ValueError, RecursionError) as error:
        where = getattr(error, "pos", 0)
        raise _invalid("json_invalid", where, f"JSON decode error: {_short(error)}") from error
    if not isinstance(values, dict):
        raise _invalid("model_attributes_type", None, "Input should be a JSON object")
    return values


def parsed(text: bytes | str) -> Any:
    """JSON, whose parser nothing else can run beside; ValueError also for too many parts of it.

    A recording in base64 has none of the marks that are counted.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if sum(data.count(mark) for mark in (b",", b"[", b"{")) > MOST_PARTS:
        raise ValueError(f"more than {MOST_PARTS} values")
    return json.loads(text)


def validated(kind: type[Fields], values: dict[str, Any], place: str = "body") -> Fields:
    """The fields of a request.

    Raises:
        RequestValidationError: one is missing or of the wrong type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError(
            [{**one, "loc": (place, *one["loc"])} for one in found]
        ) from error


def check_text(text: str, settings: Settings, name: str) -> str:
    """The text; InvalidRequest when there is nothing to say or too much."""
    if not text.strip():
        raise InvalidRequest(f"{name}: empty; allowed: any text with something to say in it")
    if len(text) > settings.most_text:
        raise InvalidRequest(
            f"{name}: got {len(text)} characters; allowed: up to {settings.most_text}; "
            "send longer texts in several requests"
        )
    return text


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """How a route's body looks, for `/docs`."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _invalid(kind: str, where: int | None, message: str) -> RequestValidationError:
    place = ("body",) if where is None else ("body", where)
    return RequestValidationError([{"type": kind, "loc": place, "msg": message}])


def _short(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
