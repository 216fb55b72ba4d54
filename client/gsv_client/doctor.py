"""What is wrong with a server, and what to do about it.

The backend adds checks of repositories, checkpoints and voices through the entry-point group
`gsv.doctor`; each entry is a `Check`.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from gsv_client import __version__
from gsv_client.audio import Audio
from gsv_client.client import Client
from gsv_client.errors import AccessDenied, GsvClientError
from gsv_client.options import MODEL, OUTPUTS, STREAM_MODEL, TENSORS, SpeechOptions
from gsv_client.transport import ModelState

Level = Literal["ok", "warning", "error"]

# A word, few steps, a fixed seed: quick, and the same at each rate.
TRIAL_TEXT = "Hello."
TRIAL_STEPS = 4
TRIAL_SEED = 1
TRIAL_RATES = (48_000, 16_000)
QUIETEST_PEAK = 1e-4  # below it there is nothing to hear
LENGTHS_AGREE_SECONDS = 0.01


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: `ok`, `warning` (works, but something is amiss) or `error`.
        subject: what was looked at, in a word or two: a file, a model, the server.
        message: what was found.
        advice: what to do about it; empty where nothing is to be done.
    """

    level: Level
    subject: str
    message: str
    advice: str = ""


Check = Callable[[Path | None, Path | None], Iterable[Finding]]


def check_installation() -> Iterator[Finding]:
    """What runs here."""
    yield Finding("ok", "client", f"gsv-client {__version__} on Python {platform.python_version()}")


def check_server(client: Client, speak: SpeechOptions | None = None) -> Iterator[Finding]:
    """Whether the server answers, is ready, has our tensors, and (with `speak`) speaks."""
    health = client.health()
    if not health.live:
        yield Finding("error", "server", health.message)
        return
    yield Finding("ok", "server", f"{client.transport.address} runs Triton {health.version}")
    if not health.ready:
        yield Finding(
            "error", "server", health.message, "wait for the loading to end; see the server's log"
        )
    ready = {MODEL, STREAM_MODEL}
    try:
        models = client.models()
    except AccessDenied as error:
        yield Finding(
            "warning", "server", f"the list of models is closed: {error}",
            "to see each model's state, send that header: --header NAME:VALUE",
        )  # fmt: skip
    else:
        yield from _check_states(models)
        ready &= {model.name for model in models if model.state == "READY"}
    for name in (MODEL, STREAM_MODEL):
        if name in ready:
            yield from _check_tensors(client, name)
    if ready >= {MODEL, STREAM_MODEL}:
        yield from _check_voices(client)
    if speak is not None:
        yield from check_speech(client, speak, streams=STREAM_MODEL in ready)


def check_speech(client: Client, options: SpeechOptions, *, streams: bool) -> Iterator[Finding]:
    """Speak a word at two rates, and once as a stream, and look at what comes back."""
    spoken: list[Audio] = []
    for rate in TRIAL_RATES:
        trial = dataclasses.replace(
            options, sample_rate=rate, sample_steps=TRIAL_STEPS, seed=TRIAL_SEED
        )
        try:
            spoken.append(client.say(TRIAL_TEXT, trial))
        except GsvClientError as error:
            yield Finding("error", "speech", str(error))
            return
        yield _judge("speech", spoken[-1], rate)
    first, second = spoken
    if abs(first.duration - second.duration) > LENGTHS_AGREE_SECONDS:
        yield Finding(
            "warning", "speech",
            f"the same word lasts {first.duration:.3f} s at {first.rate} Hz and "
            f"{second.duration:.3f} s at {second.rate} Hz",
            "with one seed both should last as long: look at the server's resampling",
        )  # fmt: skip
    if streams:
        try:
            chunks = list(client.stream(TRIAL_TEXT, trial))
        except GsvClientError as error:
            yield Finding("error", "stream", str(error))
            return
        if not chunks:
            yield Finding("error", "stream", "ended without audio", "see the server's log")
            return
        yield _judge("stream", Audio.join(chunks), TRIAL_RATES[-1])


def _check_states(models: list[ModelState]) -> Iterator[Finding]:
    for model in models:
        subject = f"{model.name}/{model.version}" if model.version else model.name
        if model.state == "READY":
            yield Finding("ok", subject, "ready")
        elif model.state:
            reason = f": {model.reason}" if model.reason else ""
            yield Finding(
                "error", subject, f"{model.state.lower()}{reason}", "see the server's log"
            )
    names = {model.name for model in models}
    for name in (MODEL, STREAM_MODEL):
        if name not in names:
            yield Finding(
                "error", name, "not in the server's repository",
                "serve a repository made by `gsv prepare`",
            )  # fmt: skip


def _check_voices(client: Client) -> Iterator[Finding]:
    """Whether the server has voices, all of them usable, the default one among them."""
    try:
        voices = client.voices()
    except GsvClientError as error:
        yield Finding("warning", "voices", str(error))
        return
    for message in voices.broken:
        yield Finding(
            "error", "voices", message, "mend the voice on the server: `gsv doctor --voices`"
        )
    if not voices:
        yield Finding(
            "warning", "voices", "none that can be used: each request must bring a recording",
            "add one on the server: `gsv voices add`",
        )  # fmt: skip
        return
    default = voices.default
    if default and not any(voice.default for voice in voices):
        yield Finding(
            "error", "voices", f"the default voice {default} is not among those that can be used",
            "add it, or change default_voice in every config.pbtxt that has it",
        )  # fmt: skip
    named = f"default {default}" if default else "no default: each request must name one"
    yield Finding("ok", "voices", f"{len(voices)} that can be used, {named}")


def _check_tensors(client: Client, model: str) -> Iterator[Finding]:
    """Compare what the server declares with what this client sends and reads."""
    served = client.model_io(model)
    outputs = {t.name: t.datatype for t in OUTPUTS.values()}
    if model == MODEL:
        del outputs[OUTPUTS["sentence"].name]
    inputs = {t.name: t.datatype for t in TENSORS.values()}
    amiss = [
        f"{name} {wanted} ({'is ' + theirs[name] if name in theirs else 'missing'})"
        for ours, theirs in ((inputs, served.inputs), (outputs, served.outputs))
        for name, wanted in ours.items()
        if theirs.get(name) != wanted
    ]
    advice = "client and server are of different versions: bring both to the same"
    if amiss:
        yield Finding("error", model, f"tensors differ: {', '.join(amiss)}", advice)
    unknown = sorted(set(served.inputs) - set(inputs))
    if unknown:
        message = f"takes {', '.join(unknown)}, which this client does not know"
        yield Finding("warning", model, message, advice)
    if not amiss and not unknown:
        yield Finding("ok", model, "takes and gives what this client expects")


def _judge(subject: str, audio: Audio, rate: int) -> Finding:
    if audio.rate != rate:
        return Finding("error", subject, f"{rate} Hz was asked for, {audio.rate} Hz came")
    if not np.isfinite(audio.samples).all():
        return Finding(
            "error", subject, "the audio holds samples that are not numbers",
            "a checkpoint may be damaged, or the precision too low: try float32",
        )  # fmt: skip
    peak = float(np.abs(audio.samples).max(initial=0.0))
    if peak < QUIETEST_PEAK:
        return Finding("error", subject, f"{audio.duration:.2f} s of silence came back")
    return Finding("ok", subject, f"{audio.duration:.2f} s at {rate} Hz, peak {peak:.2f}")
