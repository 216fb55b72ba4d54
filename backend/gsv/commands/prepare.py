"""``gsv prepare``: from checkpoint files to a model repository."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gsv.errors import GsvError

if TYPE_CHECKING:
    from gsv.checkpoints.text_data import Sources

_FOLDER = click.Path(file_okay=False, path_type=Path)
_EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_TO_HEAR_MORE = (
    "To hear a full-size voice, prepare the official files: gsv prepare --download --out REPOSITORY"
)
_VOICE_NOTICE = (
    "These are two small demo voices: English, trained on synthesizers' speech. " + _TO_HEAR_MORE
)
_DEMO_WARNING = (
    "These are RANDOM demo weights: everything runs, but the sound is noise, not speech. "
    + _TO_HEAR_MORE
)


@click.command(short_help="Build a model repository from checkpoint files.")
@click.option(
    "--pretrained",
    type=_FOLDER,
    help="Folder with the official files, in upstream's layout: s1v3.ckpt, gsv-v4-pretrained/, "
    "chinese-hubert-base/, chinese-roberta-wwm-ext-large/ (or a checkout of upstream with them).",
)
@click.option(
    "--demo",
    type=click.Choice(["voice", "tiny", "full"]),
    help="Weights for trying out, in the official file formats: voice is a small voice that speaks "
    "English (from a source checkout); tiny and full are random, for tests and measuring, and do "
    "not speak.",
)
@click.option(
    "--download",
    is_flag=True,
    help="First get the official files (1.8 GB) into the --pretrained folder (default: "
    "pretrained), and what --download-text gets. A broken download goes on where it stopped.",
)
@click.option(
    "--download-text",
    is_flag=True,
    help="Get the text data that this package may not bring (165 MB, checked against known "
    "SHA-256 sums): English dictionaries and tagger, naist-jdic, lid.176.bin. Into the folder "
    "text_data in --pretrained.",
)
@click.option(
    "--g2pw",
    is_flag=True,
    help="Get the G2PW model as well (590 MB), which reads Chinese polyphones by their context.",
)
@click.option(
    "--text-mirror",
    metavar="URL",
    help="Address of a folder with the files of --download-text by their names.",
)
@click.option(
    "--endpoint",
    envvar="HF_ENDPOINT",
    help="Address of the Hugging Face hub or a mirror of it, for --download.",
)
@click.option(
    "--revision",
    help="Commit, tag or branch of the official files on the hub, for --download; main is the "
    "latest.  [default: the commit whose checksums this version knows]",
)
@click.option("--out", type=_FOLDER, required=True, help="Model repository to make.")
@click.option(
    "--gpt",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A fine-tuned GPT checkpoint in place of s1v3.ckpt.",
)
@click.option(
    "--sovits",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A full v4 SoVITS checkpoint in place of s2Gv4.pth.",
)
@click.option(
    "--upstream",
    type=_EXISTING_FOLDER,
    help="Checkout of GPT-SoVITS: its English dictionaries and models for text are taken along.",
)
@click.option(
    "--text-data",
    type=_EXISTING_FOLDER,
    envvar="GSV_PREPARE_TEXT_DATA",
    show_envvar=True,
    help="Folder of text data: dictionaries, tagger, naist-jdic, lid.176.bin, G2PWModel.",
)
@click.option(
    "--voices",
    type=_FOLDER,
    help="Voice folder; gets the sample voice.  [default: voices, beside --out]",
)
@click.option(
    "--dtype",
    type=click.Choice(["default", "float32", "auto", "bfloat16", "float16"]),
    default="default",
    show_default=True,
    help="Arithmetic of both generators. float32 is exact; auto is bfloat16 where the serving "
    "machine computes in it (float16 on older GPUs), several times faster; default is auto on a "
    "GPU and float32 on a CPU. Stands in their config.pbtxt.",
)
@click.option(
    "--pack-env",
    type=_FOLDER,
    help="Also make this folder, beside the repository: a Python environment with all that serving "
    "needs, in which the models then run in any tritonserver, without installing anything there.",
)
@click.option(
    "--python",
    metavar="3.10|3.11|3.12|PROGRAM",
    help="Python of --pack-env: the one that the server's triton_python_backend_stub was built "
    "for, found on PATH or by uv, or the path of one. NVIDIA's images: 3.10 up to 24.10, 3.12 from "
    "24.11 on.  [default: the running one]",
)
@click.option(
    "--torch-index",
    metavar="URL",
    default="",
    help="Package index from which --pack-env installs torch, to choose its build for CUDA or the "
    "CPU.  [default: torch as it is installed here]",
)
@click.option(
    "--pack-links",
    is_flag=True,
    help="--pack-env makes hard links where it can: no space and little time, for trying it out on "
    "this machine.",
)
@click.option("--force", is_flag=True, help="Replace an earlier model repository and environment.")
def prepare(
    pretrained: Path | None,
    demo: str | None,
    download: bool,
    download_text: bool,
    g2pw: bool,
    text_mirror: str | None,
    endpoint: str | None,
    revision: str | None,
    out: Path,
    gpt: Path | None,
    sovits: Path | None,
    upstream: Path | None,
    text_data: Path | None,
    voices: Path | None,
    dtype: str,
    pack_env: Path | None,
    python: str | None,
    torch_index: str,
    pack_links: bool,
    force: bool,
) -> None:
    """Build a model repository that `gsv serve` or any Triton server can load.

    Checkpoint files are read without running code from them, checked, converted once, and stored
    with their checksums. On an error nothing is left behind.

    \b
    Examples:
      gsv prepare --demo voice --out repository
      gsv prepare --pretrained GPT_SoVITS/pretrained_models --out repository
      gsv prepare --download --g2pw --out repository
      gsv prepare --pretrained DIR --upstream ~/GPT-SoVITS --out repository
      HF_ENDPOINT=https://hf-mirror.com gsv prepare --download --out repository
    """
    if demo and (pretrained or download or gpt or sovits):
        raise click.UsageError(
            "--demo makes its own weights: leave --pretrained, --download, --gpt, --sovits away"
        )
    if not demo and not download and pretrained is None:
        raise click.UsageError(
            "give one of --pretrained FOLDER, --download, --demo voice, tiny or full"
        )
    if text_mirror and not (download or download_text or g2pw):
        raise click.UsageError("--text-mirror is for --download-text, --download and --g2pw")
    if pack_env is None and (python or torch_index or pack_links):
        raise click.UsageError("--python, --torch-index and --pack-links are for --pack-env")
    download_text = download_text or download or g2pw
    # torch and transformers take seconds to import: --help must not wait for them.
    from gsv.checkpoints.prepare import Files
    from gsv.checkpoints.prepare import prepare as build
    from gsv.checkpoints.text_data import Sources
    from gsv.repository import demo_voice

    if out.exists() and not force:
        raise click.ClickException(f"{out}: exists already; choose another folder or use --force")
    try:
        if pack_env:
            _pack(pack_env, out, python, torch_index, pack_links, force)
        with (
            _demo_weights(demo, out)
            if demo
            else contextlib.nullcontext(pretrained or Path("pretrained")) as source
        ):
            if download:
                _download(source, endpoint, revision)
            text = Sources(upstream, text_data)
            if download_text:
                folder = (pretrained or Path("pretrained")) / "text_data"
                _download_text(text, folder, g2pw, text_mirror or "")
                text = dataclasses.replace(text, downloaded=folder)
            build(
                Files.find(source, gpt, sovits),
                out,
                voices=voices or out.absolute().parent / "voices",
                text=text,
                replace=force,
                demo=demo is not None,
                report=_say,
                dtype=dtype,
                bundled=demo_voice() / "voices" if demo == "voice" else None,
            )
        if pack_env:
            _point_at(pack_env, out)
    except GsvError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error
    _say(f"ready: {out}")
    if demo:
        _say(_VOICE_NOTICE if demo == "voice" else _DEMO_WARNING)


def _pack(
    folder: Path, out: Path, python: str | None, torch_index: str, links: bool, force: bool
) -> None:
    from gsv.packing.environment import Choices, check_place, pack
    from gsv.packing.interpreter import RUNNING

    check_place(folder, out)
    pack(folder, Choices(python or RUNNING, torch_index, links), replace=force, report=_say)


def _point_at(folder: Path, out: Path) -> None:
    from gsv.packing.environment import point_models_at

    models = point_models_at(out, folder)
    _say(f"environment: {len(models)} models run in it; keep it where it is beside the repository")


def _say(line: str) -> None:
    click.echo(line, err=True)


@contextlib.contextmanager
def _demo_weights(size: str, out: Path) -> Iterator[Path]:
    """Demo weights in a temporary folder beside the repository (the full ones take 1.8 GB)."""
    from gsv.checkpoints.demo import make_demo

    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo.", dir=parent) as name:
        make_demo(size, Path(name), progress=lambda file: _say(f"making {file}"))
        yield Path(name)


def _download(folder: Path, endpoint: str | None, revision: str | None) -> None:
    from gsv.checkpoints.hub import ENDPOINT, OFFICIAL, Hub, download_official

    hub, bars = Hub(endpoint or ENDPOINT, revision=revision or OFFICIAL.revision), _Bars()
    try:
        download_official(hub, folder, bars.show)
    finally:
        bars.end()
    _say(f"official files: revision {hub.revision}")


def _download_text(here: Sources, folder: Path, g2pw: bool, mirror: str) -> None:
    """Bring what is not here already."""
    from gsv.checkpoints.text_download import FILES, download_text_data

    files = [file for file in FILES if not here.has(file.target)]
    bars = _Bars()
    try:
        download_text_data(folder, bars.show, _say, large=g2pw, mirror=mirror, files=files)
    finally:
        bars.end()


class _Bars:
    """One progress bar a file, on stderr; where that is not a terminal, one line a file."""

    def __init__(self) -> None:
        self._path = ""
        self._open = contextlib.ExitStack()
        self._bar: Any = None

    def show(self, path: str, here: int, size: int) -> None:
        """``here`` bytes of ``size`` are on the disk."""
        if path != self._path or here < self._bar.pos:  # the next one, or one that begins again
            self.end()
            label = f"{path} ({size / 1e6:,.1f} MB)"
            bar = click.progressbar(length=size, label=label, file=sys.stderr, width=30)
            self._path, self._bar = path, self._open.enter_context(bar)
        self._bar.update(here - self._bar.pos)

    def end(self) -> None:
        """Leave the line of the last bar."""
        self._open.close()
        self._path = ""
