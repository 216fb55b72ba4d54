"""GPT-SoVITS' own HTTP API, as its api_v2 documents it: fields, codes and bodies.

Three things differ, since many speak through one server here: a reference is a voice's name or
comes with the request, never a path on the server; weights belong to voices; nobody can stop the
server. The routes for those say what to do instead.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from gsv_client.audio import Audio
from gsv_client.errors import InvalidRequest
from gsv_client.gateway.encoders import FORMATS
from gsv_client.gateway.fields import check_text, json_body, read_json, validated
from gsv_client.gateway.problems import Problem, json_response
from gsv_client.gateway.record import record_of
from gsv_client.gateway.recordings import LONGEST_WHOLE_SECONDS, decoded, from_base64
from gsv_client.gateway.sending import StreamedAnswer, WholeAnswer
from gsv_client.gateway.settings import Settings
from gsv_client.gateway.speaking import Order, Speaker, audio_of
from gsv_client.gateway.voice_names import VOICE_NAME, VoiceNames
from gsv_client.limits import LANGUAGES, SPLIT_METHODS
from gsv_client.options import SpeechOptions

RATE = 48_000  # of v4; api_v2's clients of raw PCM know it
UPLOAD = "ref_audio"  # the form's field with a recording
_FORMATS = {"wav": "wav", "raw": "pcm", "ogg": "vorbis", "aac": "aac"}
_STREAMS = (1, 2, 3)


class TtsFields(BaseModel):
    """The request of `/tts`. Those after `sample_steps` are accepted and change nothing here."""

    model_config = ConfigDict(extra="ignore")

    text: str = ""
    text_lang: str = ""
    ref_audio_path: str = ""
    prompt_lang: str = ""
    prompt_text: str = ""
    top_k: int = 15
    top_p: float = 1
    temperature: float = 1
    text_split_method: str = "cut5"
    speed_factor: float = 1.0
    fragment_interval: float = 0.3
    seed: int = -1
    media_type: str = "wav"
    streaming_mode: bool | int = False
    repetition_penalty: float = 1.35
    sample_steps: int = 32
    aux_ref_audio_paths: Any = None
    batch_size: int = 1
    batch_threshold: float = 0.75
    split_bucket: bool = True
    parallel_infer: bool = True
    super_sampling: bool = False
    overlap_length: int = 2
    min_chunk_length: int = 16


def api_v2_router(settings: Settings, speaker: Speaker, names: VoiceNames) -> APIRouter:
    """The door."""
    router = APIRouter(tags=["GPT-SoVITS api_v2"])

    @router.get("/tts")
    async def tts_get(request: Request) -> Response:
        """Speak what the query says."""
        return await answer(request, dict(request.query_params), None, "query")

    @router.post("/tts", openapi_extra=json_body(TtsFields))
    async def tts_post(request: Request) -> Response:
        """Speak what the JSON body says, or a form with a recording as `ref_audio`."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            return await answer(request, await read_json(request), None, "body")
        async with request.form(max_files=1, max_fields=40, max_part_size=1 << 20) as form:
            values = {name: value for name, value in form.items() if isinstance(value, str)}
            file = form.get(UPLOAD)
            upload = await file.read() if isinstance(file, UploadFile) else None
        return await answer(request, values, upload, "body")

    async def answer(
        request: Request, values: dict[str, Any], upload: bytes | None, place: str
    ) -> Response:
        fields = validated(TtsFields, values, place)
        refused = check(fields, upload is not None)
        record = record_of(request.scope)
        if refused:
            record.problem = refused
            return json_response({"message": refused}, 400)
        check_text(fields.text, settings, "text")
        options = await _options(fields, upload, names)
        form = FORMATS[_FORMATS[fields.media_type]]
        order = Order(fields.text, options, form, record.request_id, record.headers)
        media_type = f"audio/{fields.media_type}"
        if int(fields.streaming_mode) in _STREAMS:
            return StreamedAnswer(audio_of(speaker, order, record), media_type, shaped)
        return WholeAnswer(lambda: speaker.whole(order, record), media_type, shaped)

    _add_refusals(router)
    return router


def check(fields: TtsFields, uploaded: bool) -> str:
    """What api_v2 would refuse, in its order and words; empty when all is well."""
    if not fields.ref_audio_path and not uploaded:
        return "ref_audio_path is required"
    if not fields.text:
        return "text is required"
    for name in ("text_lang", "prompt_lang"):
        language = getattr(fields, name)
        if not language:
            return f"{name} is required"
        if language.lower() not in LANGUAGES:
            return f"{name}: {language[:50]} is not supported in version v4"
    if fields.media_type not in _FORMATS:
        return f"media_type: {fields.media_type[:50]} is not supported"
    if fields.text_split_method not in SPLIT_METHODS:
        return f"text_split_method:{fields.text_split_method[:50]} is not supported"
    if int(fields.streaming_mode) not in (0, *_STREAMS):
        return "the value of streaming_mode must be 0, 1, 2, 3(int) or true/false(bool)"
    return ""


def shaped(problem: Problem) -> Response:
    """An error as api_v2's clients expect it."""
    return problem.response(problem.api_v2())


async def _options(fields: TtsFields, upload: bytes | None, names: VoiceNames) -> SpeechOptions:
    options = SpeechOptions(
        language=fields.text_lang.lower(),
        top_k=fields.top_k,
        top_p=fields.top_p,
        temperature=fields.temperature,
        repetition_penalty=fields.repetition_penalty,
        seed=fields.seed,
        speed=fields.speed_factor,
        sample_steps=fields.sample_steps,
        split_method=fields.text_split_method,
        pause_seconds=fields.fragment_interval,
        sample_rate=RATE,
    )
    recording = await _recording(fields, upload)
    if recording is None:
        return dataclasses.replace(options, voice=await _voice(fields.ref_audio_path, names))
    if not fields.prompt_text:
        raise InvalidRequest(
            "prompt_text: empty; with a recording of your own give what is said in it "
            "(GPT-SoVITS v4 can't do without)"
        )
    return dataclasses.replace(
        options,
        reference=recording,
        reference_text=fields.prompt_text,
        reference_language=fields.prompt_lang.lower(),
    )


async def _recording(fields: TtsFields, upload: bytes | None) -> Audio | None:
    if upload is not None:
        return await decoded(upload, UPLOAD, LONGEST_WHOLE_SECONDS)
    if fields.ref_audio_path.startswith("data:"):
        data = from_base64(fields.ref_audio_path, "ref_audio_path")
        return await decoded(data, "ref_audio_path", LONGEST_WHOLE_SECONDS)
    return None


async def _voice(path: str, names: VoiceNames) -> str | None:
    if path != "default" and not VOICE_NAME.fullmatch(path):
        raise InvalidRequest(
            f"ref_audio_path: got {path[:200]!r}; allowed: the name of a voice of this server "
            "(GET /v1/audio/voices lists them), because no file is read that a request names; "
            f"or send the recording itself: as the file {UPLOAD} of a form, or as a data: URL"
        )
    return await names.resolve(path)


def _add_refusals(router: APIRouter) -> None:
    """Routes that change the whole server upstream: what to do here instead."""
    weights = (
        "one server speaks with many voices here, so no request changes the weights of all; add "
        "the checkpoint to a voice (`gsv voices add NAME --gpt FILE --sovits FILE`) and name that "
        "voice as ref_audio_path"
    )

    @router.get("/set_gpt_weights")
    async def set_gpt_weights(weights_path: str = "") -> Response:
        """Refused: weights belong to voices."""
        if not weights_path:
            return json_response({"message": "gpt weight path is required"}, 400)
        return json_response({"message": "change gpt weight failed", "Exception": weights}, 400)

    @router.get("/set_sovits_weights")
    async def set_sovits_weights(weights_path: str = "") -> Response:
        """Refused: weights belong to voices."""
        if not weights_path:
            return json_response({"message": "sovits weight path is required"}, 400)
        return json_response({"message": "change sovits weight failed", "Exception": weights}, 400)

    @router.get("/set_refer_audio")
    async def set_refer_audio(refer_audio_path: str = "") -> Response:
        """Refused: a reference belongs to its request."""
        instead = (
            "no reference is kept between requests; name a voice as ref_audio_path in each, or "
            f"send the recording with it (the file {UPLOAD} of a form, or a data: URL)"
        )
        return json_response({"message": "set refer audio failed", "Exception": instead}, 400)

    @router.get("/control")
    async def control(command: str = "") -> Response:
        """Refused: whoever runs the server stops it."""
        if not command:
            return json_response({"message": "command is required"}, 400)
        instead = "requests can't stop or restart this server; whoever runs it does that there"
        return json_response({"message": f"command {command[:50]!r} refused: {instead}"}, 403)
