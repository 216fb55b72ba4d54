"""What the server's answers become: chunks of a stream, the text's analysis, voices, health."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from gsv_client.audio import Audio
from gsv_client.errors import ServerError
from gsv_client.options import OUTPUTS, Tensors
from gsv_client.spoken import SentenceReport, WordTime

TIMES = "TIMES"  # both public models, where the server offers it: JSON
REPORT = "REPORT"  # likewise


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Chunk(Audio):
    """A piece of streamed audio; `sentence` is the index of the sentence that it belongs to.

    If they were asked for, `times` holds the words whose times this chunk made known, and `report`
    the sentences that end in it.
    """

    sentence: int = 0


@dataclasses.dataclass(frozen=True)
class SegmentAnalysis:
    """A run of one language inside a sentence, and how it is read.

    `word2ph` gives the number of phonemes of each character of `normalized` in the languages that
    have such a count (Chinese), else None. `changes` tells what was rewritten before it was read,
    `unread` the characters that have no reading.
    """

    language: str
    text: str
    normalized: str
    phonemes: tuple[str, ...]
    ids: tuple[int, ...]
    word2ph: tuple[int, ...] | None
    changes: tuple[ChangeAnalysis, ...] = ()
    unread: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ChangeAnalysis:
    """What was written, what was read in its place, and why."""

    written: str
    spoken: str
    reason: str


@dataclasses.dataclass(frozen=True)
class SentenceAnalysis:
    """A sentence as the frontend split it.

    `pause_after` is the silence in seconds that the text itself asks for, or None. `unread` holds
    the characters without a reading, also those of sentences that were left out.
    """

    text: str
    normalized: str
    pause_after: float | None
    segments: tuple[SegmentAnalysis, ...]
    unread: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Analysis:
    """How the frontend reads a text."""

    sentences: tuple[SentenceAnalysis, ...]

    @classmethod
    def from_json(cls, text: bytes | str) -> Analysis:
        """Parse the frontend's ANALYSIS; keys of a newer server are passed over.

        Raises:
            ServerError: not the JSON that the interface promises.
        """
        with _promised("ANALYSIS"):
            return cls(tuple(_sentence(values) for values in json.loads(text)["sentences"]))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Voice:
    """A voice that the server can speak with.

    `references` names further recordings of the speaker, chosen as `name/reference`; `details`
    holds all that the server tells about the voice.
    """

    name: str
    language: str | None
    text: str | None
    references: tuple[str, ...]
    default: bool
    details: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Voices(Sequence[Voice]):
    """The voices of a server, what is wrong with those that it can't use, and its default."""

    voices: tuple[Voice, ...]
    broken: tuple[str, ...] = ()
    default: str | None = None  # NAME or NAME/REFERENCE

    @classmethod
    def from_json(cls, text: bytes | str) -> Voices:
        """Parse VOICES: `{"default": NAME or null, "voices": [{"name": …}, …], "broken": […]}`.

        Raises:
            ServerError: not the JSON that the interface promises.
        """
        with _promised("VOICES"):
            values = json.loads(text)
            default = values.get("default") or None
            voices = tuple(_voice(voice, default) for voice in values["voices"])
            broken = tuple(str(message) for message in values.get("broken") or ())
            return cls(voices, broken, default)

    @overload
    def __getitem__(self, index: int) -> Voice: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Voice]: ...

    def __getitem__(self, index: int | slice) -> Voice | Sequence[Voice]:
        return self.voices[index]

    def __len__(self) -> int:
        return len(self.voices)


@dataclasses.dataclass(frozen=True)
class Health:
    """Whether the server is there and takes requests; `message` says why not."""

    live: bool
    ready: bool
    version: str
    message: str

    @classmethod
    def of(cls, address: str, live: bool, ready: bool, version: str) -> Health:
        """The health of a server that answers."""
        loading = f"{address}: some models are still loading or failed"
        return cls(live, ready, version, "" if ready else loading)


def audio_of(outputs: Tensors, asked: Collection[str] = ()) -> Audio:
    """The audio of an answer and what came with it.

    Args:
        outputs: the tensors of the answer.
        asked: which of TIMES and REPORT must be among them.

    Raises:
        ServerError: a tensor is missing.
    """
    samples, rate = _output(outputs, "audio"), _output(outputs, "rate")
    return Audio(
        samples.reshape(-1).astype(np.float32, copy=False),
        int(rate.reshape(-1)[0]),
        times=times_of(outputs) if TIMES in {*asked, *outputs} else (),
        report=report_of(outputs) if REPORT in {*asked, *outputs} else (),
    )


def chunk_of(outputs: Tensors) -> Chunk:
    """One chunk of a stream; ServerError when a tensor is missing."""
    audio, sentence = audio_of(outputs), _output(outputs, "sentence")
    number = int(sentence.reshape(-1)[0])
    return Chunk(audio.samples, audio.rate, audio.times, audio.report, sentence=number)


def is_empty(outputs: Tensors) -> bool:
    """Whether a chunk holds nothing: the server says that it is at work."""
    return not _output(outputs, "audio").size and not {TIMES, REPORT} & {*outputs}


def times_of(outputs: Tensors) -> tuple[WordTime, ...]:
    """The words of an answer that was asked for TIMES; ServerError when they are not there."""
    text = string_of(outputs, TIMES)
    with _promised(TIMES):
        return tuple(
            WordTime(
                str(values["word"]),
                float(values["start"]),
                float(values["end"]),
                int(values.get("sentence", 0)),
            )
            for values in json.loads(text)
        )


def report_of(outputs: Tensors) -> tuple[SentenceReport, ...]:
    """The sentences of an answer that was asked for REPORT; ServerError when they are not there."""
    text = string_of(outputs, REPORT)
    with _promised(REPORT):
        return tuple(SentenceReport.of(values) for values in json.loads(text))


def extra_outputs(times: bool, report: bool) -> tuple[str, ...]:
    """The names of the outputs that tell the times of words and how sentences came about."""
    return (TIMES,) * times + (REPORT,) * report


def declined_outputs(extra: tuple[str, ...]) -> tuple[str, ...]:
    """Those of them that are not among the `extra` outputs of a request."""
    return tuple(name for name in (TIMES, REPORT) if name not in extra)


def _output(outputs: Tensors, which: str) -> NDArray[Any]:
    name = OUTPUTS[which].name
    if name not in outputs:
        raise ServerError(
            f"the answer holds {sorted(outputs)} but no {name}; "
            "client and server are probably of different versions"
        )
    return outputs[name]


def string_of(outputs: Tensors, name: str) -> bytes:
    """The one string that a tensor holds; ServerError when it does not."""
    if name not in outputs or outputs[name].size != 1:
        raise ServerError(f"the answer holds {sorted(outputs)} but not one {name}")
    value = outputs[name].reshape(-1)[0]
    return value if isinstance(value, bytes) else str(value).encode()


@contextlib.contextmanager
def _promised(tensor: str) -> Iterator[None]:
    """Turn a parse error inside the block into ServerError naming the tensor."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ServerError(
            f"{tensor}: the server's JSON is not as documented ({error!r}); "
            "client and server are probably of different versions"
        ) from error


def _sentence(values: Mapping[str, Any]) -> SentenceAnalysis:
    pause = values.get("pause_after")
    return SentenceAnalysis(
        text=values["text"],
        normalized=values["normalized"],
        pause_after=None if pause is None else float(pause),
        segments=tuple(_segment(segment) for segment in values["segments"]),
        unread=tuple(values.get("unread") or ()),
    )


def _segment(values: Mapping[str, Any]) -> SegmentAnalysis:
    counts = values.get("word2ph")
    return SegmentAnalysis(
        language=values["language"],
        text=values["text"],
        normalized=values["normalized"],
        phonemes=tuple(values["phonemes"]),
        ids=tuple(values["ids"]),
        word2ph=None if counts is None else tuple(counts),
        changes=tuple(
            ChangeAnalysis(change["written"], change["spoken"], change["reason"])
            for change in values.get("changes") or ()
        ),
        unread=tuple(values.get("unread") or ()),
    )


def _voice(values: Mapping[str, Any], default: str | None) -> Voice:
    return Voice(
        name=values["name"],
        language=values.get("language"),
        text=values.get("text"),
        references=tuple(values.get("references") or ()),
        default=default is not None and values["name"] == default.partition("/")[0],
        details=dict(values),
    )
