"""``gsv voices``: list, show, add and remove the voices of a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from gsv.errors import GsvError
from gsv.options import LANGUAGES
from gsv.voices import VoiceEntry, VoiceFolder, describe
from gsv.voices.features import FOLDER, describe_kept
from gsv.voices.recording import read_recording
from gsv.voices.voice import SAMPLING_TYPES
from gsv_client.quality import Report, inspect

Command = TypeVar("Command", bound=Callable[..., Any])
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_LONGEST_SHOWN_SECONDS = 60.0

_folder_option = click.option(
    "--voices",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("voices"),
    show_default=True,
    envvar="GSV_VOICES",
    show_envvar=True,
    help="The voice folder.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command("list")
@_folder_option
@_json_option
def list_voices(folder: Path, as_json: bool) -> None:
    """List the voices of a folder; exit code 1 if one of them is broken.

    \b
    Examples:
      gsv voices list
      gsv voices list --voices build/demo/voices --json
    """
    entries, errors = VoiceFolder(_existing(folder)).scan()
    if as_json:
        _print_json([describe(entry) for entry in entries])
    else:
        for entry in entries:
            click.echo(_line(entry))
    for error in errors:
        click.echo(f"broken: {error}", err=True)
    if errors:
        raise click.exceptions.Exit(1)


@click.command("show")
@click.argument("name")
@_folder_option
@_json_option
def show_voice(name: str, folder: Path, as_json: bool) -> None:
    """Show the voice NAME: its files and the quality of its recordings.

    \b
    Examples:
      gsv voices show alice
      gsv voices show alice --json
    """
    with _one_line():
        voice = VoiceFolder(_existing(folder)).get(name)
        entries, _ = VoiceFolder(folder).scan()
        (entry,) = [e for e in entries if e.base.name == voice.name.partition("/")[0]]
        reports = {}
        for one in (entry.base, *entry.others.values()):
            try:
                wave, rate = read_recording(one.reference, _LONGEST_SHOWN_SECONDS)
            except (OSError, ValueError) as error:
                raise click.ClickException(f"voice {one.name}: {error}") from error
            reports[one.name] = inspect(wave, rate)
    facts = describe(entry)
    recordings = {name: dataclasses.asdict(report) for name, report in reports.items()}
    features = describe_kept(entry)
    if as_json:
        _print_json({**facts, "recordings": recordings, "features": features})
        return
    for key, value in facts.items():
        if value:
            click.echo(f"{key}: {value}")
    for name, kinds in features["kept"].items():
        click.echo(f"features of {name}: {', '.join(kinds) or 'none kept yet'}")
    for name in features["broken"]:
        click.echo(f"broken: {FOLDER}/{name}: it will be made anew", err=True)
    for name, report in reports.items():
        _tell(name, report)


@click.command("add")
@click.argument("name")
@click.option("--reference", required=True, type=_FILE, help="Recording of 3 to 10 s.")
@click.option("--text", required=True, help="What is said in it.")
@click.option("--language", required=True, type=click.Choice(LANGUAGES), help="Of the text.")
@click.option("--gpt", type=_FILE, help="Fine-tuned GPT, such as NAME-e15.ckpt.")
@click.option("--sovits", type=_FILE, help="Fine-tuned SoVITS v4, a LoRA or a full file.")
@click.option(
    "--window",
    default="",
    metavar="auto|START:END",
    help="Take this part (seconds) of a longer recording; auto looks for the best 5 to 9 s.",
)
@click.option(
    "--sampling",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"A default of this voice: {', '.join(SAMPLING_TYPES)}. May be given several times.",
)
@click.option(
    "--lexicon", type=_FILE, help="Readings of words in this voice: a TOML file, see docs/text.md."
)
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Model repository that will serve the voice, if its models are not of the official size.",
)
@click.option("--force", is_flag=True, help="Replace a voice of that name.")
@_folder_option
@_json_option
def add_voice(
    name: str,
    reference: Path,
    text: str,
    language: str,
    gpt: Path | None,
    sovits: Path | None,
    window: str,
    sampling: tuple[str, ...],
    lexicon: Path | None,
    repository: Path | None,
    force: bool,
    folder: Path,
    as_json: bool,
) -> None:
    """Check a recording and its checkpoints, and add them as the voice NAME.

    NAME/REFERENCE adds a further recording of the same speaker to the voice NAME, such as another
    emotion. A running server offers the voice within a second. Nothing is written when a check
    fails; checkpoints are read without running code from them.

    \b
    Examples:
      gsv voices add alice --reference alice.wav --text "What she says." --language en
      gsv voices add alice/happy --reference happy.wav --text "Hurray!" --language en
      gsv voices add bo --reference bo.flac --text "你好。" --language zh \\
          --gpt bo-e15.ckpt --sovits bo_e2_s200_l32.pth --sampling top_k=5
    """
    # torch takes seconds to import: --help must not wait for it.
    from gsv.checkpoints.voice_editing import NewVoice, Shapes
    from gsv.checkpoints.voice_editing import add_voice as add

    defaults = _sampling(sampling)
    new = NewVoice(name, reference, text, language, gpt, sovits, defaults, window, lexicon)
    with _one_line():
        added = add(folder, new, Shapes.of(repository) if repository else Shapes(), replace=force)
    facts = {
        **describe(added.entry),
        "window": added.window,
        "recording": dataclasses.asdict(added.report),
        "weights": {key: dataclasses.asdict(stored) for key, stored in added.weights.items()},
    }
    for key, stored in added.weights.items():
        rank = f" of rank {stored.rank}" if stored.rank else ""
        click.echo(f"{key}: a {stored.kind}{rank}, stored as safetensors", err=True)
        for note in stored.notes:
            click.echo(f"note: {note}", err=True)
    if added.window:
        click.echo(f"took {added.window[0]:.2f} to {added.window[1]:.2f} s of it", err=True)
    if as_json:
        _print_json(facts)
        return
    _tell(name, added.report)
    click.echo(f"added {name} to {folder}")


@click.command("remove")
@click.argument("name")
@_folder_option
@_json_option
def remove_voice(name: str, folder: Path, as_json: bool) -> None:
    """Remove the voice NAME, or with NAME/REFERENCE one of its recordings.

    \b
    Examples:
      gsv voices remove alice
      gsv voices remove alice/happy
    """
    from gsv.checkpoints.voice_editing import remove_voice as remove

    with _one_line():
        remove(folder, name)
    if as_json:
        _print_json({"removed": name})
    else:
        click.echo(f"removed {name} from {folder}")


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Errors as one line and exit code 1."""
    try:
        yield
    except GsvError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise click.ClickException(
            f"{folder}: no such folder; name the voice folder with --voices, or add a voice"
        )
    return folder


def _sampling(given: tuple[str, ...]) -> dict[str, int | float]:
    values: dict[str, int | float] = {}
    for item in given:
        key, _, text = item.partition("=")
        if key not in SAMPLING_TYPES:
            raise click.UsageError(f"--sampling {item}: allowed: {', '.join(SAMPLING_TYPES)}")
        try:
            values[key] = SAMPLING_TYPES[key](text)
        except ValueError as error:
            kind = "an integer" if SAMPLING_TYPES[key] is int else "a number"
            raise click.UsageError(f"--sampling {item}: {text!r} must be {kind}") from error
    return values


def _line(entry: VoiceEntry) -> str:
    base = entry.base
    extras = [f"references: {', '.join(base.references)}"] if base.references else []
    extras += [key for key, path in (("gpt", base.gpt), ("sovits", base.sovits)) if path]
    shown = f"{base.name}  {base.language}  {base.text}"
    return f"{shown}  ({'; '.join(extras)})" if extras else shown


def _tell(name: str, report: Report) -> None:
    click.echo(
        f"{name}: {report.seconds:.2f} s at {report.rate} Hz, speech at {report.level_db:.0f} dB, "
        f"up to {report.bandwidth / 1000:.1f} kHz",
        err=True,
    )
    for remark in report.remarks:
        click.echo(f"{remark.level}: {name}: {remark.message}: {remark.advice}", err=True)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))
