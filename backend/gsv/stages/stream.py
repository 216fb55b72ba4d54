"""gpt_sovits_v4_stream: the request of gpt_sovits_v4, answered in chunks while it is being made.

The semantic GPT writes a sentence; as soon as enough tokens stand, flow and vocoder make audio of
them. A chunk hears the reference and the sentence's own past before it and a few tokens of its
future; its end fades into the next chunk's beginning on the mel, and the vocoder runs over the
joined mel with all the context that its samples depend on, so the wave has no seams.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from gsv import audio
from gsv.config import VocoderConfig
from gsv.constants import FLOW_REFERENCE_MAX, MEL_CHANNELS, OUTPUT_RATE, SAMPLES_PER_FRAME
from gsv.engine.chunk_plan import ChunkPlan
from gsv.errors import Cancelled
from gsv.reply import Reply
from gsv.stages import speech
from gsv.stages.base import Place, Tensors, split_by_counts
from gsv.stages.base import Settings as BaseSettings
from gsv.stages.calls import ENGINE, CallModel, CallPool, CancelScope, placeholders
from gsv.stages.mel_stream import MelStream
from gsv.stages.metered_reply import MeteredReply
from gsv.voices.metrics import VoiceMetrics

Mel = NDArray[np.float32]
Wave = NDArray[np.float32]
Request = speech.Request
TEXT_INPUTS = (
    "TEXT", "LANGUAGE", "SPLIT_METHOD", "PAUSE_SECONDS", "VOICE", "REFERENCE_TEXT",
    "REFERENCE_LANGUAGE",
)  # fmt: skip
TEXT_OUTPUTS = (
    "PHONEMES", "PHONEME_COUNTS", "BERT_FEATURES", "BERT_ROWS", "PHONEME_LANGUAGES", "PAUSES",
    "PROMPT_PHONEMES", "PROMPT_BERT_FEATURES", "PROMPT_BERT_ROWS",
)  # fmt: skip
REFERENCE_INPUTS = ("VOICE", "REFERENCE_AUDIO", "REFERENCE_SAMPLE_RATE")
REFERENCE_OUTPUTS = ("PROMPT_TOKENS", "REFERENCE_SPECTRUM", "REFERENCE_MEL")
PROMPT_TENSORS = (
    "PROMPT_PHONEMES", "PROMPT_BERT_FEATURES", "PROMPT_BERT_ROWS", "PROMPT_TOKENS",
)  # fmt: skip
SAMPLING_INPUTS = (
    "VOICE", "TOP_K", "TOP_P", "TEMPERATURE", "REPETITION_PENALTY", "SEED", "GUARD",
)  # fmt: skip
FLOW_INPUTS = ("VOICE", "SPEED", "SAMPLE_STEPS", "SEED")
# Fewest tokens to ask the engine for at once.
CHUNK_TOKENS = 6
# What the engine's required inputs hold when it is asked for more of a sentence; it reads none.
CONTINUED = {**placeholders(ENGINE), "PHONEME_COUNTS": np.ones(1, np.int32)}
LARGEST_PORTION = 64  # tokens
# Frames that are written ahead of a chunk while it is made: for the next chunk, which is at most
# twice as long, and so far that joints of short chunks are no rougher than speech itself, since a
# chunk's condition sees all that is written.
NEXT_CHUNK = 2
AHEAD_FRAMES = 180
VOCODER = "vocoder"
WINDOW_MULTIPLE = 16  # frames; a shape that is new to the vocoder's process costs some 25 ms
SENTENCES_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Result:
    """One chunk of the answer; chunks come in order."""

    audio: Wave  # [samples], mono, -1 to 1
    sample_rate: int
    sentence_index: int


@dataclasses.dataclass(frozen=True)
class Settings(BaseSettings):
    """Parameters of the model."""

    concurrency: int = 64  # streams at once
    waiting: int = 256  # requests that may wait; one more is refused
    first_chunk_seconds: float = 0.5  # 0: every sentence in one chunk
    largest_chunk_seconds: float = 4.0
    lead_seconds: float = 60.0  # how far audio runs ahead of a listener; 0: without limit
    voice_folder: str = "../voices"  # relative to the model repository
    default_voice: str = ""


class SpeechStreamStage:
    """One thread of a pool for each stream."""

    request_type = Request
    result_type = Result
    settings_type = Settings

    def __init__(self, place: Place, settings: Settings, call: CallModel) -> None:
        self._pool = CallPool("stream", call, settings.concurrency, settings.waiting)
        self._plan = ChunkPlan.seconds(settings.first_chunk_seconds, settings.largest_chunk_seconds)
        self._lead = settings.lead_seconds or math.inf
        self._vocoder = VocoderConfig.load(place.of_model(VOCODER) / "vocoder.json")
        self._voices = place.voices(settings.voice_folder, settings.default_voice)
        self.voice_metrics = VoiceMetrics(self._voices)

    def warm_up(self) -> None:
        """The stages warm themselves up."""

    def close(self) -> None:
        """Wait for streams under way."""
        self._pool.close()

    def load(self) -> None:
        """The running batches are the stages\' own."""

    def submit(self, request: Request, reply: Reply) -> Callable[[], None]:
        """Start the stream; it ends with the reply's end or with its error."""

        sent = threading.Event()

        def speak(pinned: Request, scope: CancelScope) -> None:
            chunks = synthesize(pinned, scope, self._plan, self._vocoder, self._lead)
            for chunk in chunks:
                sent.set()
                counted.send(chunk, final=False)
            counted.finish()

        def work(scope: CancelScope) -> None:
            counted.voice = self.voice_metrics.label(
                request.voice, own_recording=request.brings_recording
            )
            speech.in_one_voice(request, self._voices, scope, speak, sent.is_set)

        counted = MeteredReply(reply, self.voice_metrics)
        return counted.submitted(self._pool, work)


def synthesize(
    request: Request,
    call: CancelScope,
    plan: ChunkPlan,
    vocoder: VocoderConfig,
    lead_seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Result]:
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
    speech_tensors = _Shared.gather(request, call)
    feed = TokenFeed(call, speech_tensors.engine_requests(), plan)
    player = _Player(clock, lead_seconds)
    finished = False
    try:
        feed.start()
        if speech_tensors.pauses[0] > 0:
            yield player.sent(
                audio.silence(speech_tensors.pauses[0], request.sample_rate), request, 0
            )
        for index in range(speech_tensors.sentences):
            resampler = audio.StreamResampler(OUTPUT_RATE, request.sample_rate)
            for wave, last in _speak_sentence(
                index, speech_tensors, call, feed, plan, player, vocoder.context_frames
            ):
                samples = np.clip(resampler.push(wave, last=last), -1.0, 1.0)
                if last:
                    pause = float(speech_tensors.pauses[index + 1])
                    samples = np.concatenate([samples, audio.silence(pause, request.sample_rate)])
                if len(samples):
                    yield player.sent(samples, request, index)
        finished = True
    finally:
        if not finished:
            call.cancel()
        feed.join()


class _Player:
    """What a listener who plays from the first chunk on has left."""

    def __init__(self, clock: Callable[[], float], lead_seconds: float) -> None:
        self._clock = clock
        self._lead_seconds = lead_seconds
        self._started: float | None = None
        self._sent_seconds = 0.0
        self._previous, self._took = 0, 0.0  # frames of the last chunk made, and seconds for it
        self._asked = 0.0  # when the next one was asked for

    def sent(self, samples: Wave, request: Request, sentence: int) -> Result:
        """Count a chunk that is about to leave."""
        if self._started is None:
            self._started = self._clock()
        self._sent_seconds += len(samples) / request.sample_rate
        return Result(samples, request.sample_rate, sentence)

    def next_size(self, plan: ChunkPlan) -> int:
        """Frames of the chunk that is asked for now."""
        self._asked = self._clock()
        return plan.size(self.buffered, self._previous, self._took)

    def made(self, frames: int) -> None:
        """Take note of the chunk that was asked for last."""
        self._previous, self._took = frames, self._clock() - self._asked

    def catch_up(self, call: CancelScope) -> None:
        """Wait while more than the lead is left to play; Cancelled when the caller leaves."""
        surplus = self.buffered - self._lead_seconds
        if surplus > 0 and call.cancelled.wait(surplus):
            raise Cancelled("the caller went away")

    @property
    def buffered(self) -> float:
        """Seconds sent and not played yet."""
        if self._started is None:
            return 0.0
        return max(0.0, self._sent_seconds - (self._clock() - self._started))


@dataclasses.dataclass(frozen=True)
class _Shared:
    """The text and the reference of one answer, as the generators want them."""

    options: Tensors  # the request's scalars, all of them
    phonemes: list[NDArray[np.int32]]  # of each sentence
    bert_rows: list[NDArray[np.int32]]
    languages: list[NDArray[np.int32]]  # of each phoneme
    bert_features: NDArray[np.float32]
    pauses: NDArray[np.float32]
    prompt: Tensors  # PROMPT_PHONEMES, PROMPT_BERT_FEATURES, PROMPT_BERT_ROWS, PROMPT_TOKENS
    reference: Tensors  # REFERENCE_SPECTRUM, REFERENCE_MEL

    @classmethod
    def gather(cls, request: Request, call: CancelScope) -> _Shared:
        """Ask the text frontend and the reference encoder, both at once."""
        given = request.tensors()
        with ThreadPoolExecutor(1, thread_name_prefix="reference") as beside:
            hearing = beside.submit(
                call, "reference_encoder", _pick(given, REFERENCE_INPUTS), REFERENCE_OUTPUTS
            )
            text = call("text_frontend", _pick(given, TEXT_INPUTS), TEXT_OUTPUTS)
            heard = hearing.result()
        counts = text["PHONEME_COUNTS"]
        return cls(
            options=given,
            phonemes=split_by_counts(text["PHONEMES"], counts),
            bert_rows=split_by_counts(text["BERT_ROWS"], counts),
            languages=split_by_counts(text["PHONEME_LANGUAGES"], counts),
            bert_features=text["BERT_FEATURES"],
            pauses=text["PAUSES"],
            prompt=_pick({**text, **heard}, PROMPT_TENSORS),
            reference=_pick(heard, ("REFERENCE_SPECTRUM", "REFERENCE_MEL")),
        )

    @property
    def sentences(self) -> int:
        return len(self.phonemes)

    def engine_requests(self) -> list[Tensors]:
        """One request to the semantic GPT's engine a sentence, with its own BERT rows only."""
        sampling = _pick(self.options, SAMPLING_INPUTS)
        requests = []
        for index, (phonemes, rows) in enumerate(zip(self.phonemes, self.bert_rows, strict=True)):
            used, own_rows = np.unique(rows, return_inverse=True)
            requests.append(
                {
                    "PHONEMES": phonemes,
                    "PHONEME_LANGUAGES": self.languages[index],
                    "PHONEME_COUNTS": np.array([len(phonemes)], np.int32),
                    "BERT_FEATURES": self.bert_features[used],
                    "BERT_ROWS": own_rows.astype(np.int32),
                    **self.prompt,
                    **sampling,
                    "FIRST_SENTENCE": index,
                }
            )
        return requests

    def mel_request(
        self,
        index: int,
        tokens: NDArray[np.int32],
        first_frame: int,
        frames: int,
        past: Mel,
        buffered: float,
    ) -> Tensors:
        """The request to sovits_v4 for ``frames`` frames (0: all) from ``first_frame`` on.

        With ``buffered`` seconds for it until the listener has nothing left.
        """
        first = index == 0 and first_frame == 0
        phonemes = self.phonemes[index]
        tensors = {
            "TOKENS": tokens,
            "TOKEN_COUNTS": np.array([len(tokens)], np.int32),
            "PHONEMES": phonemes,
            "PHONEME_COUNTS": np.array([len(phonemes)], np.int32),
            **_pick(self.prompt, ("PROMPT_TOKENS", "PROMPT_PHONEMES")),
            **self.reference,
            **_pick(self.options, FLOW_INPUTS),
            "FIRST_SENTENCE": index,
            "FIRST_FRAME": first_frame,
            "FRAME_COUNT": frames,
            "LISTENER_WAITS": int(first),
            "LISTENER_SECONDS": buffered,
        }
        return {**tensors, "PAST_MEL": past} if first_frame else tensors


def _speak_sentence(
    index: int,
    shared: _Shared,
    call: CancelScope,
    feed: TokenFeed,
    plan: ChunkPlan,
    player: _Player,
    context: int,
) -> Iterator[tuple[Wave, bool]]:
    """Waves at 48 kHz of one sentence, and whether each is its last."""
    mels = MelStream(context, WINDOW_MULTIPLE)
    past: Mel = np.zeros((MEL_CHANNELS, 0), np.float32)
    fading: Mel = past  # the last chunk's own version of the frames that come next
    made, last = 0, False
    while not last:
        player.catch_up(call)
        wanted = player.next_size(plan)
        tokens, last = feed.wait(index, made, wanted, shared.options["SPEED"])
        count = 0 if last else wanted + plan.look_ahead
        asked = shared.mel_request(index, tokens, made, count, past, player.buffered)
        answer = call("sovits_v4", asked, ["MEL"])
        mel = _fade(fading, answer["MEL"])
        if not last:
            mel, fading = mel[:, :wanted], mel[:, wanted : wanted + plan.blend]
        made += mel.shape[1]
        past = np.concatenate([past, mel], axis=1)[:, -FLOW_REFERENCE_MAX:]
        wave = _vocode(mels, mel, last, call)
        player.made(mel.shape[1])
        yield wave, last


def _fade(fading: Mel, mel: Mel) -> Mel:
    """Let the first frames of ``mel`` come in over the frames that were foreseen for them."""
    frames = min(fading.shape[1], mel.shape[1])
    if frames == 0:
        return mel
    weight = (np.arange(frames, dtype=np.float32) + 1) / (frames + 1)
    joined = weight * mel[:, :frames] + (1 - weight) * fading[:, :frames]
    return np.concatenate([joined, mel[:, frames:]], axis=1)


def _vocode(mels: MelStream, mel: Mel, last: bool, call: CancelScope) -> Wave:
    """The samples that can be made for good, now that ``mel`` is known."""
    window = mels.push(mel, last=last)
    if window is None:
        return np.zeros(0, np.float32)
    frames, first, end = window
    request = {
        "MEL": frames,
        "MEL_COUNTS": np.array([frames.shape[1]], np.int32),
    }
    wave: Wave = call(VOCODER, request, ["AUDIO"])["AUDIO"]
    return wave[first * SAMPLES_PER_FRAME : end * SAMPLES_PER_FRAME]


class TokenFeed:
    """Runs the engine ahead of the listener, sentence by sentence, on a thread of its own.

    As far as the next chunk needs, not further: what is written too early takes the machine from
    the chunk that is waited for.
    """

    def __init__(self, call: CancelScope, requests: list[Tensors], plan: ChunkPlan) -> None:
        self._call = call
        self._requests = requests
        self._plan = plan
        # Tokens to have of the sentence that the consumer is at: at once, and in the end.
        self._urgent, self._target = _first_targets(plan)
        self._tokens: list[list[NDArray[np.int32]]] = [[] for _ in requests]
        self._ended = [False] * len(requests)
        self._heard = 0  # the sentence that the consumer is at
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="token-feed", daemon=True)

    def start(self) -> None:
        """Begin with the first sentence."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread; after a cancelled scope it ends at once."""
        with self._changed:
            self._heard = len(self._requests)
            self._changed.notify_all()
        self._thread.join()

    def wait(
        self, sentence: int, made: int, wanted: int, speed: float
    ) -> tuple[NDArray[np.int32], bool]:
        """The tokens so far, once they suffice for ``wanted`` more frames or the sentence is over.

        Returns:
            Tokens [n], and whether the chunk is the sentence's last: all tokens are written and
            what is left is hardly more than one chunk.
        """
        plan = self._plan
        needed = plan.tokens_needed(made + wanted, speed)
        with self._changed:
            self._heard = max(self._heard, sentence)
            if not plan.whole_sentences:
                self._urgent = needed
                self._target = plan.tokens_needed(made + wanted + _ahead(wanted), speed)
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: (
                    self._error is not None
                    or self._ended[sentence]
                    or (not plan.whole_sentences and self._count(sentence) >= needed)
                )
            )
            if self._error is not None:
                raise self._error
            tokens = np.concatenate(self._tokens[sentence])
            rest = plan.tokens_needed(made + wanted + wanted // 2, speed)
            last = self._ended[sentence] and (plan.whole_sentences or len(tokens) <= rest)
            return tokens, last

    def _count(self, sentence: int) -> int:
        return sum(len(portion) for portion in self._tokens[sentence])

    def _run(self) -> None:
        try:
            for sentence, request in enumerate(self._requests):
                self._wait_for_turn(sentence)
                self._write(sentence, request)
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _wait_for_turn(self, sentence: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: sentence <= self._heard + SENTENCES_AHEAD)

    def _wait_for_need(self, sentence: int) -> int:
        """Wait until the sentence has fewer tokens than it should, and say for how many to ask."""
        with self._changed:
            self._changed.wait_for(lambda: self._count(sentence) < self._targets(sentence)[1])
            urgent, target = self._targets(sentence)
            count = self._count(sentence)
            missing = (urgent if count < urgent else target) - count
            return int(min(max(missing, CHUNK_TOKENS), LARGEST_PORTION))

    def _targets(self, sentence: int) -> tuple[float, float]:
        if sentence == self._heard:
            return self._urgent, self._target
        return _first_targets(self._plan) if sentence > self._heard else (math.inf, math.inf)

    def _write(self, sentence: int, request: Tensors) -> None:
        job, ended = uuid.uuid4().hex, False
        portion: Tensors = {"JOB": job, "PORTION": 0}
        try:
            while not ended:
                tokens = self._wait_for_need(sentence)
                asked = {**request, **portion, "CHUNK_TOKENS": tokens}
                answer = self._call(ENGINE, asked, ["TOKENS", "ENDED"], job=job)
                ended = bool(np.asarray(answer["ENDED"]).item())
                request = CONTINUED  # the engine has read the sentence
                portion["PORTION"] += 1
                with self._changed:
                    self._tokens[sentence].append(answer["TOKENS"])
                    self._ended[sentence] = ended
                    self._changed.notify_all()
        finally:
            if not ended:
                self._call.abandon(ENGINE, job)


def _first_targets(plan: ChunkPlan) -> tuple[float, float]:
    """Tokens to have of a sentence before its first chunk is asked for: at once, and in the end."""
    if plan.whole_sentences:
        return math.inf, math.inf
    first = plan.tokens_needed(plan.first, 1.0)
    return first, plan.tokens_needed(plan.first + _ahead(plan.first), 1.0)


def _ahead(frames: int) -> int:
    """Frames to write beyond a chunk of ``frames``."""
    return max(NEXT_CHUNK * frames, AHEAD_FRAMES)


def _pick(tensors: Tensors, names: tuple[str, ...]) -> Tensors:
    return {name: tensors[name] for name in names if name in tensors}
