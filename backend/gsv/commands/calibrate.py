"""``gsv calibrate``: what is normal for the served checkpoint, as bounds of the guard."""

from __future__ import annotations

import dataclasses
import queue
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from gsv.checkpoints.store import load_module_state
from gsv.commands.calibration_texts import TEXTS
from gsv.config import GPTConfig
from gsv.device import prepare
from gsv.engine.gpt.alignment import Alignment, align_sentence
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.judge import (
    LANGUAGES,
    Bounds,
    BoundsTable,
    Judge,
    silent_tokens,
)
from gsv.engine.gpt.sequence import SamplingParams, SequenceRequest
from gsv.errors import ConfigurationError, GsvError
from gsv.models.gpt import SemanticGPT
from gsv.repository import served_voices
from gsv.stages.arrays import split_by_counts
from gsv.stages.base import Place
from gsv.stages.messages import ReferenceRequest, TextRequest
from gsv.stages.reference_encoder import ReferenceEncoderStage
from gsv.stages.text_frontend import TextFrontendStage

FEWEST_SENTENCES = 20
# Some of a checkpoint's own sentences are bad, so the bounds follow the middle and the bulk.
_BULK = (0.05, 0.95)
_FEWEST_OF_MEDIAN, _FEWEST_OF_BULK = 0.6, 0.8
_MOST_OF_MEDIAN, _MOST_OF_BULK, _MOST_AT_ALL = 1.6, 1.2, 1.75
_STREAK_ROOM = 1.5  # times the longest streak of the bulk
_SLACK = 25  # tokens of silence around a sentence that the limits allow beside ``most``
_MAX_LENGTH = 2560


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A sentence as the checkpoint speaks it."""

    language: str
    phonemes: int
    tokens: NDArray[np.int32]
    silent: frozenset[int]
    request: SequenceRequest | None = None  # that it was drawn for

    @property
    def ratio(self) -> float:
        """Tokens a phoneme."""
        return len(self.tokens) / self.phonemes


def fit(sentences: Sequence[Drawn]) -> Bounds:
    """The bounds that fit sentences of one language.

    ``expected`` is their median of tokens a phoneme. ``fewest`` is 0.6 of it, or less where the
    lowest 5 % are near; ``most`` is 1.6 of it, or more where the highest 5 % are near, but never
    above 1.75 of it. Streaks get 1.5 times the length that 95 % stay below, but at least the
    defaults.
    """
    if len(sentences) < FEWEST_SENTENCES:
        raise ConfigurationError(
            f"{len(sentences)} sentences are too few to tell what is normal; allowed: "
            f"{FEWEST_SENTENCES} or more"
        )
    ratios = np.array([sentence.ratio for sentence in sentences])
    inner = np.array([max(len(s.tokens) - _SLACK, 1) / s.phonemes for s in sentences])
    median = float(np.median(ratios))
    low = float(np.quantile(ratios, _BULK[0]))
    high = float(np.quantile(inner, _BULK[1]))
    most = min(max(_MOST_OF_MEDIAN * median, _MOST_OF_BULK * high), _MOST_AT_ALL * median)
    plain = Bounds()
    streaks = np.array([_streaks(sentence) for sentence in sentences])  # [n, 3]
    bulk = np.ceil(_STREAK_ROOM * np.quantile(streaks, _BULK[1], axis=0)).astype(int)
    return Bounds(
        fewest=round(min(_FEWEST_OF_MEDIAN * median, _FEWEST_OF_BULK * low), 3),
        expected=round(median, 3),
        most=round(most, 3),
        run=max(plain.run, int(bulk[0])),
        loop=max(plain.loop, int(bulk[1])),
        silence=max(plain.silence, int(bulk[2])),
    )


def _streaks(sentence: Drawn) -> tuple[int, int, int]:
    """Longest run, repeated stretch and silence of a sentence that nobody stops."""
    most = len(sentence.tokens) + 1
    limits = dataclasses.replace(
        BoundsTable().limits({sentence.language: sentence.phonemes}, sentence.silent),
        most=most, run=most, loop=most, silence=most,
    )  # fmt: skip
    judge = Judge(limits, most)
    judge.read(sentence.tokens.tolist())
    found = judge.end()
    return found.longest_run, found.loop_tokens, found.longest_silence


class Checkpoint:
    """The stages of a prepared repository that a calibration needs."""

    def __init__(self, repository: Path, voice: str, device: str) -> None:
        self._device = str(prepare(device))
        found = sorted(repository.glob("semantic_gpt*/1/gpt.json"))
        served = served_voices(repository)
        if not found or served is None:
            raise ConfigurationError(
                f"{repository}: no prepared model repository (no semantic_gpt in it); make one "
                "with gsv prepare"
            )
        self.folder = found[0].parent
        voice = voice or served.default
        self.voice = voice
        self._places = {"voice_folder": str(served.folder), "default_voice": voice}
        self._text = self._stage(TextFrontendStage, repository / "text_frontend" / "1")
        reference = self._stage(ReferenceEncoderStage, repository / "reference_encoder" / "1")
        (heard,) = reference.run_batch([ReferenceRequest(voice=voice)])
        if isinstance(heard, GsvError):
            raise heard
        self._prompt_tokens: NDArray[np.int32] = heard.prompt_tokens
        model = SemanticGPT(GPTConfig.load(self.folder / "gpt.json"))
        model.load_state_dict(load_module_state(self.folder / "gpt.safetensors"), strict=True)
        self._engine = Engine(
            model, self._device, slots=16, waiting_limit=100_000, max_length=_MAX_LENGTH
        )
        self._engine.warm_up()
        self._engine.start()

    def close(self) -> None:
        """End the engine."""
        self._engine.stop()

    def _stage(self, kind: Any, folder: Path) -> Any:
        names = {field.name for field in dataclasses.fields(kind.settings_type)}
        chosen = {key: value for key, value in self._places.items() if key in names}
        return kind(Place(folder, self._device), kind.settings_type.parse(chosen))

    def draw(self, language: str, texts: Sequence[str], seeds: range) -> Iterator[Drawn]:
        """Every text's sentences with every seed, at the default sampling, unguarded.

        Raises:
            GsvError: a text can't be read.
        """
        answers: queue.SimpleQueue[Drawn | BaseException] = queue.SimpleQueue()
        count = 0
        for text in texts:
            request = TextRequest(text=text, language=language, voice=self.voice)
            (read,) = self._text.run_batch([request])
            if isinstance(read, GsvError):
                raise read
            for index, (phonemes, rows) in enumerate(
                zip(
                    split_by_counts(read.phonemes, read.phoneme_counts),
                    split_by_counts(read.bert_rows, read.phoneme_counts),
                    strict=True,
                )
            ):
                bert = np.concatenate(
                    [read.prompt_bert_features[read.prompt_bert_rows], read.bert_features[rows]]
                )
                for seed in seeds:
                    self._submit(
                        SequenceRequest(
                            phonemes=np.concatenate([read.prompt_phonemes, phonemes]),
                            bert=bert,
                            prompt_tokens=self._prompt_tokens,
                            params=SamplingParams(seed=seed),
                            sentence=index,
                        ),
                        language,
                        len(phonemes),
                        answers,
                    )
                    count += 1
        for _ in range(count):
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def align(self, sentence: Drawn, tokens: NDArray[np.int32]) -> Alignment:
        """Where the phonemes of a drawn sentence are in ``tokens``, int32 [T]."""
        request = sentence.request
        assert request is not None
        return align_sentence(
            self._engine.model_of(""),
            request.phonemes,
            request.bert,
            request.prompt_tokens,
            tokens,
            sentence.phonemes,
        )

    def _submit(
        self,
        request: SequenceRequest,
        language: str,
        phonemes: int,
        answers: queue.SimpleQueue[Drawn | BaseException],
    ) -> None:
        silent = silent_tokens(self._prompt_tokens)

        def take(tokens: NDArray[np.int32], last: bool) -> None:
            answers.put(Drawn(language, phonemes, tokens, silent, request))

        self._engine.submit(request, take, answers.put)


def draw_plot(found: Mapping[str, Sequence[Drawn]], table: BoundsTable, path: Path) -> None:
    """Tokens over phonemes of every sentence, with the bounds; needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigurationError(
            'the plot needs matplotlib: pip install "gsv-client[bench]", or leave --plot out'
        ) from error
    figure = Figure(figsize=(4.2 * len(found), 3.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, (language, sentences) in zip(axes, found.items(), strict=True):
        counts = np.array([sentence.phonemes for sentence in sentences])
        axis.plot(counts, [len(s.tokens) for s in sentences], ".", alpha=0.5)
        line = np.linspace(counts.min() * 0.8, counts.max() * 1.05, 50)
        bounds = table.of(language)
        axis.plot(line, bounds.expected * line, "-", label="expected")
        axis.plot(line, bounds.fewest * line, "--", label="fewest")
        axis.plot(line, bounds.most * line + _SLACK, "--", label="most")
        axis.set(title=language, xlabel="phonemes", ylabel="tokens", yscale="log")
        axis.legend(fontsize="small")
    figure.savefig(path)


@click.command()
@click.argument(
    "repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="REPOSITORY",
)
@click.option("-v", "--voice", help="That speaks.  [default: the repository's]")
@click.option(
    "-l", "--language", "languages", type=click.Choice(LANGUAGES), multiple=True,
    help="Any number of times.  [default: all that can be read]",
)  # fmt: skip
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sentences of one --language, one a line, instead of the built-in ones.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw what was found, as PNG."
)
def calibrate(
    repository: Path,
    voice: str | None,
    languages: tuple[str, ...],
    texts: Path | None,
    seeds: int,
    device: str,
    plot: Path | None,
) -> None:
    """Measure what is normal for the checkpoint of a prepared REPOSITORY, for the speech guard.

    Speaks everyday sentences with several seeds, without the guard, and writes the bounds of each
    language into guard.json beside the semantic GPT. Load the model again afterwards.

    \b
    Examples:
      gsv calibrate build/v4/model_repository --plot guard.png
      gsv calibrate build/v4/model_repository -l en --texts my_sentences.txt
    """
    if texts is not None and len(languages) != 1:
        raise click.UsageError("--texts needs exactly one --language: that of its sentences.")
    checkpoint = Checkpoint(repository, voice or "", device)
    found: dict[str, list[Drawn]] = {}
    try:
        for language in languages or LANGUAGES:
            lines = TEXTS[language] if texts is None else _lines(texts)
            try:
                found[language] = list(checkpoint.draw(language, lines, range(1, seeds + 1)))
            except GsvError as error:
                if languages:
                    raise
                click.echo(f"{language}: left out ({error})", err=True)
    finally:
        checkpoint.close()
    known = BoundsTable.load(checkpoint.folder)
    table = known.with_languages({name: fit(drawn) for name, drawn in found.items()})
    for language, drawn in found.items():
        click.echo(f"{language}: {len(drawn)} sentences, {_shown(table.of(language))}", err=True)
    details = {
        "voice": checkpoint.voice,
        "sentences": {name: len(drawn) for name, drawn in found.items()},
    }
    click.echo(str(table.save(checkpoint.folder, details)))
    if plot is not None:
        draw_plot(found, table, plot)


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]


def _shown(bounds: Bounds) -> str:
    return (
        f"{bounds.fewest:.2f} to {bounds.most:.2f} tokens a phoneme, expected "
        f"{bounds.expected:.2f}; runs below {bounds.run}, loops below {bounds.loop}, "
        f"silence below {bounds.silence} tokens"
    )
