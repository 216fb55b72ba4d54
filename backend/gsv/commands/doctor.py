"""What ``gsv doctor`` finds in voice folders (entry points of the group ``gsv.doctor``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gsv.checkpoints.voice_editing import Shapes
from gsv.checkpoints.voice_weights import read_gpt, read_sovits
from gsv.errors import GsvError
from gsv.voices import VoiceEntry, VoiceFolder
from gsv.voices.quality import inspect
from gsv.voices.recording import read_recording
from gsv_client.doctor import Finding

_LONGEST_SECONDS = 60.0
_FIX = "correct voice.toml, or add the voice anew with `gsv voices add NAME ... --force`"


def check_voices(repository: Path | None, voices: Path | None) -> Iterator[Finding]:
    """Every voice of the folder: its files, its recordings, its weights.

    Args:
        repository: whose models the weights must fit; without it, the official ones.
        voices: the voice folder; without it nothing is looked at.
    """
    if voices is None:
        return
    entries, errors = VoiceFolder(voices).scan()
    for error in errors:
        yield Finding("error", "voices", str(error), _FIX)
    if not entries and not errors:
        yield Finding("warning", "voices", f"{voices}: no voices", "add one: `gsv voices add`")
    shapes = Shapes.of(repository) if repository else Shapes()
    for entry in entries:
        found = [*_check_recordings(entry), *_check_weights(entry, shapes)]
        yield from found
        if not found:
            yield Finding("ok", f"voice {entry.base.name}", _summary(entry))


def _check_recordings(entry: VoiceEntry) -> Iterator[Finding]:
    for voice in (entry.base, *entry.others.values()):
        subject = f"voice {voice.name}"
        try:
            wave, rate = read_recording(voice.reference, _LONGEST_SECONDS)
        except (OSError, ValueError) as error:
            yield Finding("error", subject, str(error), "replace the recording")
            continue
        for remark in inspect(wave, rate).remarks:
            yield Finding(remark.level, subject, remark.message, remark.advice)


def _check_weights(entry: VoiceEntry, shapes: Shapes) -> Iterator[Finding]:
    base = entry.base
    try:
        if base.gpt:
            read_gpt(base.gpt, shapes.gpt)
        if base.sovits:
            read_sovits(base.sovits, shapes.sovits)
    except GsvError as error:
        advice = "give a file that was fine-tuned from the v4 weights that are served"
        yield Finding("error", f"voice {base.name}", str(error), advice)


def _summary(entry: VoiceEntry) -> str:
    base = entry.base
    own = [key for key, path in (("GPT", base.gpt), ("SoVITS", base.sovits)) if path]
    parts = [base.language, f"{1 + len(base.references)} recordings"]
    return ", ".join(parts + ([f"its own {' and '.join(own)}"] if own else []))
