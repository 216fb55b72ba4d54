"""From an order to bytes: asks Triton, feeds the encoder, keeps the times."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
from collections.abc import AsyncGenerator, Mapping

from gsv_client.answers import TIMES, Chunk, Voices
from gsv_client.async_client import AsyncClient
from gsv_client.async_streams import AsyncSpeechStream, AsyncTextStream
from gsv_client.audio import Audio
from gsv_client.errors import GsvClientError, InvalidRequest, Timeout
from gsv_client.gateway.cached import CachedValue, Value
from gsv_client.gateway.encoders import Encoder, Format, encoded, open_encoder
from gsv_client.gateway.record import Record
from gsv_client.limits import DEFAULTS
from gsv_client.options import MODEL, STREAM_MODEL, SpeechOptions

VOICES_SECONDS = 2.0  # that a list of voices is kept
TIMES_SECONDS = 30.0  # that the model's metadata are
READY_SECONDS = 1.0
ASKED_SECONDS = 5.0  # that readiness may take to tell
TOLD_SECONDS = 10.0  # that voices and metadata may take, before an answer begins
# Encoding more samples than this would hold up other answers: it goes to a thread.
LONG_FOR_THE_LOOP = 4_096
_PAUSE = re.compile(r"\[pause:\s*([0-9]+(?:\.[0-9]+)?)(m?)s\s*\]")


@dataclasses.dataclass(frozen=True)
class Order:
    """A text to speak, how, and as what.

    `options.sample_rate` is one that the format carries; `headers` go to Triton with the request.
    """

    text: str
    options: SpeechOptions
    form: Format
    request_id: str
    headers: Mapping[str, str]


class Speaker:
    """The way to Triton that all doors share."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self._voices = CachedValue(VOICES_SECONDS, client.voices)
        self._times = CachedValue(TIMES_SECONDS, self._ask_for_times)
        self._ready = CachedValue(READY_SECONDS, self._ask_for_readiness)

    async def whole(self, order: Order, record: Record) -> bytes:
        """All of an answer, with headers that tell its length."""
        audio = await self.client.say(
            order.text, order.options, request_id=order.request_id, headers=order.headers
        )
        record.heard(audio.duration)
        return await asyncio.to_thread(encoded, audio, order.form)

    async def whole_with_times(self, order: Order, record: Record) -> Audio:
        """All of an answer with `times`; InvalidRequest if the model has no output TIMES."""
        if not await self.offers_times():
            raise no_times()
        audio = await self.client.say(
            order.text,
            order.options,
            request_id=order.request_id,
            times=True,
            headers=order.headers,
        )
        record.heard(audio.duration)
        return audio

    def stream(self, order: Order, *, times: bool = False) -> AsyncSpeechStream:
        """The chunks of an answer."""
        return self.client.stream(
            order.text,
            order.options,
            request_id=order.request_id,
            times=times,
            headers=order.headers,
        )

    async def offers_times(self) -> bool:
        """Whether the model says that it can tell when words are spoken."""
        return await _soon(self._times)

    async def voices(self) -> Voices:
        """The server's voices, at most two seconds old."""
        return await _soon(self._voices)

    def forget_voices(self) -> None:
        """One was added: ask again."""
        self._voices.forget()

    async def why_not_ready(self) -> str:
        """Empty when both public models take requests, else why not."""
        return await self._ready.get()

    async def _ask_for_times(self) -> bool:
        return TIMES in (await self.client.model_io(STREAM_MODEL)).outputs

    async def _ask_for_readiness(self) -> str:
        try:
            for model in (MODEL, STREAM_MODEL):
                if not await self.client.transport.is_model_ready(model, ASKED_SECONDS):
                    return f"the model {model} is not ready"
        except GsvClientError as error:
            return str(error)
        return ""


async def _soon(value: CachedValue[Value]) -> Value:
    """What Triton tells at once when it is well; Timeout when it does not.

    A caller who has left before its answer began keeps its place for so long.
    """
    try:
        return await asyncio.wait_for(value.get(), TOLD_SECONDS)
    except asyncio.TimeoutError as error:  # noqa: UP041 (not TimeoutError before Python 3.11)
        raise Timeout(
            f"the speech server told nothing of its models in {TOLD_SECONDS:g} s"
        ) from error


async def encode_stream(
    stream: AsyncSpeechStream | AsyncTextStream, encoder: Encoder, record: Record
) -> AsyncGenerator[tuple[bytes, Chunk | None], None]:
    """Each chunk with the bytes that are ready after it; None goes with the last bytes.

    Closing the iterator cancels the stream.
    """
    async with stream:
        async for chunk in stream:
            record.heard(chunk.duration)
            if len(chunk.samples) > LONG_FOR_THE_LOOP:
                data = await asyncio.to_thread(encoder.encode, chunk.samples)
            else:
                data = encoder.encode(chunk.samples)
            yield data, chunk
    yield await asyncio.to_thread(encoder.finish), None


async def audio_of(speaker: Speaker, order: Order, record: Record) -> AsyncGenerator[bytes, None]:
    """The bytes of an answer while it is being made."""
    encoder = encoder_for(order.form, order.options, order.text)
    pieces = encode_stream(speaker.stream(order), encoder, record)
    async with contextlib.aclosing(pieces):
        async for data, _ in pieces:
            if data:
                yield data


def encoder_for(form: Format, options: SpeechOptions, text: str = "") -> Encoder:
    """An encoder for an answer that leaves while it is being made.

    Args:
        form: what comes out.
        options: the request's.
        text: what is spoken, as far as it is known yet.
    """
    return open_encoder(
        form, options.sample_rate or form.rate, silence=silence_at_end(options, text)
    )


def silence_at_end(options: SpeechOptions, text: str) -> float:
    """Seconds of silence that an answer ends with, at least.

    The pause follows each sentence, the last one too. A ``[pause:...]`` in the text takes its
    place, whichever is the last after which something is read: the shortest one is certain.
    """
    pause = options.pause_seconds
    asked = [float(DEFAULTS["PAUSE_SECONDS"]) if pause is None else pause]
    for seconds, thousandth in _PAUSE.findall(text):
        asked.append(float(seconds) / (1000 if thousandth else 1))
    return min(asked)


def no_times() -> InvalidRequest:
    """The error of a request for times where the server offers none."""
    return InvalidRequest(
        "times: this server's model tells no times of words (it has no output TIMES); "
        "ask for audio alone, or serve a repository made by a current `gsv prepare`"
    )
