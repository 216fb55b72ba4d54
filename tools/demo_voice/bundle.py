"""Packs what a machine without a network needs to make the voice: ``train_all.py --bundle``.

    .venv/bin/python tools/demo_voice/bundle.py [--python 3.12]

Into ``build/demo_voice_bundle``: the teachers' programs and voices with the libraries that they
load (``engines.tar.xz``), texts, phonemes, their times and tokens (``rows.tar.xz``), and wheels of
the Python packages that such a machine may lack. Waves do not travel: the teachers speak the texts
there once more, which takes a minute on sixteen cores where ten hours of audio would be 2 GB.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import places

MOST_BYTES = 60 << 20
PROGRAMS = ("festival", "flite")
FESTIVAL = Path("/usr/share/festival")
_LEFT_OUT = ("voices/english", "multisyn")  # of Festival's data; other voices
_PACKAGES = ("soundfile", "soxr", "cffi", "pycparser")
_PLATFORMS = tuple(f"manylinux{version}_x86_64" for version in
                   ("_2_28", "_2_27", "_2_17", "2014", "_2_34", "1"))  # fmt: skip


def libraries(program: Path) -> Iterator[Path]:
    """The shared libraries that a program loads, the loader included."""
    listed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True)
    for found in re.findall(r"(/\S+) \(0x", listed.stdout):
        yield Path(found)


def pack_engines(path: Path) -> None:
    """``bin``, ``lib`` and ``festival``, as ``teachers.py`` expects them."""
    members: dict[str, Path] = {}
    for program in PROGRAMS:
        found = shutil.which(program)
        if found is None:
            raise click.ClickException(f"{program} is not installed; see the README's packages")
        members[f"bin/{program}"] = Path(found)
        for library in libraries(Path(found)):
            members[f"lib/{library.name}"] = library
    for file in FESTIVAL.rglob("*"):
        inner = file.relative_to(FESTIVAL).as_posix()
        if file.is_file() and not inner.startswith(_LEFT_OUT):
            members[f"festival/{inner}"] = file
    _pack(path, members)


def pack_rows(path: Path) -> None:
    """All of the run but waves, mels and what is trained."""
    patterns = ("judged/*.rows.npz", "corpus/*/*.rows.npz", "*_tokens.npz", "codebook.npz")
    files = [file for pattern in patterns for file in sorted(places.RUN.glob(pattern))]
    if not any(file.name == "codebook.npz" for file in files):
        raise click.ClickException(f"{places.RUN}: run corpus.py and codes.py first")
    _pack(path, {file.relative_to(places.RUN).as_posix(): file for file in files})


def _pack(path: Path, members: dict[str, Path]) -> None:
    with tarfile.open(path, "w:xz", preset=6) as archive:
        for name, file in sorted(members.items()):
            content = file.read_bytes()  # links are followed
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))


def fetch_wheels(folder: Path, python: str) -> None:
    """Wheels for that Python on 64-bit Linux."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += [part for platform in _PLATFORMS for part in ("--platform", platform)]
    subprocess.run([*command, *_PACKAGES], check=True)


def unpack(folder: Path, run: Path, engines: Path, site: Path) -> None:
    """The other way: rows into the run, programs and packages into folders of their own."""
    for name, place in (("rows.tar.xz", run), ("engines.tar.xz", engines)):
        with tarfile.open(folder / name) as archive:
            archive.extractall(place, filter="data")
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)


@click.command()
@click.option("--out", type=click.Path(path_type=Path),
              default=places.ROOT / "build" / "demo_voice_bundle")  # fmt: skip
@click.option("--python", default="3.12", show_default=True, help="The other machine's.")
def main(out: Path, python: str) -> None:
    """Pack the run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    pack_rows(out / "rows.tar.xz")
    pack_engines(out / "engines.tar.xz")
    fetch_wheels(out / "wheels", python)
    files = [file for file in sorted(out.rglob("*")) if file.is_file()]
    for file in files:
        click.echo(f"{file.stat().st_size:10} bytes  {file.relative_to(out)}")
    total = sum(file.stat().st_size for file in files)
    click.echo(f"{total / (1 << 20):.1f} MiB together")
    if total > MOST_BYTES:
        raise click.ClickException(f"more than {MOST_BYTES >> 20} MiB; take fewer texts")


if __name__ == "__main__":
    main()
