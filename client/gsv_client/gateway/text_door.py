"""The WebSocket `/v1/speech/stream`: text comes in pieces, audio leaves meanwhile.

    caller                                          gateway
    {"type": "start", "voice": …, "format": …}  →
                                                ←   {"type": "started", "sample_rate": …}
    {"type": "text", "text": "Once upon a "}    →
    {"type": "text", "text": "time. There"}     →
                                                ←   audio, as binary messages
                                                ←   {"type": "words", "words": […]}
    {"type": "flush"}  speaks what there is     →
    {"type": "end"}                             →
                                                ←   {"type": "done", …}   or {"type": "error", …}

Closing the socket cancels everything that is not finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gsv_client.async_streams import AsyncTextStream
from gsv_client.errors import InvalidRequest
from gsv_client.gateway.encoders import Encoder, format_named, rate_for
from gsv_client.gateway.fields import OptionFields, parsed, validated
from gsv_client.gateway.own_door import done, wants_times
from gsv_client.gateway.problems import KNOWN, Problem, refused
from gsv_client.gateway.record import Record, record_of
from gsv_client.gateway.settings import Settings
from gsv_client.gateway.speaking import Speaker, encode_stream, encoder_for
from gsv_client.gateway.validation import told
from gsv_client.gateway.voice_names import VoiceNames

PATH = "/v1/speech/stream"
_FINE, _REFUSED, _FAILED = 1000, 1008, 1011  # close codes


class StartFields(OptionFields):
    """The first message."""

    type: str
    voice: str | None = None
    format: str | None = None
    times: bool | None = None


def text_router(settings: Settings, speaker: Speaker, names: VoiceNames) -> APIRouter:
    """The door."""
    router = APIRouter()

    @router.get(PATH, include_in_schema=False)
    async def no_socket() -> Response:
        """Refused: who came by HTTP meant the WebSocket."""
        raise Problem(400, "this is a WebSocket: connect with ws:// or wss://, and send JSON")

    @router.websocket(PATH)
    async def stream(socket: WebSocket) -> None:
        """Speak text that is still being written."""
        await socket.accept()
        record = record_of(socket.scope)
        talk = _Talk(socket, record, settings)
        try:
            await talk.hold(speaker, names)
            code = _FINE
        except WebSocketDisconnect:
            record.left = True
            return
        except (*KNOWN, RequestValidationError) as error:
            problem = told(error)
            record.problem = problem.in_full
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await talk.send({"type": "error", **problem.openai()})
            code = _REFUSED if problem.status < 500 else _FAILED
        if socket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await socket.close(code)

    return router


class _Talk:
    """One socket from its first message to its last."""

    def __init__(self, socket: WebSocket, record: Record, settings: Settings) -> None:
        self._socket = socket
        self._record = record
        self._settings = settings
        self._characters = 0
        self._last = asyncio.get_running_loop().time()  # of a message, or of audio sent

    async def hold(self, speaker: Speaker, names: VoiceNames) -> None:
        first = await self._receive()
        if first.get("type") != "start":
            raise refused("type of the first message", first.get("type"), "start")
        fields = validated(StartFields, first, "message")
        form = format_named(fields.format or "pcm")
        rate = rate_for(form, fields.sample_rate)
        options = await fields.options(await names.resolve(fields.voice), rate)
        times = await wants_times(speaker, fields.times)
        await self.send(
            {
                "type": "started", "request_id": self._record.request_id, "format": form.name,
                "sample_rate": rate, "times": times,
            }
        )  # fmt: skip
        pieces: asyncio.Queue[str | None | _End] = asyncio.Queue()
        stream = speaker.client.stream_text(
            _until_end(pieces), options, request_id=self._record.request_id, times=times,
            headers=self._record.headers,
        )  # fmt: skip
        listening = asyncio.ensure_future(self._listen(pieces))
        speaking = asyncio.ensure_future(self._speak(stream, encoder_for(form, options)))
        try:
            await asyncio.wait((listening, speaking), return_when=asyncio.FIRST_COMPLETED)
            # Listening ends only with an error: the caller made one, or has left.
            await (listening if listening.done() and not speaking.done() else speaking)
        finally:
            for task in (listening, speaking):
                task.cancel()
            await asyncio.gather(listening, speaking, return_exceptions=True)
            await stream.aclose()

    async def send(self, values: dict[str, Any]) -> None:
        await self._socket.send_text(json.dumps(values, ensure_ascii=False))

    async def _speak(self, stream: AsyncTextStream, encoder: Encoder) -> None:
        sentence_begin, sentence, position = 0.0, 0, 0.0
        pieces = encode_stream(stream, encoder, self._record)
        async with contextlib.aclosing(pieces):
            async for data, chunk in pieces:
                if chunk is not None and chunk.sentence != sentence:
                    sentence, sentence_begin = chunk.sentence, position
                if chunk is not None and chunk.times:
                    # Each sentence was a request of its own, with a clock of its own.
                    words = [
                        dataclasses.replace(
                            word,
                            start=round(word.start + sentence_begin, 3),
                            end=round(word.end + sentence_begin, 3),
                            sentence=sentence,
                        )
                        for word in chunk.times
                    ]
                    await self.send(
                        {"type": "words", "words": [dataclasses.asdict(word) for word in words]}
                    )
                if data:
                    await self._socket.send_bytes(data)
                    self._last = asyncio.get_running_loop().time()
                position = self._record.audio_seconds
        await self.send({"type": "done", **done(self._record)})

    async def _listen(self, pieces: asyncio.Queue[str | None | _End]) -> None:
        """The caller's messages, until the text ends; then only whether they stay.

        They are read at once, however much is still to be spoken: behind them comes that the caller
        leaves. The limit to the text bounds what waits.
        """
        ended, to_flush = False, False
        while True:
            message = await self._receive(patient=ended)
            kind = message.get("type")
            if ended or kind not in ("text", "flush", "end"):
                allowed = "nothing after end" if ended else "text, flush, end"
                raise refused("type of the message", kind, allowed)
            if kind == "text":
                if text := self._checked(message.get("text")):
                    pieces.put_nowait(text)
                    to_flush = True
            elif kind == "end":
                ended = True
                pieces.put_nowait(_End())
            elif to_flush:
                to_flush = False
                pieces.put_nowait(None)

    def _checked(self, text: Any) -> str:
        if not isinstance(text, str):
            raise refused("text", text, "a string")
        self._characters += len(text)
        if self._characters > self._settings.most_text:
            raise InvalidRequest(
                f"text: more than {self._settings.most_text} characters came through this socket; "
                "open another one for more"
            )
        return text

    async def _receive(self, patient: bool = False) -> dict[str, Any]:
        receiving = asyncio.ensure_future(self._socket.receive_text())
        try:
            await (asyncio.wait({receiving}) if patient else self._await_message(receiving))
            text = receiving.result()
        except KeyError:  # a binary message
            raise InvalidRequest("message: got bytes; allowed: JSON as text") from None
        finally:
            receiving.cancel()
        self._last = asyncio.get_running_loop().time()
        try:
            values = parsed(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"message: not JSON: {str(error)[:100]}") from error
        if not isinstance(values, dict):
            raise InvalidRequest("message: allowed: a JSON object")
        return values

    async def _await_message(self, receiving: asyncio.Future[str]) -> None:
        """Wait while the caller has something to hear, and a while longer."""
        seconds, loop = self._settings.stall_seconds, asyncio.get_running_loop()
        while not receiving.done():
            left = self._last + seconds - loop.time()
            if left <= 0:
                raise InvalidRequest(
                    f"the socket was silent for {seconds:g} s; send text, or close it"
                )
            await asyncio.wait({receiving}, timeout=left)


class _End:
    """The text has ended."""


async def _until_end(
    pieces: asyncio.Queue[str | None | _End],
) -> AsyncGenerator[str | None, None]:
    while not isinstance(piece := await pieces.get(), _End):
        yield piece
