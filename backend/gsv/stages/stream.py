"""gpt_sovits_v4_stream: the request of gpt_sovits_v4, answered in chunks while it is being made.

As soon as the semantic GPT has written enough tokens of a sentence, flow and vocoder make audio of
them. A chunk's mel is conditioned on the reference, on the sentence's past and on a few tokens of
its future. The last frames of a chunk fade into the first ones of the next, on the mel; the vocoder
then reads the joined mel with all the context that its samples depend on, so the wave has no seams.
"""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from gsv import audio
from gsv.config import VocoderConfig
from gsv.constants import FLOW_REFERENCE_MAX, MEL_CHANNELS, OUTPUT_RATE, SAMPLES_PER_FRAME
from gsv.engine.chunk_plan import ChunkPlan
from gsv.reply import Reply
from gsv.stages import speech
from gsv.stages.answer_details import AnswerDetails
from gsv.stages.base import Place
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.calls import CallModel, CallPool, CancelScope
from gsv.stages.mel_stream import MelStream
from gsv.stages.messages import SpeechRequest
from gsv.stages.metered_reply import MeteredReply
from gsv.stages.notices import Notices
from gsv.stages.playback import Playback
from gsv.stages.synthesis import VOCODER, MelChunk, Speech, prepare, run, wave_window
from gsv.stages.token_feed import TokenFeed
from gsv.stages.waiting_line import LineLimits
from gsv.timings import Timings
from gsv.voices.metrics import VoiceMetrics

Mel = NDArray[np.float32]
Wave = NDArray[np.float32]
WINDOW_MULTIPLE = 16  # frames; a shape that is new to the vocoder's process costs some 25 ms


@dataclasses.dataclass(frozen=True)
class ChunkResult:
    """One chunk of the answer; chunks come in order."""

    audio: Wave  # [samples], mono, -1 to 1
    sample_rate: int
    sentence_index: int
    # JSON, where it was asked for: of the sentences that end with this chunk.
    times: str | None = None
    report: str | None = None


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    concurrency: int = 64  # streams at once
    waiting: int = 256  # requests that may wait; one more is refused
    characters: int = 1_000_000  # of the texts in work and waiting together; more is refused
    first_chunk_seconds: float = 0.5  # 0: every sentence in one chunk
    largest_chunk_seconds: float = 4.0
    lead_seconds: float = 60.0  # how far audio runs ahead of a listener; 0: without limit
    notice_seconds: float = 2.0  # without audio, until an empty chunk is sent; 0: never
    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""

    @property
    def line(self) -> LineLimits:
        """What may be inside at once."""
        return LineLimits(self.concurrency, self.waiting, self.characters)


class SpeechStreamStage:
    """One thread of a pool for each stream."""

    request_type = speech.PublicRequest
    result_type = ChunkResult
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings, call: CallModel) -> None:
        self._pool = CallPool("stream", call, settings.line)
        self._plan = ChunkPlan.seconds(settings.first_chunk_seconds, settings.largest_chunk_seconds)
        self._lead = settings.lead_seconds or math.inf
        self._notices = Notices(settings.notice_seconds)
        self._vocoder = VocoderConfig.load(place.of_model(VOCODER) / "vocoder.json")
        self._voices = place.voices(settings.voice_folder, settings.default_voice)
        self.voice_metrics = VoiceMetrics(self._voices)
        self.timings = Timings("queue", "first_audio", "late")

    def warm_up(self) -> None:
        """The stages warm themselves up."""

    def close(self) -> None:
        """Wait for streams under way."""
        self._pool.close()

    def load(self) -> None:
        """The running batches are the stages\' own."""

    def sweep(self) -> None:
        """Called often: tell those who have waited a while that they will be heard."""
        self._notices.sweep()

    def submit(self, request: speech.PublicRequest, reply: Reply) -> Callable[[], None]:
        """Start the stream; it ends with the reply's end or with its error."""

        sent = threading.Event()

        def speak(pinned: SpeechRequest, scope: CancelScope) -> None:
            for chunk in stream(pinned, scope, self._plan, self._vocoder, self._lead):
                sent.set()
                counted.send(chunk, final=False)
            counted.finish()

        def work(scope: CancelScope) -> None:
            counted.voice = self.voice_metrics.label(
                request.voice, own_recording=request.brings_recording
            )
            speech.in_one_voice(request, self._voices, scope, speak, sent.is_set)

        counted = MeteredReply(reply, self.voice_metrics, self.timings)
        self._notices.expect(
            counted, ChunkResult(audio.silence(0, request.sample_rate), request.sample_rate, 0)
        )
        return counted.submitted(self._pool, work, request.request_id, len(request.text))


def stream(
    request: SpeechRequest,
    call: CancelScope,
    plan: ChunkPlan,
    vocoder: VocoderConfig,
    lead_seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[ChunkResult]:
    """The chunks of one answer, in order.

    Args:
        request: checked already.
        call: the other models.
        plan: how sentences are cut.
        vocoder: the one that is served; how far its samples depend on the mel follows from it.
        lead_seconds: audio that is made ahead of a listener who plays from the first chunk on. The
            server can't see how far a caller has read, so this is what bounds the memory of a slow
            one.
        clock: seconds, to estimate what the listener has left to play.
    """
    with call.awaiting_first_audio() as heard:
        yield from _chunks(request, call, plan, vocoder, Playback(clock, lead_seconds), heard)


def _chunks(
    request: SpeechRequest,
    call: CancelScope,
    plan: ChunkPlan,
    vocoder: VocoderConfig,
    playback: Playback,
    heard: Callable[[], None],
) -> Iterator[ChunkResult]:
    """As :func:`stream`; ``heard`` is called when the listener gets the first speech."""
    rate = request.sample_rate
    spoken = run(prepare(request), call, call.beside)
    feed = TokenFeed(call, spoken.sentences, spoken.sentence, plan, lambda: playback.listener)
    details = AnswerDetails(request.details, spoken.text.analysis) if request.details else None
    position = 0  # samples of the answer that are made

    def told() -> tuple[str | None, str | None]:
        return (None, None) if details is None else details.take()

    finished = False
    try:
        feed.start()
        if (pause := float(spoken.text.pauses[0])) > 0:
            playback.sent(pause, speech=False)
            silence = audio.silence(pause, rate)
            position += len(silence)
            yield ChunkResult(silence, rate, 0, *told())
        for index in range(spoken.sentences):
            sentence = _Sentence(index, spoken, call, feed, plan, playback, vocoder.context_frames)
            resampler = audio.StreamResampler(OUTPUT_RATE, rate)
            begin = position
            for wave, last in sentence.waves():
                samples = np.clip(resampler.push(wave, last=last), -1.0, 1.0)
                position += len(samples)
                if last:
                    if details is not None:
                        (drawn,) = json.loads(feed.drawn(index))
                        details.add(index, drawn, begin / rate, (position - begin) / rate)
                    pause = float(spoken.text.pauses[index + 1])
                    silence = audio.silence(pause, rate)
                    samples = np.concatenate([samples, silence])
                    position += len(silence)
                if len(samples):
                    playback.sent(len(samples) / rate)
                    heard()
                    yield ChunkResult(samples, rate, index, *told())
        finished = True
    finally:
        if not finished:
            call.cancel()
        feed.join()


@dataclasses.dataclass(frozen=True)
class _Sentence:
    """One sentence of a stream, made chunk by chunk."""

    index: int
    spoken: Speech
    call: CancelScope
    feed: TokenFeed
    plan: ChunkPlan
    playback: Playback
    context: int  # mel frames on either side that a sample depends on

    def waves(self) -> Iterator[tuple[Wave, bool]]:
        """Samples at 48 kHz, and whether they are the sentence's last."""
        mels = MelStream(self.context, WINDOW_MULTIPLE)
        past: Mel = np.zeros((MEL_CHANNELS, 0), np.float32)
        fading: Mel = past  # the last chunk's own version of the frames that come next
        made, last = 0, False
        while not last:
            if surplus := self.playback.surplus:
                self.call.rest(surplus)
            wanted = self.playback.next_size(self.plan)
            speed = self.spoken.request.speed
            tokens, last = self.feed.wait(self.index, made, wanted, speed)
            count = 0 if last else wanted + self.plan.look_ahead
            chunk = MelChunk(self.index, made, count, past)
            answer = self.call(self.spoken.mel_chunk(tokens, chunk, self.playback.listener))
            self.feed.write_ahead()
            mel = _fade(fading, answer.mel)
            if not last:
                mel, fading = mel[:, :wanted], mel[:, wanted : wanted + self.plan.blend]
            made += mel.shape[1]
            past = np.concatenate([past, mel], axis=1)[:, -FLOW_REFERENCE_MAX:]
            wave = self._vocode(mels, mel, last=last)
            self.playback.made(mel.shape[1])
            yield wave, last

    def _vocode(self, mels: MelStream, mel: Mel, *, last: bool) -> Wave:
        """The samples that can be made for good, now that ``mel`` is known."""
        window = mels.push(mel, last=last)
        if window is None:
            return np.zeros(0, np.float32)
        frames, first, end = window
        wave = self.call(wave_window(frames, self.playback.listener)).audio
        return wave[first * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]


def _fade(fading: Mel, mel: Mel) -> Mel:
    """Let the first frames of ``mel`` come in over the frames that were foreseen for them."""
    frames = min(fading.shape[1], mel.shape[1])
    if frames == 0:
        return mel
    weight = (np.arange(frames, dtype=np.float32) + 1) / (frames + 1)
    joined = weight * mel[:, :frames] + (1 - weight) * fading[:, :frames]
    return np.concatenate([joined, mel[:, frames:]], axis=1)
