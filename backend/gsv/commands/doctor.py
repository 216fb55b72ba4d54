"""What ``gsv doctor`` finds in voices and text data (entry points of the group ``gsv.doctor``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gsv.checkpoints.voice_editing import Shapes
from gsv.checkpoints.voice_weights import read_gpt, read_sovits
from gsv.errors import ConfigurationError, GsvError
from gsv.repository import ServedVoices, served_voices
from gsv.text import lexicon as lexicons
from gsv.text.chinese.polyphones import FOLDER, find_network
from gsv.text.data_files import TextData, data_status, package_folder
from gsv.voices import VoiceEntry, VoiceFolder
from gsv.voices.features import describe_kept
from gsv.voices.recording import read_recording
from gsv_client.doctor import Finding
from gsv_client.quality import inspect

_LONGEST_SECONDS = 60.0
_GPT = Path("semantic_gpt", "1", "gpt.json")
_TEXT_DATA = Path("text_frontend", "1", "text_data")
_GET_TEXT = (
    "bring it with `gsv prepare --download-text`, from a checkout with --upstream, or from a "
    "folder with --text-data"
)
_FIX = "correct voice.toml, or add the voice anew with `gsv voices add NAME ... --force`"


def check_voices(repository: Path | None, voices: Path | None) -> Iterator[Finding]:
    """Every voice of the folder: its files, its recordings, its weights.

    Args:
        repository: whose models the weights must fit; without it, the official ones.
        voices: the voice folder; without it that of the repository.
    """
    served = served_voices(repository) if repository else None
    if voices is None and served is not None and served.folder.is_dir():
        voices = served.folder
    if served is not None:
        yield from _check_default(served, voices)
    if voices is None:
        return
    entries, errors = VoiceFolder(voices).scan()
    for error in errors:
        yield Finding("error", "voices", str(error), _FIX)
    if not entries and not errors:
        yield Finding("warning", "voices", f"{voices}: no voices", "add one: `gsv voices add`")
    prepared = repository is not None and (repository / _GPT).is_file()
    shapes = Shapes.of(repository) if repository and prepared else Shapes()
    for entry in entries:
        found = [
            *_check_recordings(entry),
            *_check_weights(entry, shapes),
            *_check_features(entry),
        ]
        yield from found
        if not found:
            yield Finding("ok", f"voice {entry.base.name}", _summary(entry))


def _check_default(served: ServedVoices, voices: Path | None) -> Iterator[Finding]:
    """Whether requests that name no voice will get one."""
    if not served.default:
        yield Finding("ok", "default voice", "none; every request must name a voice")
    elif voices is None or served.default.partition("/")[0] not in VoiceFolder(voices):
        yield Finding(
            "error", "default voice", f"{served.default} is not in {voices or served.folder}",
            "add it, or change default_voice in every config.pbtxt that has it",
        )  # fmt: skip
    else:
        yield Finding("ok", "default voice", served.default)


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


def _check_features(entry: VoiceEntry) -> Iterator[Finding]:
    for name in describe_kept(entry)["broken"]:
        yield Finding(
            "warning", f"voice {entry.base.name}", f".cache/{name} is broken",
            "it costs time once: the server makes it anew; if it comes back, check the disk",
        )  # fmt: skip


def _summary(entry: VoiceEntry) -> str:
    base = entry.base
    own = [key for key, path in (("GPT", base.gpt), ("SoVITS", base.sovits)) if path]
    parts = [base.language, f"{1 + len(base.references)} recordings"]
    kept = describe_kept(entry)["kept"].values()
    if ready := sum(map(bool, kept)):
        parts.append(f"features of {ready} kept")
    return ", ".join(parts + ([f"its own {' and '.join(own)}"] if own else []))


def check_text(repository: Path | None, voices: Path | None) -> Iterator[Finding]:
    """The text frontend's data: what is missing and what that costs, and who reads polyphones.

    Args:
        repository: the model repository; without it nothing is looked at.
        voices: not looked at.
    """
    if repository is None:
        return
    folder = repository / _TEXT_DATA
    if not folder.is_dir():
        yield Finding("error", "text data", f"{folder}: no such folder", "run `gsv prepare` again")
        return
    try:
        items = data_status(folder)
    except ConfigurationError as error:
        yield Finding("error", "text data", str(error), _GET_TEXT)
        return
    for item in items:
        if item.present:
            yield Finding("ok", "text data", f"{item.name}: there")
        elif not item.name.endswith(f"({FOLDER})"):  # polyphones are reported below
            yield Finding("warning", "text data", f"no {item.name}: {item.cost}", _GET_TEXT)
    yield _polyphones(folder)
    yield from _lexicon(TextData.find(folder).lexicon)


def _polyphones(folder: Path) -> Finding:
    """Which of the two reads Chinese characters with several readings."""
    network = find_network(folder / FOLDER)
    if network is None:
        return Finding(
            "ok",
            "polyphones",
            "read by pypinyin, phrase by phrase",
            f"g2pW reads them by their context: `gsv prepare --g2pw`, or put it into {FOLDER}",
        )
    if package_folder("onnxruntime") is None:
        message = f"{network.name} is there, and onnxruntime, which runs it, is not"
        return Finding("error", "polyphones", message, "install gsv[g2pw]")
    return Finding("ok", "polyphones", f"read by g2pW in their context ({network.name})")


def _lexicon(path: Path | None) -> Iterator[Finding]:
    if path is None:
        return
    try:
        words = lexicons.read_words(path)
        lexicons.check(words)
    except ConfigurationError as error:
        yield Finding("error", "lexicon", str(error), "correct it; the server does not start so")
        return
    counts = ", ".join(f"{len(entries)} {language}" for language, entries in words.items())
    yield Finding("ok", "lexicon", f"{path.name}: {counts or 'no'} words")
