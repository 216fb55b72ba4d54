"""Makes a model repository that can be served: skeleton, converted weights, text data, voices.

Everything is built in a folder beside the wanted one and takes its place at the end, so that an
error leaves nothing half written. The server reads what is written here and never the originals.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gsv import __version__
from gsv.checkpoints import convert, pretrained, text_data
from gsv.checkpoints.convert import Converted, shortened
from gsv.checkpoints.detect import V4_HAS_NO_S2V4_CKPT
from gsv.checkpoints.manifest import sha256, write_manifest
from gsv.checkpoints.pretrained import BERT_FOLDER, HUBERT_FOLDER
from gsv.checkpoints.reader import read_checkpoint
from gsv.checkpoints.store import save_tensors, staged_folder
from gsv.config import SoVITSConfig
from gsv.errors import CheckpointError
from gsv.repository import bundled_voices, template_root
from gsv.voices import VoiceFolder

Report = Callable[[str], None]

GPT_FILE = "s1v3.ckpt"
GUARD_FILE = "guard.json"  # bounds of the speech guard, where they lie beside the GPT's file
SOVITS_FILE = "gsv-v4-pretrained/s2Gv4.pth"
VOCODER_FILE = "gsv-v4-pretrained/vocoder.pth"
# Files that don't exist, but that people ask for.
_NEVER_EXISTED = ("s2v4.ckpt", "s1v4.ckpt", "s1Gv4.ckpt")
_VERSION = "1"  # of every model: the folder that Triton loads
_GENERATORS = ("semantic_gpt", "sovits_v4")  # where the time goes
# A generator with fewer weights runs on one thread: its layers take less time than threads need to
# meet after each of them (a flow step of 0.5 million weights: 15 ms on two threads, 6 ms on one).
_ONE_THREAD_WEIGHTS = 1_000_000


@dataclasses.dataclass(frozen=True)
class Files:
    """The five sources of weights."""

    gpt: Path
    sovits: Path
    vocoder: Path
    hubert: Path
    bert: Path

    @classmethod
    def find(cls, folder: Path, gpt: Path | None = None, sovits: Path | None = None) -> Files:
        """Look in a folder of upstream's layout (or in a checkout that has it inside).

        Args:
            folder: upstream's ``pretrained_models``.
            gpt: another GPT file than the official one.
            sovits: another SoVITS file than the official one.

        Raises:
            CheckpointError: something is missing; the message lists all of it.
        """
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder")
        inside = folder / "GPT_SoVITS" / "pretrained_models"
        root = inside if inside.is_dir() else folder
        files = cls(
            gpt=gpt or root / GPT_FILE,
            sovits=sovits or root / SOVITS_FILE,
            vocoder=root / VOCODER_FILE,
            hubert=root / HUBERT_FOLDER,
            bert=root / BERT_FOLDER,
        )
        missing = [str(p) for p in dataclasses.astuple(files) if not p.exists()]
        if missing:
            asked = any(Path(p).name in (GPT_FILE, *_NEVER_EXISTED) for p in missing)
            hint = f"; {V4_HAS_NO_S2V4_CKPT}" if asked else ""
            raise CheckpointError(
                f"missing: {', '.join(missing)}{hint}; `gsv prepare --download` gets the official "
                "files"
            )
        return files

    def size(self) -> int:
        """Bytes of all of them."""
        files = [self.gpt, self.sovits, self.vocoder]
        files += [p for folder in (self.hubert, self.bert) for p in folder.iterdir()]
        return sum(path.stat().st_size for path in files if path.is_file())


def prepare(
    files: Files,
    repository: Path,
    *,
    voices: Path,
    text: text_data.Sources,
    replace: bool,
    demo: bool,
    report: Report,
    dtype: str = "default",
    bundled: Path | None = None,
) -> None:
    """Build the model repository and put the bundled voices into the voice folder.

    Args:
        files: where the weights are.
        repository: folder to make.
        voices: the voice folder; made when it is not there, existing voices stay.
        text: where text data are.
        replace: take the place of an earlier repository.
        demo: the weights are demo weights; told in the manifests.
        report: called with lines for people.
        dtype: parameter of that name of both generators.
        bundled: folder of the voices to put in, in place of the sample voice.

    Raises:
        CheckpointError: a file is not what it should be; nothing has been written.
    """
    earlier = repository / "text_frontend" / _VERSION / "text_data"
    if voices.resolve().is_relative_to(repository.resolve()):
        raise CheckpointError(
            f"{voices}: the voice folder is in the model repository, which is replaced as a whole; "
            "choose a folder outside of it (--voices)"
        )
    if repository.exists():
        _check_replaceable(repository)
    text = dataclasses.replace(text, earlier=earlier if earlier.is_dir() else None)
    with staged_folder(repository, replace=replace) as staged:
        _check_space(staged, files.size())
        _copy_skeleton(template_root(), staged)
        place = os.path.relpath(voices.absolute(), repository.absolute())
        _set_parameter(staged.glob("*/config.pbtxt"), "voice_folder", place)
        default = _default_voice(bundled or bundled_voices(), voices)
        _set_parameter(staged.glob("*/config.pbtxt"), "default_voice", default)
        report(f"default voice: {default or 'none; requests must name one'}")
        _set_parameter((staged / m / "config.pbtxt" for m in _GENERATORS), "dtype", dtype)
        _convert_all(_Build(staged, report), files)
        _install_text_data(staged, text, report)
        origin = {"prepared_by": f"gsv {__version__}", "demo": demo}
        for folder in _version_folders(staged):
            write_manifest(folder, origin | _sources(folder.parent.name, files))
    _install_voices(bundled or bundled_voices(), voices, report)


@dataclasses.dataclass(frozen=True)
class _Build:
    """A repository under construction."""

    root: Path
    report: Report

    def folder(self, model: str) -> Path:
        return self.root / model / _VERSION

    def store(self, model: str, name: str, source: Path, converted: Converted[Any]) -> None:
        folder = self.folder(model)
        save_tensors(converted.tensors, folder / f"{name}.safetensors")
        converted.config.save(folder / f"{name}.json")
        weights = sum(tensor.numel() for tensor in converted.tensors.values())
        if model in _GENERATORS and weights < _ONE_THREAD_WEIGHTS:
            _set_parameter([folder.parent / "config.pbtxt"], "threads", "1")
        for note in converted.notes:
            self.report(f"note: {note}")
        if converted.unknown:
            self.report(
                f"note: {source.name}: {len(converted.unknown)} unknown tensors dropped: "
                f"{shortened(converted.unknown)}"
            )


def _convert_all(build: _Build, files: Files) -> None:
    build.report(f"converting {files.gpt.name}")
    gpt = convert.convert_gpt(read_checkpoint(files.gpt))
    build.store("semantic_gpt", "gpt", files.gpt, gpt)
    bounds = files.gpt.parent / GUARD_FILE
    if bounds.is_file():
        shutil.copyfile(bounds, build.folder("semantic_gpt") / GUARD_FILE)
        build.report(f"bounds of the speech guard: {bounds.name}")
    build.report(f"converting {files.vocoder.name}")
    vocoder = convert.convert_vocoder(read_checkpoint(files.vocoder))
    build.store("vocoder", "vocoder", files.vocoder, vocoder)
    build.report(f"converting {files.sovits.name}")
    checkpoint = read_checkpoint(files.sovits)
    sovits = convert.convert_sovits(checkpoint)
    if sovits.config.mel_channels != vocoder.config.mel_channels:
        raise CheckpointError(
            f"{files.vocoder}: takes {vocoder.config.mel_channels} mel channels, "
            f"{files.sovits.name} makes {sovits.config.mel_channels}"
        )
    build.store("sovits_v4", "sovits", files.sovits, sovits)
    _store_quantizer(build, sovits)
    # Reduced test files say their own shapes; with the official ones, all of the set is official.
    official = "arch" not in checkpoint.extra
    build.report(f"converting {files.hubert.name}")
    hubert = build.folder("reference_encoder") / "hubert"
    ssl_dim = sovits.config.ssl_dim
    notes = pretrained.convert_hubert(files.hubert, hubert, ssl_dim, official=official)
    build.report(f"converting {files.bert.name}")
    bert = build.folder("text_frontend") / "bert"
    notes += pretrained.convert_bert(files.bert, bert, official=official)
    for note in notes:
        build.report(f"note: {note}")


def _store_quantizer(build: _Build, sovits: Converted[SoVITSConfig]) -> None:
    """The part of SoVITS that turns the reference's HuBERT features into tokens."""
    prefix, folder = "quantizer.", build.folder("reference_encoder")
    part = {k.removeprefix(prefix): v for k, v in sovits.tensors.items() if k.startswith(prefix)}
    save_tensors(part, folder / "quantizer.safetensors")
    sovits.config.save(folder / "quantizer.json")


def _install_text_data(staged: Path, text: text_data.Sources, report: Report) -> None:
    target = staged / "text_frontend" / _VERSION / "text_data"
    missing = text_data.install(text, target, lambda line: report(f"text data: {line}"))
    for item in missing:
        report(f"text data: without {item.name}: {item.cost}")


def _version_folders(staged: Path) -> list[Path]:
    return sorted(config.parent / _VERSION for config in staged.glob("*/config.pbtxt"))


def _copy_skeleton(template: Path, staged: Path) -> None:
    for config in sorted(template.glob("*/config.pbtxt")):
        model = config.parent
        shutil.copytree(
            model, staged / model.name, ignore=shutil.ignore_patterns("__pycache__", ".git*")
        )
        # An ensemble needs its version folder, which Git does not keep when it is empty.
        (staged / model.name / _VERSION).mkdir(exist_ok=True)


def _set_parameter(configurations: Iterable[Path], key: str, value: str) -> None:
    """Write a parameter's value into every configuration that has it."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    pattern = re.compile(rf'(key: "{key}" value: \{{ string_value: ")[^"]*(")')
    for config in configurations:
        content = config.read_text(encoding="utf-8")
        changed = pattern.sub(lambda m: m[1] + quoted + m[2], content)
        if changed != content:
            config.write_text(changed, encoding="utf-8")


def _sources(model: str, files: Files) -> dict[str, Any]:
    """Which files a model's weights came from, with their sums."""
    used: dict[str, Sequence[Path]] = {
        "semantic_gpt": [files.gpt],
        "sovits_v4": [files.sovits],
        "vocoder": [files.vocoder],
        "reference_encoder": [files.sovits],
    }
    return {"checkpoints": {path.name: sha256(path) for path in used.get(model, [])}}


def _check_replaceable(repository: Path) -> None:
    """--force replaces a model repository, never a folder with other things in it."""
    if not repository.is_dir():
        raise CheckpointError(f"{repository}: not a folder")
    # A voice folder among the models would look like the model `voices`.
    strange = [
        p.name
        for p in repository.iterdir()
        if not (p / "config.pbtxt").is_file() or any(p.glob("*/voice.toml"))
    ]
    if strange:
        raise CheckpointError(
            f"{repository}: holds other things than models ({shortened(sorted(strange))}); "
            "choose another folder"
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(f"{folder.parent}: {needed:,} bytes needed, {free:,} are free")


def _default_voice(bundled: Path | None, voices: Path) -> str:
    """The voice of requests that name none: the first that comes along, else the only one there."""
    coming = sorted(path.parent.name for path in bundled.glob("*/voice.toml")) if bundled else []
    there = VoiceFolder(voices).names()
    return coming[0] if coming else there[0] if len(there) == 1 else ""


def _install_voices(bundled: Path | None, voices: Path, report: Report) -> None:
    """Copy the bundled voices that are not there yet."""
    voices.mkdir(parents=True, exist_ok=True)
    for source in sorted(bundled.glob("*/voice.toml")) if bundled else []:
        target = voices / source.parent.name
        if not target.exists():
            with staged_folder(target, replace=False) as staged:
                shutil.copytree(source.parent, staged, dirs_exist_ok=True)
            report(f"voice {target.name} in {voices}")
