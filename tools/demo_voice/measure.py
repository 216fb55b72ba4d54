"""All measures of a demo voice: words, length, DNSMOS, speaker, melody.

    .venv/bin/python tools/demo_voice/measure.py [build/demo_voice/demo_voice]

The folder is one that ``export.py`` writes; by default the voice in the repository. It speaks the
twenty judged and the hundred everyday sentences in this process, with the voice's own sampling
defaults, and ``<out>/measures.json`` and a picture for each voice are written. The teacher's own
speech of the same texts (``corpus.py --count 0``) tells the expected length and the melody. DNSMOS
needs the package ``speechmos``, the speaker's likeness ``resemblyzer``; a measure whose package is
missing is left out and named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import everyday
import numpy as np
import pitch
import places
import sentences
import soxr
from corpus import normalised_mel
from data import Corpus
from numpy.typing import NDArray
from recognition import Recogniser, accuracy

from gsv import audio
from gsv.checkpoints.demo import make_demo
from gsv.checkpoints.prepare import Files, prepare
from gsv.checkpoints.text_data import Sources
from gsv.constants import OUTPUT_RATE, REFERENCE_RATE
from gsv.offline import Offline
from gsv.voices import load_voice

SETS: Mapping[str, Sequence[str]] = {"twenty": sentences.JUDGED, "hundred": everyday.EVERYDAY}
TOO_LONG = 2.0  # times the teacher's length
_JUDGE_RATE = 16_000
_PEAK = 0.7
_SHOWN = (0, 8, 57)  # of the hundred, as spectrograms
Wave = NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A text, what a voice said, and what the teacher said."""

    text: str
    wave: Wave  # OUTPUT_RATE
    teacher: Wave  # REFERENCE_RATE
    teacher_mel: NDArray[np.float32]  # [T, 100]


class Teacher:
    """A teacher's waves by text."""

    def __init__(self, name: str) -> None:
        corpus = Corpus.parts(places.RUN / "judged", [name])
        self._corpus, self._rows = corpus, {text: i for i, text in enumerate(corpus.texts)}

    def answer(self, text: str, wave: Wave) -> Answer:
        """The voice's wave beside the teacher's."""
        row = self._rows[text]
        own = np.asarray(self._corpus.waves[row]).astype(np.float32) / 32768
        return Answer(text, wave, own, np.asarray(self._corpus.mels[row]).astype(np.float32))


def melody(answer: Answer) -> tuple[float, float]:
    """Correlation of the answer's pitch with the teacher's, and its spread in semitones."""
    wave = soxr.resample(answer.wave, OUTPUT_RATE, REFERENCE_RATE).astype(np.float32)
    own = normalised_mel(audio.to_pcm16(wave * (0.5 / max(float(np.abs(wave).max()), 1e-6))))
    one, other = (_envelope(np.asarray(mel, np.float32)) for mel in (own, answer.teacher_mel))
    pairs = pitch.matched(one, other)
    tracks = [pitch.track(wave, REFERENCE_RATE), pitch.track(answer.teacher, REFERENCE_RATE)]
    sizes = np.array([len(track) for track in tracks])
    pairs = pairs[(pairs < sizes).all(1)]
    found, spread, _ = pitch.correlation(tracks[0], tracks[1], pairs)
    return found, spread


def _envelope(mel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Twelve cosine coefficients, which tell the sound but neither loudness nor harmonics."""
    bins = mel.shape[1]
    basis = np.cos(np.pi / bins * (np.arange(bins)[:, None] + 0.5) * np.arange(1, 13))
    made: NDArray[np.float32] = (mel @ basis / bins).astype(np.float32)
    return made - made.mean(0)


def opinions(answers: Sequence[Answer]) -> dict[str, float]:
    """DNSMOS: means over the answers."""
    from speechmos import dnsmos

    told = [dnsmos.run(_for_judge(one.wave, OUTPUT_RATE), _JUDGE_RATE) for one in answers]
    return {name: round(float(np.mean([one[name] for one in told])), 3) for name in told[0]}


def likeness(
    waves: Mapping[str, Sequence[Wave]], references: Mapping[str, Wave]
) -> dict[str, dict[str, float]]:
    """For each voice, how like its reference its answers are, and the share told from others'.

    Args:
        waves: answers at ``OUTPUT_RATE`` by voice.
        references: at ``REFERENCE_RATE``, by voice.
    """
    from resemblyzer import VoiceEncoder

    encoder = VoiceEncoder("cpu", verbose=False)
    names = list(references)
    known = np.stack(
        [encoder.embed_utterance(_for_judge(references[n], REFERENCE_RATE)) for n in names]
    )
    made = {}
    for name, answers in waves.items():
        embedded = [encoder.embed_utterance(_for_judge(wave, OUTPUT_RATE)) for wave in answers]
        like = np.stack(embedded) @ known.T
        own = names.index(name)
        made[name] = {"similarity": round(float(like[:, own].mean()), 3)}
        if len(names) > 1:
            made[name]["told_apart"] = round(float((like.argmax(1) == own).mean()), 3)
    return made


def installed(package: str) -> bool:
    """Whether a judge's package is at hand."""
    return importlib.util.find_spec(package) is not None


def _for_judge(wave: Wave, rate: int) -> Wave:
    made: Wave = soxr.resample(wave, rate, _JUDGE_RATE).astype(np.float32)
    return made * np.float32(_PEAK / max(float(np.abs(made).max()), 1e-6))


def judged(answers: Sequence[Answer], recogniser: Recogniser) -> dict[str, Any]:
    """Every measure of one set that needs no package beside the recogniser."""
    heard = [recogniser.judge(one.text, one.wave, OUTPUT_RATE) for one in answers]
    taught = [recogniser.judge(one.text, one.teacher, REFERENCE_RATE) for one in answers]
    ratios = [len(one.wave) / OUTPUT_RATE / (len(one.teacher) / REFERENCE_RATE) for one in answers]
    moves = [melody(one) for one in answers]
    return {
        "words": round(accuracy(heard), 4),
        "words_of_teacher": round(accuracy(taught), 4),
        "too_long": sum(ratio > TOO_LONG for ratio in ratios),
        "longest": round(max(ratios), 2),
        "length": round(float(np.median(ratios)), 3),
        "pitch_correlation": round(float(np.mean([found for found, _ in moves])), 3),
        "pitch_spread": round(float(np.mean([spread for _, spread in moves])), 2),
        "heard": [str(one) for one in heard],
    }


def draw(path: Path, answers: Sequence[Answer]) -> None:
    """Spectrograms of some answers above the teacher's, pitch drawn in."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2 * len(answers), 1, figsize=(14, 5 * len(answers)))
    for number, one in enumerate(answers):
        pair = ((one.wave, OUTPUT_RATE, "voice"), (one.teacher, REFERENCE_RATE, "teacher"))
        for axis, (wave, rate, who) in zip(axes[2 * number :], pair, strict=False):
            at_16k = _for_judge(wave, rate)
            floor = 1e-5 * np.random.default_rng(0).normal(size=len(at_16k))  # a log of zero fails
            axis.specgram(at_16k + floor, NFFT=512, Fs=_JUDGE_RATE, noverlap=384, vmin=-120)
            track = pitch.track(at_16k, _JUDGE_RATE)
            times = (np.arange(len(track)) + 0.5) / pitch.FRAME_RATE
            axis.plot(times, np.where(track > 0, track * 10, np.nan), "r.", ms=2)
            axis.set_title(f"{who}: {one.text} (red: pitch times 10)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def measure(
    speak: Callable[[str, str], Wave], teachers: Mapping[str, str], references: Mapping[str, Wave],
    out: Path, sets: Mapping[str, Sequence[str]] = SETS,
) -> dict[str, Any]:  # fmt: skip
    """Measure voices.

    Args:
        speak: a voice's wave at ``OUTPUT_RATE`` of a text; called with the voice and the text.
        teachers: by voice, whose speech it is compared with.
        references: by voice, at ``REFERENCE_RATE``.
        out: folder for the report and the picture.
        sets: the texts, by the name of their set.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = places.logger("measure")
    recogniser = Recogniser()
    report: dict[str, Any] = {}
    waves: dict[str, list[Wave]] = {}
    for voice, teacher_name in teachers.items():
        teacher = Teacher(teacher_name)
        everything: list[Answer] = []
        report[voice] = {}
        for name, texts in sets.items():
            answers = [teacher.answer(text, speak(voice, text)) for text in texts]
            report[voice][name] = judged(answers, recogniser)
            if installed("speechmos"):
                report[voice][name]["dnsmos"] = opinions(answers)
            shown = {k: v for k, v in report[voice][name].items() if k != "heard"}
            log.info("%s, %s: %s", voice, name, shown)
            everything += answers
        waves[voice] = [one.wave for one in everything]
        chosen = [everything[i % len(everything)] for i in _SHOWN]
        draw(out / f"{voice}.png", chosen)
    if installed("resemblyzer"):
        for voice, found in likeness(waves, references).items():
            report[voice] |= found
            log.info("%s: %s", voice, found)
    for package in ("speechmos", "resemblyzer"):
        if not installed(package):
            log.warning("%s is not installed; its measure is left out", package)
    text = json.dumps(report, indent=1) + "\n"
    (out / "measures.json").write_text(text, encoding="utf-8")
    return report


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Offline]:
    """The stages, with the weights and voices of a folder like ``demo_voice/``."""
    with tempfile.TemporaryDirectory(prefix="measured.") as name:
        root = Path(name)
        make_demo("voice", root / "files")
        shutil.copytree(folder / "pretrained", root / "files", dirs_exist_ok=True)
        prepare(
            Files.find(root / "files"), root / "repository", voices=root / "voices",
            text=Sources(), replace=False, demo=True, report=lambda line: None,
            bundled=folder / "voices",
        )  # fmt: skip
        with Offline(root / "repository") as offline:
            yield offline


@click.command()
@click.argument("folder", default=places.ROOT / "demo_voice",
                type=click.Path(exists=True, path_type=Path))  # fmt: skip
@click.option("--voices", default="demo=slt", show_default=True, help="voice=teacher,...")
@click.option("--guard", default=1, show_default=True, help="0: what the GPT says first.")
@click.option("--out", type=click.Path(path_type=Path), default=places.RUN / "measures")
def main(folder: Path, voices: str, guard: int, out: Path) -> None:
    """Measure voices."""
    teachers = dict(pair.split("=") for pair in voices.split(","))
    references = {}
    for voice in teachers:
        wave, rate = audio.read_wave(load_voice(folder / "voices" / voice).reference)
        references[voice] = audio.resample_soxr(wave, rate, REFERENCE_RATE)
    with served(folder) as offline:

        def speak(voice: str, text: str) -> Wave:
            answer = offline.say(text=text, language="en", voice=voice, seed=1, guard=guard)
            return np.asarray(answer.audio, np.float32).ravel()

        measure(speak, teachers, references, out)


if __name__ == "__main__":
    main()
