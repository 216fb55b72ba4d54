"""Whether a server speaks: one tiny synthesis, for health checks.

Triton's own health endpoints tell whether the models are loaded. A process that died, a GPU that
can't be used any more or a model that hangs is found by a request only.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import numpy as np

from gsv_client.audio import Audio
from gsv_client.bench.metrics import scrape
from gsv_client.client import Client
from gsv_client.errors import (
    InvalidRequest,
    ServerError,
    ServerUnavailable,
    Timeout,
    says_try_again,
)
from gsv_client.options import SpeechOptions

TEXT = "Hi."
# The fewest steps and a fixed seed: quick, and the same each time.
OPTIONS = SpeechOptions(language="en", sample_steps=1, seed=1, sample_rate=8_000)
# What is said by a server that is not well, and not just full.
_UNWELL = re.compile(r"\bis stopping\b|\bdied\b|\bloaded again\b|\bloading\b")
_NO_VOICE = "VOICE: none given"
_BROKEN_VOICE = re.compile(r"\bvoice \S+: ")
_ANSWERED = re.compile(
    r'gsv_requests_total\{.*model="gpt_sovits_v4(_stream)?".*outcome="answered".*\}'
)


class NoVoice(ServerError):
    """The server has no voice to speak with."""


def probe(client: Client, voice: str | None = None, *, stream: bool = False) -> str:
    """Let the server speak a syllable.

    Args:
        client: its timeout is how long that may take.
        voice: to speak with; None is the server's default voice, or the first of its voices.
        stream: ask the model that streams.

    Returns:
        What was found, in a few words. A server whose waiting line is full is well.

    Raises:
        GsvClientError: it does not speak.
    """
    try:
        audio = _speak(client, voice, stream)
    except ServerUnavailable as error:
        if says_try_again(str(error)) and not _UNWELL.search(str(error)):
            return f"busy: {error}"
        raise
    if not len(audio.samples) or not np.isfinite(audio.samples).all():
        raise ServerError(
            f"{client.transport.address}: what came back is not speech "
            f"({len(audio.samples)} samples, some of them no numbers); see the server's log"
        )
    return f"speaks: {audio.duration:.2f} s of audio"


def probe_liveness(client: Client, answered: Callable[[], float], *, stream: bool = False) -> str:
    """As :func:`probe`, but fails only where starting the server again would help.

    A server is well that has no voice, or a broken one, and one that had no time for this request
    but has answered others meanwhile.

    Args:
        client: its timeout is how long the answer may take.
        answered: how many requests the public models have answered so far.
        stream: ask the model that streams.
    """
    before = answered()
    try:
        return probe(client, stream=stream)
    except Timeout:
        if answered() <= before:
            raise
        return "busy: it answers others"
    except NoVoice as error:
        return f"well: {error}"
    except ServerUnavailable as error:
        if not _BROKEN_VOICE.search(str(error)):
            raise
        return f"well: {error}"


def answered_requests(metrics_url: str, timeout: float) -> float:
    """Requests that the public models have answered, by the server's metrics.

    Raises:
        ServerUnavailable, Timeout, ServerError: no metrics there.
    """
    samples = scrape(metrics_url, timeout)
    return sum(value for series, value in samples.items() if _ANSWERED.fullmatch(series))


def _speak(client: Client, voice: str | None, stream: bool) -> Audio:
    try:
        return _say(client, voice, stream)
    except InvalidRequest as error:
        if voice is not None or _NO_VOICE not in str(error):
            raise
        names = [found.name for found in client.voices()]
        if not names:
            raise NoVoice(
                f"{client.transport.address}: has no voice to speak with; add one on the server: "
                "gsv voices add"
            ) from error
        return _say(client, names[0], stream)


def _say(client: Client, voice: str | None, stream: bool) -> Audio:
    options = dataclasses.replace(OPTIONS, voice=voice)
    if not stream:
        return client.say(TEXT, options)
    chunks = list(client.stream(TEXT, options))
    if not chunks:
        raise ServerError(f"{client.transport.address}: the stream ended without audio")
    return Audio.join(chunks)
