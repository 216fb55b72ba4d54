"""Our own routes: audio and times of words as lines of JSON, captions, and what the page needs."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gsv_client.captions import FORMATS as CAPTION_FORMATS
from gsv_client.captions import captions
from gsv_client.gateway.encoders import FORMATS, format_named, rate_for
from gsv_client.gateway.fields import OptionFields, check_text, json_body, read_json, validated
from gsv_client.gateway.new_voices import NewVoiceFields, add_voice
from gsv_client.gateway.problems import KNOWN, Problem, json_response, refused
from gsv_client.gateway.record import Record, record_of
from gsv_client.gateway.recordings import decoded, judged
from gsv_client.gateway.sending import StreamedAnswer, WholeAnswer
from gsv_client.gateway.settings import Settings
from gsv_client.gateway.speaking import Order, Speaker, encode_stream, encoder_for, no_times
from gsv_client.gateway.voice_names import VoiceNames
from gsv_client.limits import DEFAULTS, LANGUAGES, RANGES, SAMPLE_RATES, SPLIT_METHODS

NDJSON = "application/x-ndjson"


class OwnFields(OptionFields):
    """The body of `/v1/speech` and `/v1/speech/captions`."""

    text: str
    voice: str | None = None
    format: str | None = None
    times: bool | None = None


def own_router(settings: Settings, speaker: Speaker, names: VoiceNames) -> APIRouter:
    """The door, but for the WebSocket."""
    router = APIRouter(tags=["gsv"])

    async def order_of(fields: OwnFields, request: Request, name: str) -> Order:
        form = format_named(name)
        text = check_text(fields.text, settings, "text")
        voice = await names.resolve(fields.voice)
        options = await fields.options(voice, rate_for(form, fields.sample_rate))
        record = record_of(request.scope)
        return Order(text, options, form, record.request_id, record.headers)

    @router.post("/v1/speech", openapi_extra=json_body(OwnFields))
    async def speech(request: Request) -> Response:
        """Speak `text` as lines of JSON: start, audio (base64), words, done or error."""
        fields = validated(OwnFields, await read_json(request))
        order = await order_of(fields, request, fields.format or "pcm")
        times = await wants_times(speaker, fields.times)
        lines = _lines(speaker, order, record_of(request.scope), times)
        return StreamedAnswer(lines, NDJSON, Problem.response)

    @router.post("/v1/speech/captions", openapi_extra=json_body(OwnFields))
    async def speech_captions(request: Request) -> Response:
        """Speak `text` and tell as `srt` or `vtt` when each line is spoken."""
        fields = validated(OwnFields, await read_json(request))
        form = fields.format or "srt"
        if form not in CAPTION_FORMATS:
            raise refused("format", form, ", ".join(CAPTION_FORMATS))
        order, record = await order_of(fields, request, "pcm"), record_of(request.scope)

        async def make() -> bytes:
            audio = await speaker.whole_with_times(order, record)
            return captions(audio.times, form).encode()

        return WholeAnswer(make, CAPTION_FORMATS[form], Problem.response)

    @router.get("/v1/speech/options")
    async def options() -> Response:
        """What may be asked for here: for forms such as the page's."""
        return json_response(
            {
                "languages": LANGUAGES,
                "split_methods": SPLIT_METHODS,
                "sample_rates": SAMPLE_RATES,
                "formats": {form.name: form.rates for form in FORMATS.values()},
                "limits": {
                    name.lower(): {
                        "low": allowed.low,
                        "high": allowed.high,
                        "above": allowed.open_below,
                        "default": DEFAULTS[name],
                    }
                    for name, allowed in RANGES.items()
                    if name in DEFAULTS
                },
                "most_text": settings.most_text,
                "most_body": settings.most_body,
                "times": await speaker.offers_times(),
                "add_voices": settings.voices is not None,
            }
        )

    @router.post("/v1/speech/recording")
    async def recording(request: Request) -> Response:
        """What the sound file in the body is worth as a reference."""
        data = await request.body()
        return json_response(await judged(await decoded(data)))

    @router.post("/v1/audio/voices", openapi_extra=json_body(NewVoiceFields))
    async def new_voice(request: Request) -> Response:
        """Add a voice to the server's folder, where the operator switched that on."""
        if settings.voices is None:
            raise Problem(
                403, "voices can't be added here; the operator can switch it on: "
                "`gsv gateway --voices FOLDER`", code="not_switched_on",
            )  # fmt: skip
        fields = validated(NewVoiceFields, await read_json(request))
        added = await add_voice(settings.voices, fields)
        speaker.forget_voices()
        return json_response(added, 201)

    return router


async def wants_times(speaker: Speaker, asked: bool | None) -> bool:
    """Whether times of words are to come: those who say nothing get them where they exist."""
    offered = await speaker.offers_times()
    if asked and not offered:
        raise no_times()
    return offered if asked is None else asked


async def _lines(
    speaker: Speaker, order: Order, record: Record, times: bool
) -> AsyncGenerator[bytes, None]:
    encoder = encoder_for(order.form, order.options, order.text)
    pieces = encode_stream(speaker.stream(order, times=times), encoder, record)
    begun, position = False, 0.0
    async with contextlib.aclosing(pieces):
        try:
            async for data, chunk in pieces:
                if not begun:
                    begun = True
                    yield _line(
                        type="start", request_id=order.request_id, format=order.form.name,
                        sample_rate=order.options.sample_rate, times=times,
                    )  # fmt: skip
                if chunk is not None and chunk.times:
                    yield _line(type="words", words=[dataclasses.asdict(w) for w in chunk.times])
                if data:
                    audio = base64.b64encode(data).decode()
                    sentence = None if chunk is None else chunk.sentence
                    yield _line(type="audio", audio=audio, sentence=sentence, start=position)
                position = round(record.audio_seconds, 6)
        except KNOWN as error:
            if not begun:
                raise
            record.problem = f"broke off: {error}"
            yield _line(type="error", **Problem.of(error).openai())
            return
    yield _line(type="done", **done(record))


def done(record: Record) -> dict[str, Any]:
    """The figures at the end of an answer; seconds."""
    elapsed = record.elapsed()
    first, audio = record.first_audio, record.audio_seconds
    return {
        "audio_seconds": round(audio, 3),
        "seconds": round(elapsed, 3),
        "first_audio": None if first is None else round(first, 3),
        "real_time_factor": round(elapsed / audio, 3) if audio else None,
    }


def _line(**values: Any) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode() + b"\n"
