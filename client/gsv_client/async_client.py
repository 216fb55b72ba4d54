"""The client for asyncio: the same calls as `Client`, over gRPC, on one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from gsv_client.answers import Analysis, Health, Voices
from gsv_client.async_streams import AsyncSpeechStream, AsyncTextStream
from gsv_client.audio import Audio
from gsv_client.base_client import (
    DEFAULT_TIMEOUT,
    HEALTH_TIMEOUT,
    Answer,
    BaseClient,
    Call,
    cannot_list_voices,
)
from gsv_client.errors import GsvClientError, NotFound, ServerUnavailable
from gsv_client.options import SpeechKeywords, SpeechOptions
from gsv_client.retries import AsyncRetriedStream, Attempts
from gsv_client.transport.base import AsyncTransport, Endpoint, ModelIO, ModelState, Request

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncClient(BaseClient):
    """Speaks through a Triton server that serves GPT-SoVITS v4, from asyncio.

    It belongs to the event loop of its first call. Cancelling a task cancels its request.

    >>> async def morning():
    ...     async with AsyncClient("localhost:8001") as client:
    ...         audio = await client.say("Good morning.", voice="demo", seed=1)
    ...         async for chunk in client.stream("A word. Another."):
    ...             print(chunk.sentence, chunk)
    ...         return audio

    Args:
        url: `host:port` of Triton's gRPC, or with a scheme `grpc://`, `grpcs://`; None is this
            machine at port 8001. With `?balance=round_robin` at its end calls are spread over all
            servers that the host's name has.
        timeout: seconds to wait for an answer, and in a stream for each next chunk.
        retries: as `Client`.
        headers: sent with every request, for a proxy's authentication or Triton's restricted APIs.
        transport: how requests travel; for tests.

    Raises (each method): as `Client`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = 0,
        headers: Mapping[str, str] | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        super().__init__(timeout, retries)
        if transport is None:
            # Imported here: gRPC takes a noticeable part of a second.
            from gsv_client.transport.over_grpc_aio import AioGRPCTransport

            transport = AioGRPCTransport(Endpoint.parse(url, "grpc"), headers)
        self.transport = transport

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of the connection; requests under way are cancelled."""
        await self.transport.close()

    async def say(
        self,
        text: str,
        options: SpeechOptions | None = None,
        *,
        request_id: str = "",
        times: bool = False,
        report: bool = False,
        headers: Mapping[str, str] | None = None,
        **keywords: Unpack[SpeechKeywords],
    ) -> Audio:
        """Speak a text of any length and return all of its audio. Arguments as `Client.say`."""
        return await self._ask(
            self._say_call(
                text, options, keywords, request_id, times=times, report=report, headers=headers
            )
        )

    def stream(
        self,
        text: str,
        options: SpeechOptions | None = None,
        *,
        request_id: str = "",
        times: bool = False,
        report: bool = False,
        headers: Mapping[str, str] | None = None,
        **keywords: Unpack[SpeechKeywords],
    ) -> AsyncSpeechStream:
        """Speak a text and hand out its audio while it is being made. Arguments as `say`."""
        return self._open(
            self._stream_request(
                text, options, keywords, request_id, times=times, report=report, headers=headers
            )
        )

    def stream_text(
        self,
        pieces: AsyncIterable[str | None],
        options: SpeechOptions | None = None,
        *,
        request_id: str = "",
        times: bool = False,
        headers: Mapping[str, str] | None = None,
        **keywords: Unpack[SpeechKeywords],
    ) -> AsyncTextStream:
        """Speak a text that is still being written, such as the output of a language model.

        Args: as `Client.stream_text`, except
            pieces: the text in pieces cut anywhere; None speaks what has come so far, even if it
                is no whole sentence.
            times: ask when each word is spoken (`chunk.times`), counted from its sentence's start.
        """
        request = self._sentence_requests(
            options, keywords, request_id, times=times, headers=headers
        )
        return AsyncTextStream(pieces, lambda sentence, index: self._open(request(sentence, index)))

    async def phones(
        self,
        text: str,
        language: str | None = None,
        *,
        split_method: str | None = None,
        voice: str | None = None,
    ) -> Analysis:
        """How the frontend splits, normalises and pronounces a text; nothing is spoken."""
        return await self._ask(self._phones_call(text, language, split_method, voice))

    async def voices(self) -> Voices:
        """The voices that the server offers now."""
        try:
            return await self._ask(self._voices_call())
        except NotFound as error:
            raise cannot_list_voices(self.transport.address) from error

    async def health(self) -> Health:
        """Whether the server is there and ready; never raises for a server that is not."""
        try:
            live = await self.transport.is_live(HEALTH_TIMEOUT)
            ready = live and await self.transport.is_ready(HEALTH_TIMEOUT)
            version = await self.transport.server_version(HEALTH_TIMEOUT) if live else ""
        except GsvClientError as error:
            return Health(False, False, "", str(error))
        return Health.of(self.transport.address, live, ready, version)

    async def models(self) -> list[ModelState]:
        """Every model of the server's repository, with its version and state."""
        return await self.transport.models(HEALTH_TIMEOUT)

    async def model_io(self, model: str) -> ModelIO:
        """The tensors that the server declares for a model."""
        return await self.transport.model_io(model, HEALTH_TIMEOUT)

    async def _ask(self, call: Call[Answer]) -> Answer:
        attempts = Attempts(self.retries, call.request)
        while True:
            try:
                return call.read(await self.transport.infer(attempts.request))
            except ServerUnavailable as error:
                await asyncio.sleep(attempts.pause_after(error))

    def _open(self, request: Request) -> AsyncSpeechStream:
        if not self.retries:
            return AsyncSpeechStream(self.transport.stream(request))
        attempts = Attempts(self.retries, request)
        return AsyncSpeechStream(AsyncRetriedStream(self.transport.stream, attempts))
