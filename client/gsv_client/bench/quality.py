"""How good the speech of a running server is: bad sentences with and without the guard, judges.

Every text is spoken with several seeds, so that runs in different ways say the same. The server's
own REPORT tells which sentences went bad; judges listen to the audio.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from gsv_client.audio import Audio
from gsv_client.bench.judges import Judge, Score, mean
from gsv_client.bench.load import Text, load_texts
from gsv_client.client import Client
from gsv_client.errors import GsvClientError
from gsv_client.options import SpeechOptions
from gsv_client.spoken import SentenceReport

LONG = 2.0  # times the expected tokens from which on a sentence is far too long


@dataclasses.dataclass(frozen=True)
class Way:
    """How a run speaks.

    Attributes:
        mode: `unary` or `stream`.
        concurrency: callers at once.
        guard: whether the guard against bad speech is on.
    """

    mode: str
    concurrency: int
    guard: bool


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a text with a seed was answered with."""

    text: Text
    seed: int
    audio: Audio | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class QualityRun:
    """All answers of one way, and what the judges think of them."""

    way: Way
    answers: Sequence[Answer]
    scores: Mapping[str, Sequence[Score]]

    @property
    def sentences(self) -> list[SentenceReport]:
        """Of all answers."""
        return [
            sentence
            for answer in self.answers
            if answer.audio is not None
            for sentence in answer.audio.report
        ]

    def figures(self) -> dict[str, Any]:
        """The run in numbers; shares of sentences."""
        sentences = self.sentences
        count = max(len(sentences), 1)
        return {
            "answers": len(self.answers),
            "errors": dict(Counter(a.error for a in self.answers if a.error is not None)),
            "sentences": len(sentences),
            "bad": sum(bool(sentence.signals) for sentence in sentences) / count,
            "retried": sum(bool(sentence.retries) for sentence in sentences) / count,
            "long": sum(_is_long(sentence) for sentence in sentences) / count,
            "signals": dict(Counter(s for one in sentences for s in one.signals)),
            "causes": dict(Counter(s for one in sentences for s in one.retries)),
            "tokens": sum(sentence.tokens for sentence in sentences),
            "tokens_drawn": sum(_drawn(sentence) for sentence in sentences),
            "judges": {name: mean(scores) for name, scores in self.scores.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the way, its figures, and each answer's sentences."""
        return {
            **dataclasses.asdict(self.way),
            "figures": self.figures(),
            "answers": [
                {
                    "text": answer.text.id,
                    "seed": answer.seed,
                    "error": answer.error,
                    "seconds": answer.audio and answer.audio.duration,
                    "sentences": [dict(s.details) for s in answer.audio.report]
                    if answer.audio
                    else [],
                    "scores": {name: scores[n].value for name, scores in self.scores.items()}
                    if answer.audio
                    else {},
                }
                for n, answer in enumerate(self.answers)
            ],
        }


def _is_long(sentence: SentenceReport) -> bool:
    expected = float(sentence.details.get("expected", 0))
    return bool(expected) and sentence.tokens > LONG * expected


def _drawn(sentence: SentenceReport) -> int:
    return int(sentence.details.get("drawn", sentence.tokens))


def everyday_texts(path: Path | None = None) -> list[Text]:
    """A hundred everyday sentences in English, or another file of the same form."""
    if path is not None:
        return load_texts(path)
    with resources.as_file(resources.files("gsv_client.bench") / "everyday.json") as kept:
        return load_texts(kept)


def speak_all(
    client: Client, options: SpeechOptions, texts: Sequence[Text], seeds: Sequence[int], way: Way
) -> list[Answer]:
    """Every text with every seed, in order."""

    def speak(asked: tuple[Text, int]) -> Answer:
        text, seed = asked
        chosen = dataclasses.replace(
            options,
            language=options.language or text.language,
            seed=seed,
            guard=int(way.guard),
        )
        try:
            if way.mode == "stream":
                audio = Audio.join(client.stream(text.text, chosen, report=True))
            else:
                audio = client.say(text.text, chosen, report=True)
        except GsvClientError as error:
            return Answer(text, seed, error=f"{type(error).__name__}: {error}")
        return Answer(text, seed, audio)

    with ThreadPoolExecutor(way.concurrency) as pool:
        return list(pool.map(speak, itertools.product(texts, seeds)))


class Panel:
    """Judges that hear equal audio once.

    Args:
        judges: by name.
    """

    def __init__(self, judges: Mapping[str, Judge]) -> None:
        self._judges = judges
        self._known: dict[tuple[str, str, bytes], Score] = {}

    def scores(
        self, answers: Sequence[Answer], tell: Callable[[str], None] = lambda _: None
    ) -> dict[str, list[Score]]:
        """Of each judge, a score for each answer; those without audio weigh nothing."""
        found: dict[str, list[Score]] = {}
        for name, judge in self._judges.items():
            tell(f"  {name}: {len(answers)} answers …")
            found[name] = [self._score(name, judge, answer) for answer in answers]
        return found

    def _score(self, name: str, judge: Judge, answer: Answer) -> Score:
        audio, text = answer.audio, answer.text.text
        if audio is None or not audio.samples.any():
            return Score(0.0, 0.0)
        key = name, text, hashlib.sha256(audio.pcm16().tobytes()).digest()
        if key not in self._known:
            self._known[key] = judge.score(text, audio)
        return self._known[key]


HEADER = (
    "MODE", "AT ONCE", "GUARD", "SENTENCES", "BAD", "RETRIED", "LONG", "TOKENS", "DRAWN", "ERRORS",
)  # fmt: skip


def row(run: QualityRun) -> tuple[str, ...]:
    """The run as a line under HEADER and the judges' names."""
    figures, way = run.figures(), run.way
    judged = figures["judges"].items()
    return (
        way.mode,
        str(way.concurrency),
        "on" if way.guard else "off",
        str(figures["sentences"]),
        *(f"{figures[name]:.1%}" for name in ("bad", "retried", "long")),
        str(figures["tokens"]),
        str(figures["tokens_drawn"]),
        str(sum(figures["errors"].values())),
        *("-" if value is None else _shown(name, value) for name, value in judged),
    )


def _shown(name: str, value: float) -> str:
    return f"{value:.1%}" if name == "words" else f"{value:.2f}"
