"""The client: text in, audio out, whole or as it is spoken."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from gsv_client.answers import Analysis, Health, Voices
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
from gsv_client.retries import Attempts, RetriedStream
from gsv_client.speech_stream import SpeechStream
from gsv_client.text_stream import TextStream
from gsv_client.transport import (
    Endpoint,
    ModelIO,
    ModelState,
    Request,
    Transport,
    open_transport,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Client(BaseClient):
    """Speaks through a Triton server that serves GPT-SoVITS v4.

    One client may be used from several threads. Nothing is sent before the first call.

    >>> client = Client("localhost:8000")
    >>> audio = client.say("Good morning.", voice="demo", seed=1)
    >>> audio.save("morning.wav")

    Args:
        url: `host:port`, or with a scheme `http://`, `https://`, `grpc://`, `grpcs://`; None is
            this machine at the protocol's usual port (8000, 8001). A gRPC address that ends with
            `?balance=round_robin` spreads calls over all servers that the host's name has.
        protocol: `http` or `grpc`; by default the url's scheme tells, and without one it is http.
        timeout: seconds to wait for an answer, and in a stream for each next chunk.
        retries: how often a call is made again that failed because the server could not take it
            (`ServerUnavailable`); a stream only until its first chunk. Within the timeout, after
            the pause that the server names, or 0.25 s and twice as long each time. The attempts
            have the same seed, which is drawn here if none is given.
        headers: sent with every request, for a proxy's authentication or Triton's restricted APIs.
        transport: how requests travel; for tests and for other ways than HTTP and gRPC.

    Raises (each method):
        InvalidRequest: the caller's mistake; the message says what is allowed.
        ServerUnavailable, Timeout, ServerError, NotFound: see `gsv_client.errors`.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        protocol: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = 0,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        super().__init__(timeout, retries)
        self.transport = transport or open_transport(Endpoint.parse(url, protocol), headers)
        self._streams: weakref.WeakSet[SpeechStream | TextStream] = weakref.WeakSet()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the streams that are still open and let go of the connections."""
        for stream in list(self._streams):
            stream.close()
        self.transport.close()

    def say(
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
        """Speak a text of any length and return all of its audio.

        >>> audio = client.say("Hello.", reference="voice.wav", reference_text="What I said.")
        >>> audio.rate
        48000

        Args:
            text: what to speak.
            options: all options at once, or
            **keywords: some of the fields of `SpeechOptions`, such as `voice`, `reference`,
                `language`, `seed`, `speed`; what is left out has the server's default.
            request_id: appears in the server's log.
            times: ask when each word is spoken (`audio.times`).
            report: ask how each sentence came about (`audio.report`).
            headers: sent with this request beside the client's own, such as `traceparent`.
        """
        return self._ask(
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
    ) -> SpeechStream:
        """Speak a text and hand out its audio while it is being made.

        Leaving the loop early, `close()`, or the end of a `with` block cancels the rest.

        >>> for chunk in client.stream("A word. Another.", voice="demo"):
        ...     print(chunk.sentence, chunk)
        0 Chunk(0.50 s, 48000 Hz)
        0 Chunk(0.20 s, 48000 Hz)
        1 Chunk(0.50 s, 48000 Hz)
        1 Chunk(0.30 s, 48000 Hz)

        Args: as `say`.
        """
        stream = self._open(
            self._stream_request(
                text, options, keywords, request_id, times=times, report=report, headers=headers
            )
        )
        self._streams.add(stream)
        return stream

    def stream_text(
        self,
        pieces: Iterable[str],
        options: SpeechOptions | None = None,
        *,
        request_id: str = "",
        headers: Mapping[str, str] | None = None,
        **keywords: Unpack[SpeechKeywords],
    ) -> TextStream:
        """Speak a text that is still being written, such as the output of a language model.

        Each sentence is sent as soon as it is complete, the next one while the last still sounds;
        chunks come in order, `chunk.sentence` counts through. An error of `pieces` is raised here.

        >>> words = iter(["It is ", "so. Fo", "rty-two."])
        >>> [chunk.sentence for chunk in client.stream_text(words, voice="demo")]
        [0, 0, 1, 1]

        Args: as `say`, except
            pieces: the text in pieces cut anywhere.
        """
        request = self._sentence_requests(options, keywords, request_id, headers=headers)
        stream = TextStream(pieces, lambda sentence, index: self._open(request(sentence, index)))
        self._streams.add(stream)
        return stream

    def phones(
        self,
        text: str,
        language: str | None = None,
        *,
        split_method: str | None = None,
        voice: str | None = None,
    ) -> Analysis:
        """How the frontend splits, normalises and pronounces a text; nothing is spoken.

        `voice` matters where a voice brings a lexicon of its own.

        >>> analysis = client.phones("Hi.")
        >>> analysis.sentences[0].segments[0].phonemes
        ('H', 'i', '.')
        """
        return self._ask(self._phones_call(text, language, split_method, voice))

    def voices(self) -> Voices:
        """The voices that the server offers now.

        >>> [voice.name for voice in client.voices()]
        ['demo']
        """
        try:
            return self._ask(self._voices_call())
        except NotFound as error:
            raise cannot_list_voices(self.transport.address) from error

    def health(self) -> Health:
        """Whether the server is there and ready; never raises for a server that is not."""
        try:
            live = self.transport.is_live(HEALTH_TIMEOUT)
            ready = live and self.transport.is_ready(HEALTH_TIMEOUT)
            version = self.transport.server_version(HEALTH_TIMEOUT) if live else ""
        except GsvClientError as error:
            return Health(False, False, "", str(error))
        return Health.of(self.transport.address, live, ready, version)

    def models(self) -> list[ModelState]:
        """Every model of the server's repository, with its version and state."""
        return self.transport.models(HEALTH_TIMEOUT)

    def model_io(self, model: str) -> ModelIO:
        """The tensors that the server declares for a model."""
        return self.transport.model_io(model, HEALTH_TIMEOUT)

    def _ask(self, call: Call[Answer]) -> Answer:
        attempts = Attempts(self.retries, call.request)
        while True:
            try:
                return call.read(self.transport.infer(attempts.request))
            except ServerUnavailable as error:
                time.sleep(attempts.pause_after(error))

    def _open(self, request: Request) -> SpeechStream:
        if not self.retries:
            return SpeechStream(self.transport.stream(request))
        attempts = Attempts(self.retries, request)
        return SpeechStream(RetriedStream(self.transport.stream, attempts))
