"""Whether a sentence's tokens are speech: a judge that reads them as they are drawn.

A language model of speech can loop, fall silent, never end, or end too early. Each of these shows
in the tokens, before anything is spent on turning them into sound. One token costs a few look-ups,
whatever was read before.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsv.constants import MAX_TOKENS, SSL_RATE, SSL_TAIL_SAMPLES, TOKEN_RATE
from gsv.errors import ConfigurationError

BOUNDS_FILE = "guard.json"  # in the version folder of the semantic GPT
LANGUAGES = ("zh", "en", "ja", "ko", "yue")
OTHER = "other"  # what no language claims, and every language without bounds of its own
PHONEME_LANGUAGES = (*LANGUAGES, OTHER)  # on the wire, a phoneme's language is its place here

# A stretch that repeats is looked for by its last tokens. Any loop of up to so many tokens has a
# different window at each of its places, so that its length is the distance between equal ones.
_WINDOW = 8
_BITS = 11  # of a token
_MASK = (1 << _BITS * _WINDOW) - 1
# Equal tokens in a row, repeated ones and silent ones that normal speech has too; what a streak has
# beyond them is kept back until it ends.
NORMAL_STREAK = 10
# A sentence may have this beyond what its phonemes take: 1 s of silence before and after.
_SLACK_TOKENS = TOKEN_RATE
_TAIL_TOKENS = SSL_TAIL_SAMPLES * TOKEN_RATE // SSL_RATE  # 15
_TAIL_MARGIN = 4  # of them still hear the speech before


class Signal(str, enum.Enum):
    """What is wrong with a sentence."""

    RUN = "run"  # one token for too long
    LOOP = "loop"  # the same tokens again and again
    SILENCE = "silence"  # nothing but silence for too long
    TOO_LONG = "too_long"  # more tokens than its phonemes can take
    LIMIT = "limit"  # no end before the most tokens that a sentence may have
    TOO_SHORT = "too_short"  # fewer tokens than its phonemes need


def language_of(label: str) -> str:
    """A text segment's language as the bounds know it."""
    return label if label in LANGUAGES else OTHER


def phonemes_by_language(
    counts: NDArray[np.int32], languages: NDArray[np.int32] | None
) -> list[dict[str, int]]:
    """How many phonemes of each language every sentence has.

    Args:
        counts: int32 [sentences], phonemes of each.
        languages: int32 [n], a place in ``PHONEME_LANGUAGES`` for each phoneme of all sentences;
            None where nobody knows.
    """
    if languages is None:
        return [{OTHER: int(count)} for count in counts]
    ends = np.cumsum(counts)
    sentences = [languages[end - count : end] for end, count in zip(ends, counts, strict=True)]
    return [
        {PHONEME_LANGUAGES[i]: int(n) for i, n in enumerate(np.bincount(sentence)) if n}
        for sentence in sentences
    ]


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What is normal for one language on one checkpoint.

    The defaults are those of upstream's training data, which has 3 to 25 phonemes a second, and
    streaks that no sound speech was reported with.
    """

    fewest: float = 1.0  # tokens a phoneme
    expected: float = 2.9  # the middle, in ratio, of fewest and most
    most: float = 8.3
    run: int = 25  # equal tokens in a row that are too many
    loop: int = 24  # tokens in a row that repeat those before, from which on it is a loop
    silence: int = 50  # silent tokens in a row that are too many, 2 s

    def __post_init__(self) -> None:
        if not 0 < self.fewest <= self.expected <= self.most:
            raise ConfigurationError(
                f"bounds: got fewest {self.fewest}, expected {self.expected}, most {self.most} "
                "tokens a phoneme; allowed: above 0 and in this order"
            )
        for name in ("run", "loop", "silence"):
            value = getattr(self, name)
            if isinstance(value, bool) or not NORMAL_STREAK < value <= MAX_TOKENS:
                raise ConfigurationError(
                    f"bounds: got {name} {value!r}; allowed: {NORMAL_STREAK + 1} to {MAX_TOKENS}"
                )


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is normal for one sentence, in tokens."""

    fewest: float
    expected: float
    most: int
    run: int
    loop: int
    silence: int
    silent: frozenset[int] = frozenset()  # tokens that are silence


class BoundsTable:
    """Bounds by language.

    Args:
        bounds: of any of ``LANGUAGES`` and ``OTHER``; the defaults hold for the others.
    """

    def __init__(self, bounds: Mapping[str, Bounds] | None = None) -> None:
        self._bounds = dict(bounds or {})
        if unknown := sorted(set(self._bounds) - {*LANGUAGES, OTHER}):
            raise ConfigurationError(
                f"bounds: got {', '.join(unknown)}; allowed: {', '.join((*LANGUAGES, OTHER))}"
            )

    @classmethod
    def load(cls, folder: Path) -> BoundsTable:
        """What ``gsv calibrate`` has written into a version folder; the defaults without it.

        Raises:
            ConfigurationError: the file can't be read.
        """
        path = folder / BOUNDS_FILE
        if not path.exists():
            return cls()
        try:
            written = json.loads(path.read_text(encoding="utf-8"))["languages"]
            names = {field.name for field in dataclasses.fields(Bounds)}
            table = {
                language: Bounds(**{key: values[key] for key in values if key in names})
                for language, values in written.items()
            }
            return cls(table)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{path}: no bounds of a guard ({error}); remove it or run gsv calibrate again"
            ) from error

    def save(self, folder: Path, details: Mapping[str, Any] | None = None) -> Path:
        """Write the file that :meth:`load` reads, with ``details`` for people; returns its path."""
        path = folder / BOUNDS_FILE
        written = {
            **(details or {}),
            "languages": {name: dataclasses.asdict(b) for name, b in self._bounds.items()},
        }
        path.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        return path

    def with_languages(self, bounds: Mapping[str, Bounds]) -> BoundsTable:
        """The same with other bounds for some languages."""
        return BoundsTable({**self._bounds, **bounds})

    def of(self, language: str) -> Bounds:
        """The bounds of a language."""
        return self._bounds.get(language) or self._bounds.get(OTHER) or Bounds()

    def limits(
        self,
        phonemes: Mapping[str, int],
        silent: Collection[int] = (),
    ) -> Limits:
        """The limits of a sentence.

        Args:
            phonemes: how many of each language, at least one in all.
            silent: tokens that are silence; without any, silence is not judged.
        """
        parts = [(self.of(language), count) for language, count in phonemes.items() if count]
        if not parts:
            raise ValueError("a sentence has at least one phoneme")
        return Limits(
            fewest=sum(bounds.fewest * count for bounds, count in parts),
            expected=sum(bounds.expected * count for bounds, count in parts),
            most=math.ceil(sum(bounds.most * count for bounds, count in parts)) + _SLACK_TOKENS,
            run=max(bounds.run for bounds, _ in parts),
            loop=max(bounds.loop for bounds, _ in parts),
            silence=max(bounds.silence for bounds, _ in parts),
            silent=frozenset(int(token) for token in silent),
        )


def silent_tokens(prompt_tokens: Sequence[int] | Iterable[int]) -> frozenset[int]:
    """Tokens of silence, told by a prompt: its last 0.6 s are digital silence.

    Upstream appends it to every reference before it is encoded, so the tokens of the tail are what
    this checkpoint writes for silence. The first few of them still hear the speech before.
    """
    tail = [int(token) for token in prompt_tokens][-(_TAIL_TOKENS - _TAIL_MARGIN) :]
    return frozenset(tail)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the judge found in a sentence's tokens.

    Attributes:
        signals: what is wrong; none for a good sentence.
        tokens: that were read.
        good: of them, those before the trouble.
        longest_run: equal tokens in a row, silent ones left out.
        loop_period, loop_tokens: of the longest stretch that repeats what stood ``loop_period``
            tokens before.
        longest_silence: silent tokens in a row.
    """

    signals: tuple[Signal, ...]
    tokens: int
    good: int
    longest_run: int
    loop_period: int
    loop_tokens: int
    longest_silence: int


class Judge:
    """Reads one sentence's tokens.

    Args:
        limits: what is normal for it.
        max_tokens: where the sentence is cut if it does not end.
    """

    def __init__(self, limits: Limits, max_tokens: int = MAX_TOKENS) -> None:
        self._limits = limits
        self._most = min(limits.most, max_tokens)
        self._too_many = Signal.LIMIT if max_tokens <= limits.most else Signal.TOO_LONG
        self._places: dict[int, int] = {}  # of the last window of this content
        self._window = 0
        self._count = 0
        self._last = -1
        self._run = 0
        self._period = 0
        self._repeated = 0
        self._quiet = 0
        self._settled = 0
        self._longest_run = self._longest_quiet = 0
        self._longest_loop = (0, 0)  # tokens, period
        self._signal: Signal | None = None

    @property
    def settled(self) -> int:
        """Tokens, from the first on, that may leave: none of them can turn out to be trouble.

        Never becomes smaller; at a signal these are the good ones.
        """
        return self._settled

    @property
    def signal(self) -> Signal | None:
        """The trouble that the sentence has run into; nothing is read after it."""
        return self._signal

    def read(self, tokens: Iterable[int]) -> Signal | None:
        """Read more tokens, up to the first that is trouble."""
        for token in tokens:
            if self._signal is not None:
                break
            self._signal = self._read_one(token)
        return self._signal

    def end(self) -> Verdict:
        """The sentence has ended, or is not read any further."""
        signals: tuple[Signal, ...] = ()
        if self._signal is not None:
            signals = (self._signal,)
        elif self._count < self._limits.fewest:
            signals = (Signal.TOO_SHORT,)
        if self._signal is None:
            self._settled = self._count
        length, period = self._longest_loop
        return Verdict(
            signals=signals,
            tokens=self._count,
            good=self._settled,
            longest_run=self._longest_run,
            loop_period=period,
            loop_tokens=length,
            longest_silence=self._longest_quiet,
        )

    def _read_one(self, token: int) -> Signal | None:
        limits = self._limits
        place = self._count
        self._count = place + 1
        self._quiet = quiet = self._quiet + 1 if token in limits.silent else 0
        if quiet > self._longest_quiet:
            self._longest_quiet = quiet
        if quiet:  # a pause is no run
            self._run, self._last = 0, -1
        elif token == self._last:
            self._run += 1
        else:
            self._run, self._last = 1, token
        run = self._run
        if run > self._longest_run:
            self._longest_run = run
        repeated = self._read_window(token, place)
        if quiet >= repeated:  # nor is it a loop
            repeated = 0
        elif repeated > self._longest_loop[0]:
            self._longest_loop = (repeated, self._period)
        # What is beyond a normal streak waits for its end.
        streak = max(run, repeated, quiet)
        settled = place + 1 - max(streak - NORMAL_STREAK, 0)
        if settled > self._settled:
            self._settled = settled
        if run >= limits.run:
            return Signal.RUN
        if quiet >= limits.silence:
            return Signal.SILENCE
        # A stretch that comes again word for word is a loop when all of it has come again.
        if repeated >= limits.loop and repeated >= self._period:
            return Signal.LOOP
        return self._too_many if place + 1 >= self._most else None

    def _read_window(self, token: int, place: int) -> int:
        """Tokens, this one included, that repeat those of one period before."""
        self._window = window = (self._window << _BITS | token) & _MASK
        if place < _WINDOW - 1:
            return 0
        period = place - self._places.get(window, place)
        self._places[window] = place
        if period == 0:
            self._repeated = 0
        elif period == self._period and self._repeated:
            self._repeated += 1
        else:
            self._repeated = _WINDOW
        self._period = period
        return self._repeated
