"""What `Client` and `AsyncClient` share: the requests of their calls, and how answers are read.

a client's method → a `Call` made here → the client's transport → `Call.read`
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from gsv_client.answers import (
    Analysis,
    Voices,
    audio_of,
    declined_outputs,
    extra_outputs,
    string_of,
)
from gsv_client.audio import Audio
from gsv_client.errors import InvalidRequest, NotFound
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
from gsv_client.retries import check_retries, with_seed
from gsv_client.transport.base import Request

DEFAULT_TIMEOUT = 120.0  # seconds; a page of text on a CPU takes its time
HEALTH_TIMEOUT = 10.0
LONGEST_TIMEOUT = 1e6  # sockets and gRPC can't count to any number

Answer = TypeVar("Answer")


@dataclasses.dataclass(frozen=True)
class Call(Generic[Answer]):
    """A request that has one answer, and what reads that answer."""

    request: Request
    read: Callable[[Tensors], Answer]


class BaseClient:
    """The part of a client that does not depend on how requests travel; it sends nothing.

    Raises:
        InvalidRequest: by the constructor, a timeout that is not above 0 or retries that are no
            number of times; by the methods, options that can't be sent.
    """

    def __init__(self, timeout: float, retries: int) -> None:
        number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if not (number and 0 < timeout <= LONGEST_TIMEOUT):
            allowed = f"seconds above 0, up to {LONGEST_TIMEOUT:,.0f}"
            raise InvalidRequest.value("timeout", timeout, allowed)
        self.timeout = timeout
        self.retries = check_retries(retries)

    def _speech(
        self, text: str, options: SpeechOptions | None, keywords: SpeechKeywords
    ) -> Tensors:
        inputs = choose_options(options, keywords).tensors(text)
        return with_seed(inputs) if self.retries else inputs

    def _say_call(
        self,
        text: str,
        options: SpeechOptions | None,
        keywords: SpeechKeywords,
        request_id: str,
        *,
        times: bool,
        report: bool,
        headers: Mapping[str, str] | None,
    ) -> Call[Audio]:
        inputs = self._speech(text, options, keywords)
        extra = extra_outputs(times, report)
        request = Request(
            MODEL, inputs, (*SPOKEN, *extra), request_id, self.timeout, headers=headers or {}
        )
        return Call(request, functools.partial(audio_of, asked=extra))

    def _stream_request(
        self,
        text: str,
        options: SpeechOptions | None,
        keywords: SpeechKeywords,
        request_id: str,
        *,
        times: bool,
        report: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        inputs = self._speech(text, options, keywords)
        extra = extra_outputs(times, report)
        outputs, declined = (*STREAMED, *extra), declined_outputs(extra)
        return Request(
            STREAM_MODEL, inputs, outputs, request_id, self.timeout, declined,
            headers=headers or {},
        )  # fmt: skip

    def _sentence_requests(
        self,
        options: SpeechOptions | None,
        keywords: SpeechKeywords,
        request_id: str,
        *,
        times: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Callable[[str, int], Request]:
        """What makes the request of each sentence, from the sentence and its index."""
        chosen = choose_options(options, keywords)

        def request(sentence: str, index: int) -> Request:
            own_id = f"{request_id}/{index}" if request_id else ""
            return self._stream_request(
                sentence, chosen.for_sentence(index), {}, own_id, times=times, headers=headers
            )

        return request

    def _phones_call(
        self, text: str, language: str | None, split_method: str | None, voice: str | None
    ) -> Call[Analysis]:
        options = SpeechOptions(language=language, split_method=split_method, voice=voice)
        request = Request(FRONTEND_MODEL, options.tensors(text), (ANALYSIS,), timeout=self.timeout)
        return Call(request, lambda outputs: Analysis.from_json(string_of(outputs, ANALYSIS)))

    def _voices_call(self) -> Call[Voices]:
        # Triton refuses a request without any input: an empty NAME asks for all.
        inputs = {VOICE_NAME.name: VOICE_NAME.encode("")}
        request = Request(VOICES_MODEL, inputs, (VOICES,), timeout=self.timeout)
        return Call(request, lambda outputs: Voices.from_json(string_of(outputs, VOICES)))


def cannot_list_voices(address: str) -> NotFound:
    """The error of a server whose repository lacks the model that lists voices."""
    return NotFound(
        f"{address}: this server can't list voices, because its repository "
        f"has no model {VOICES_MODEL!r}; serve one made by a current `gsv prepare`, "
        "or look into the voice folder on the server's machine"
    )
