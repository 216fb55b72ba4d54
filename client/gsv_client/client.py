"""The client: text in, audio out, whole or as it is spoken."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from gsv_client.answers import Analysis, Health, Voices, audio_of, extra_outputs, string_of
from gsv_client.audio import Audio
from gsv_client.errors import InvalidRequest, NotFound, ServerError, ServerUnavailable, Timeout
from gsv_client.options import (
    ANALYSIS,
    FRONTEND_MODEL,
    MODEL,
    SPOKEN,
    STREAM_MODEL,
    STREAMED,
    VOICE_NAME,
    VOICES,
    VOICES_MODEL,
    SpeechKeywords,
    SpeechOptions,
    Tensors,
    choose_options,
)
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

DEFAULT_TIMEOUT = 120.0  # seconds; a page of text on a CPU takes its time
HEALTH_TIMEOUT = 10.0


class Client:
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
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
    ) -> None:
        if not timeout > 0:
            raise InvalidRequest.value("timeout", timeout, "seconds above 0")
        self.timeout = timeout
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
        """
        inputs = choose_options(options, keywords).tensors(text)
        outputs = (*SPOKEN, *extra_outputs(times, report))
        return audio_of(self._infer(MODEL, outputs, inputs, request_id))

    def stream(
        self,
        text: str,
        options: SpeechOptions | None = None,
        *,
        request_id: str = "",
        times: bool = False,
        report: bool = False,
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
        inputs = choose_options(options, keywords).tensors(text)
        stream = self._open_stream(inputs, request_id, extra_outputs(times, report))
        self._streams.add(stream)
        return stream

    def stream_text(
        self,
        pieces: Iterable[str],
        options: SpeechOptions | None = None,
        *,
        request_id: str = "",
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
        chosen = choose_options(options, keywords)

        def speak(sentence: str, index: int) -> SpeechStream:
            inputs = chosen.for_sentence(index).tensors(sentence)
            identity = f"{request_id}/{index}" if request_id else ""
            return self._open_stream(inputs, identity)

        stream = TextStream(pieces, speak)
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
        options = SpeechOptions(language=language, split_method=split_method, voice=voice)
        inputs = options.tensors(text)
        outputs = self._infer(FRONTEND_MODEL, (ANALYSIS,), inputs)
        return Analysis.from_json(string_of(outputs, ANALYSIS))

    def voices(self) -> Voices:
        """The voices that the server offers now.

        >>> [voice.name for voice in client.voices()]
        ['demo']
        """
        # Triton refuses a request without any input: an empty NAME asks for all.
        inputs = {VOICE_NAME.name: VOICE_NAME.encode("")}
        try:
            outputs = self._infer(VOICES_MODEL, (VOICES,), inputs)
        except NotFound as error:
            raise cannot_list_voices(self.transport.address) from error
        return Voices.from_json(string_of(outputs, VOICES))

    def health(self) -> Health:
        """Whether the server is there and ready; never raises for a server that is not."""
        try:
            live = self.transport.is_live(HEALTH_TIMEOUT)
            ready = live and self.transport.is_ready(HEALTH_TIMEOUT)
            version = self.transport.server_version(HEALTH_TIMEOUT) if live else ""
        except (ServerUnavailable, Timeout, ServerError) as error:
            return Health(False, False, "", str(error))
        if not ready:
            address = self.transport.address
            return Health(
                live, False, version, f"{address}: some models are still loading or failed"
            )
        return Health(True, True, version, "")

    def models(self) -> list[ModelState]:
        """Every model of the server's repository, with its version and state."""
        return self.transport.models(HEALTH_TIMEOUT)

    def model_io(self, model: str) -> ModelIO:
        """The tensors that the server declares for a model."""
        return self.transport.model_io(model, HEALTH_TIMEOUT)

    def _infer(
        self, model: str, outputs: tuple[str, ...], inputs: Tensors, request_id: str = ""
    ) -> Tensors:
        return self.transport.infer(Request(model, inputs, outputs, request_id, self.timeout))

    def _open_stream(
        self, inputs: Tensors, request_id: str, extra: tuple[str, ...] = ()
    ) -> SpeechStream:
        request = Request(STREAM_MODEL, inputs, (*STREAMED, *extra), request_id, self.timeout)
        return SpeechStream(self.transport.stream(request))


def cannot_list_voices(address: str) -> NotFound:
    """The error of a server whose repository lacks the model that lists voices."""
    return NotFound(
        f"{address}: this server can't list voices, because its repository "
        f"has no model {VOICES_MODEL!r}; serve one made by a current `gsv prepare`, "
        "or look into the voice folder on the server's machine"
    )
