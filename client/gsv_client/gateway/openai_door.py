"""OpenAI's speech API: `/v1/audio/speech`, and what its clients ask for beside it."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from gsv_client.gateway.encoders import format_named, rate_for
from gsv_client.gateway.fields import OptionFields, check_text, json_body, read_json, validated
from gsv_client.gateway.problems import KNOWN, Problem, json_response, refused
from gsv_client.gateway.record import Record, record_of
from gsv_client.gateway.sending import StreamedAnswer, WholeAnswer
from gsv_client.gateway.settings import Settings
from gsv_client.gateway.speaking import Order, Speaker, audio_of
from gsv_client.gateway.voice_names import VoiceNames

MODEL_NAME = "gpt-sovits-v4"
# What tools have in their menus. There is one model here, so every name means it.
OTHER_MODEL_NAMES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
CREATED = 1_735_689_600  # of the models' listing, which must have a time: 2025-01-01


class SpeechFields(OptionFields):
    """The body of `/v1/audio/speech`: OpenAI's fields, and our options under their own names.

    `model`, `instructions` and fields that nobody knows are accepted and change nothing.
    """

    input: str
    voice: str | dict[str, Any] | None = Field(None, description="A name, or {'id': name}.")
    model: str | None = None
    instructions: str | None = None
    response_format: str | None = None
    stream_format: Literal["audio", "sse"] | None = None
    stream: bool | None = Field(
        None, description="false: one piece with its exact length, instead of a stream."
    )


def openai_router(settings: Settings, speaker: Speaker, names: VoiceNames) -> APIRouter:
    """The door."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/audio/speech", openapi_extra=json_body(SpeechFields))
    async def speech(request: Request) -> Response:
        """Speak `input`: audio while it is being made, or with `stream: false` in one piece."""
        fields = validated(SpeechFields, await read_json(request))
        form = format_named(fields.response_format or "mp3")
        text = check_text(fields.input, settings, "input")
        voice = await names.resolve(_voice_name(fields.voice))
        options = await fields.options(voice, rate_for(form, fields.sample_rate))
        record = record_of(request.scope)
        order = Order(text, options, form, record.request_id, record.headers)
        if fields.stream_format == "sse":
            events = _events(speaker, order, record)
            return StreamedAnswer(events, "text/event-stream", Problem.response)
        if fields.stream is False:
            return WholeAnswer(
                lambda: speaker.whole(order, record), form.media_type, Problem.response
            )
        return StreamedAnswer(audio_of(speaker, order, record), form.media_type, Problem.response)

    @router.get("/v1/models")
    @router.get("/v1/audio/models")
    async def models() -> Response:
        """The one model, and the names that tools know it by."""
        listed = [_model(name) for name in (MODEL_NAME, *OTHER_MODEL_NAMES)]
        # `models` for Open WebUI, which asks the second address for them.
        return json_response({"object": "list", "data": listed, "models": listed})

    @router.get("/v1/models/{name}")
    async def model(name: str) -> Response:
        """One of them."""
        if name not in (MODEL_NAME, *OTHER_MODEL_NAMES):
            raise Problem(
                404, f"model: got {name[:100]!r}; allowed: {MODEL_NAME}", code="model_not_found",
                param="model",
            )  # fmt: skip
        return json_response(_model(name))

    @router.get("/v1/audio/voices")
    async def voices() -> Response:
        """The server's voices, further recordings of a speaker as NAME/RECORDING."""
        found = await speaker.voices()
        listed = [
            {
                "id": name,
                "name": name,
                "object": "voice",
                "language": voice.language,
                "text": voice.text,
                "default": name == (found.default or ""),
            }
            for voice in found
            for name in (voice.name, *(f"{voice.name}/{other}" for other in voice.references))
        ]
        # `voices` for Open WebUI and its like, `data` for those who expect an OpenAI list.
        return json_response({"object": "list", "data": listed, "voices": listed})

    return router


async def _events(speaker: Speaker, order: Order, record: Record) -> AsyncGenerator[bytes, None]:
    """OpenAI's server-sent events of speech."""
    pieces, begun = audio_of(speaker, order, record), False
    async with contextlib.aclosing(pieces):
        try:
            async for data in pieces:
                audio = base64.b64encode(data).decode()
                yield _event({"type": "speech.audio.delta", "audio": audio})
                begun = True
        except KNOWN as error:
            if not begun:
                raise
            problem = Problem.of(error)
            record.problem = f"broke off: {error}"
            yield _event({"type": "error", **problem.openai()})
            return
    # Counted in characters and seconds, since there are no tokens that a caller could check.
    usage = {"input_tokens": len(order.text), "output_tokens": round(record.audio_seconds)}
    total = sum(usage.values())
    yield _event({"type": "speech.audio.done", "usage": {**usage, "total_tokens": total}})


def _event(values: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(values)}\n\n".encode()


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "gpt-sovits-triton"}


def _voice_name(voice: str | dict[str, Any] | None) -> str | None:
    if not isinstance(voice, dict):
        return voice
    name = voice.get("id")
    if not isinstance(name, str):
        raise refused("voice", voice, "a name, or an object with the name as `id`")
    return name
