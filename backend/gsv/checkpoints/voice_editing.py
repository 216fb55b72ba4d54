"""Adds, changes and removes voices: everything is checked before anything is written.

A voice's folder is made beside the others under a hidden name and takes its place in one step, so
that a server that looks meanwhile finds the old voice or the new one. What people wrote into a
``voice.toml`` by hand, comments and order, stays when a reference is added or removed.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import tomlkit
from numpy.typing import NDArray

from gsv.checkpoints.store import staged_folder
from gsv.checkpoints.voice_weights import SUFFIX, Stored, store_gpt, store_sovits
from gsv.config import GPTConfig, SoVITSConfig
from gsv.constants import REFERENCE_MAX_SECONDS
from gsv.errors import VoiceError
from gsv.text.lexicon import FILE as LEXICON_FILE
from gsv.text.scripts import has_words
from gsv.voices import NAME_PATTERN, VOICE_FILE, VoiceEntry
from gsv.voices.features import FOLDER as FEATURES_FOLDER
from gsv.voices.recording import read_recording
from gsv.voices.voice import load_entry, read_text
from gsv_client.quality import Report, best_window, inspect

LONGEST_SECONDS = 900.0  # of a recording that a window is looked for in
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
_AUTO = "auto"


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The base models' configurations, that fine-tuned weights must fit."""

    gpt: GPTConfig = dataclasses.field(default_factory=GPTConfig)
    sovits: SoVITSConfig = dataclasses.field(default_factory=SoVITSConfig)

    @classmethod
    def of(cls, repository: Path) -> Shapes:
        """Those of a prepared model repository."""
        return cls(
            GPTConfig.load(repository / "semantic_gpt" / "1" / "gpt.json"),
            SoVITSConfig.load(repository / "sovits_v4" / "1" / "sovits.json"),
        )


@dataclasses.dataclass(frozen=True)
class NewVoice:
    """What ``gsv voices add`` was asked for.

    Attributes:
        name: ``NAME``, or ``NAME/REFERENCE`` for a further reference of a voice that is there.
        recording: the reference.
        text: what is said in it, in the chosen window.
        language: of the text.
        gpt, sovits: fine-tuned checkpoints.
        sampling: the voice's defaults.
        lexicon: a lexicon file (``gsv.text.lexicon``).
        window: "" for the whole recording, "auto", or ``START:END`` in seconds.
    """

    name: str
    recording: Path
    text: str
    language: str
    gpt: Path | None = None
    sovits: Path | None = None
    sampling: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    window: str = ""
    lexicon: Path | None = None


@dataclasses.dataclass(frozen=True)
class Added:
    """The result of adding a voice."""

    entry: VoiceEntry
    report: Report
    window: tuple[float, float] | None
    weights: dict[str, Stored]


def add_voice(folder: Path, new: NewVoice, shapes: Shapes, *, replace: bool = False) -> Added:
    """Check and add a voice, or a further reference to one.

    Raises:
        VoiceError: name, recording or text are not what they should be.
        CheckpointError: a checkpoint is not, or the voice is there and may not be replaced.
    """
    name, slash, reference = new.name.partition("/")
    for part in (name, reference) if slash else (name,):
        if not NAME_PATTERN.fullmatch(part):
            raise VoiceError(
                f"name {new.name!r}: allowed: letters, digits, '_', '.' and '-', up to 64, "
                "beginning with a letter or digit; NAME/REFERENCE for a further reference"
            )
    try:
        new.text.encode()
    except UnicodeEncodeError as error:
        raise VoiceError("text: is not UTF-8; set the terminal to it, or use a file") from error
    if new.text.strip() and not has_words(new.text, new.language):
        raise VoiceError(
            f"text {new.text[:40]!r}: has no words that are read as {new.language}; give what is "
            "said in the recording, and its language"
        )
    wave, rate, window = _windowed(new.recording, new.window)
    report = inspect(wave, rate)
    if not report.usable:
        raise VoiceError(f"{new.recording}: {_complaints(report)}")
    target = folder / name
    if slash:
        return _add_reference(target, reference, new, (wave, rate, window), report, replace=replace)
    with _staged(target, replace=replace) as staged:
        values: dict[str, Any] = {
            "reference": _write_recording(staged, "reference", new.recording, wave, rate, window),
            "text": new.text,
            "language": new.language,
        }
        weights: dict[str, Stored] = {}
        if new.gpt is not None:
            values["gpt"] = f"gpt{SUFFIX}"
            weights["gpt"] = store_gpt(new.gpt, staged / values["gpt"], shapes.gpt)
        if new.sovits is not None:
            values["sovits"] = f"sovits{SUFFIX}"
            weights["sovits"] = store_sovits(new.sovits, staged / values["sovits"], shapes.sovits)
        if new.lexicon is not None:
            shutil.copyfile(new.lexicon, staged / LEXICON_FILE)
        if new.sampling:
            values["sampling"] = dict(new.sampling)
        (staged / VOICE_FILE).write_text(tomlkit.dumps(values), encoding="utf-8")
        load_entry(staged)  # as the server will: nothing is left that it would refuse
    return Added(load_entry(target), report, window, weights)


def remove_voice(folder: Path, name: str) -> None:
    """Remove a voice, or with ``NAME/REFERENCE`` one of its further references.

    Raises:
        VoiceError: there is none of that name.
    """
    voice, slash, reference = name.partition("/")
    target = folder / voice
    if not NAME_PATTERN.fullmatch(voice) or not (target / VOICE_FILE).is_file():
        raise VoiceError(f"no voice {name!r} in {folder}")
    if slash:
        document = tomlkit.parse(read_text(target))
        references: Any = document.get("references", {})
        if not isinstance(references, dict) or reference not in references:
            raise VoiceError(f"voice {voice} has no reference {reference!r}")
        del references[reference]
        if not references:
            del document["references"]
        with _staged(target, replace=True) as staged:
            _copy(target, staged)
            (staged / VOICE_FILE).write_text(tomlkit.dumps(document), encoding="utf-8")
            load_entry(staged)
        return
    # Renamed first, in one step; deleting may take longer.
    hidden = tempfile.TemporaryDirectory(
        prefix=f".{voice}.", dir=folder, ignore_cleanup_errors=True
    )
    with hidden as work:
        target.rename(Path(work) / voice)


def _add_reference(
    target: Path,
    reference: str,
    new: NewVoice,
    recording: tuple[NDArray[np.float32], int, tuple[float, float] | None],
    report: Report,
    *,
    replace: bool,
) -> Added:
    entry = load_entry(target)
    if new.gpt or new.sovits or new.sampling or new.lexicon:
        raise VoiceError(
            f"{new.name}: a reference has no weights, sampling or lexicon of its own; they belong "
            f"to the voice {entry.base.name}"
        )
    if reference in entry.others and not replace:
        raise VoiceError(f"voice {new.name}: exists already; use --force to replace it")
    wave, rate, window = recording
    document = tomlkit.parse(read_text(target))
    references: Any = document.setdefault("references", tomlkit.table(is_super_table=True))
    with _staged(target, replace=True) as staged:
        _copy(target, staged)
        stem = f"reference-{reference}"
        table = {
            "reference": _write_recording(staged, stem, new.recording, wave, rate, window),
            "text": new.text,
            "language": new.language,
        }
        references[reference] = table
        (staged / VOICE_FILE).write_text(tomlkit.dumps(document), encoding="utf-8")
        load_entry(staged)
    return Added(load_entry(target), report, window, {})


def _staged(target: Path, *, replace: bool) -> Any:
    return staged_folder(target, replace=replace)


def _copy(source: Path, staged: Path) -> None:
    # Not the features: a server may be writing there, and makes them anew where they are missing.
    kept = shutil.ignore_patterns(FEATURES_FOLDER)
    shutil.copytree(source, staged, dirs_exist_ok=True, symlinks=True, ignore=kept)


def _windowed(
    path: Path, window: str
) -> tuple[NDArray[np.float32], int, tuple[float, float] | None]:
    """The chosen part of the recording; if it is too long, VoiceError with the best part."""
    try:
        wave, rate = read_recording(path, LONGEST_SECONDS)
    except (OSError, ValueError) as error:
        raise VoiceError(f"{path}: {error}") from error
    seconds = len(wave) / rate
    if not window:
        if seconds > REFERENCE_MAX_SECONDS and (best := best_window(wave, rate)):
            raise VoiceError(
                f"{path}: {seconds:.{1 if seconds >= 10.1 else 4}f} s long; allowed: 3 to "
                f"{REFERENCE_MAX_SECONDS:g} s. The best part is {best[0]:.2f} to {best[1]:.2f} s: "
                f"take it with --window {best[0]:.2f}:{best[1]:.2f} (or --window auto), and let "
                "--text be what is said in that part"
            )
        return wave, rate, None
    chosen = best_window(wave, rate) if window == _AUTO else _parse_window(window, seconds)
    if chosen is None:
        return wave, rate, None
    return wave[round(chosen[0] * rate) : round(chosen[1] * rate)], rate, chosen


def _parse_window(window: str, seconds: float) -> tuple[float, float]:
    try:
        start, end = (float(part) for part in window.split(":"))
        if not 0 <= start < end <= seconds:
            raise ValueError(window)
    except ValueError as error:
        raise VoiceError(
            f"window {window!r}: allowed: auto, or START:END in seconds, within 0 to {seconds:.2f}"
        ) from error
    return start, end


def _write_recording(
    folder: Path,
    stem: str,
    source: Path,
    wave: NDArray[np.float32],
    rate: int,
    window: tuple[float, float] | None,
) -> str:
    """The recording as it is, byte for byte, unless a part of it was chosen; its file's name."""
    if window is None:
        suffix = source.suffix.lower() if _SUFFIX.fullmatch(source.suffix.lower()) else ".wav"
        shutil.copyfile(source, folder / f"{stem}{suffix}")
        return f"{stem}{suffix}"
    soundfile.write(folder / f"{stem}.wav", wave, rate, subtype="PCM_24")
    return f"{stem}.wav"


def _complaints(report: Report) -> str:
    errors = [r for r in report.remarks if r.level == "error"]
    return "; ".join(f"{remark.message}: {remark.advice}" for remark in errors)
