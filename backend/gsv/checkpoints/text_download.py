"""Gets the text data that can't be part of this package from where it is published.

    python -m gsv.checkpoints.text_download FOLDER [--g2pw] [--mirror URL] [--without TARGET ...]

``FILES`` is the whole table: addresses, sizes and SHA-256 sums. What comes is kept only if its sum
is right, wherever it came from; so a mirror needs no trust. Archives are unpacked by name, nothing
else of them is written. The folder that is filled is a source for ``gsv.checkpoints.text_data``.
Only the standard library is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tarfile
import tempfile
import urllib.parse
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO

from gsv.checkpoints.download import Progress, RemoteFile, Source
from gsv.errors import CheckpointError

_UPSTREAM = (
    "https://raw.githubusercontent.com/RVC-Boss/GPT-SoVITS/"
    "48b1a0169a28582a8984402f82cf438d3bfa6aca/GPT_SoVITS/text/"
)
_NLTK_DATA = (
    "https://raw.githubusercontent.com/nltk/nltk_data/550b6625bcef1f2abff2ff770a5a0d272c9c6b2a/"
)
_TAGGER = "averaged_perceptron_tagger_eng"
_DICTIONARY = "open_jtalk_dic_utf_8-1.11"
_DICTIONARY_PARTS = (
    *("sys.dic", "unk.dic", "matrix.bin", "char.bin", "left-id.def", "right-id.def"),
    *("pos-id.def", "rewrite.def"),
)
_G2PW_PARTS = (
    *("g2pW.onnx", "POLYPHONIC_CHARS.txt", "MONOPHONIC_CHARS.txt", "config.py"),
    "bopomofo_to_pinyin_wo_tune_dict.json",
)
_DOWNLOADS = "downloads"  # archives on their way


@dataclasses.dataclass(frozen=True)
class TextFile:
    """One file that is published somewhere.

    Attributes:
        name: what it is called there.
        addresses: where it is, tried in this order.
        size: bytes.
        sha256: the sum of every byte of it.
        licence: of its content.
        target: its place in the folder; for an archive, the folder that its members go to.
        members: for an archive, path in it → name in ``target``.
        large: only for those who ask for it.
    """

    name: str
    addresses: tuple[str, ...]
    size: int
    sha256: str
    licence: str
    target: str
    members: Mapping[str, str] = dataclasses.field(default_factory=dict)
    large: bool = False

    @property
    def remote(self) -> RemoteFile:
        """The file itself: in its place, or among the archives."""
        path = f"{_DOWNLOADS}/{self.name}" if self.members else self.target
        return RemoteFile(path, self.size, self.sha256)


def _upstream(path: str, size: int, sha256: str, target: str, *, large: bool = False) -> TextFile:
    name = path.rpartition("/")[2]
    return TextFile(name, (_UPSTREAM + path,), size, sha256, "MIT", target, large=large)


FILES = (
    _upstream(
        *("cmudict.rep", 3_731_285),
        "0e601d017d6e6f958443d41cd8922b4cd7598b3ba2056253a33f3e5a35f38494",
        "upstream/cmudict.rep",
    ),
    _upstream(
        *("cmudict-fast.rep", 3_613_898),
        "53bfef0f27d7dd74d1ba74563d1e076d3e0672ce3596cb2d6c0d52ac9ad01f6d",
        "upstream/cmudict-fast.rep",
    ),
    _upstream(
        *("engdict-hot.rep", 75),
        "1c80418fe6fe5d537302ae67afd3612478997b35f2cf37cff52f959ed4334a71",
        "upstream/engdict-hot.rep",
    ),
    _upstream(
        *("namedict_cache.pickle", 760_663),
        "559552094c4a6e995213e3fa586330e078ef8cb3a7a95a3109e945111cd2bfc1",
        "namedict_cache.pickle",
    ),
    _upstream(
        *("zh_normalization/char_convert.py", 66_099),
        "df066ce8e2a3385c7f3b4749f02049f2fdbabbfcc76e6784462a99f0347795e7",
        "char_convert.py",
    ),
    TextFile(
        f"{_TAGGER}.zip",
        (f"{_NLTK_DATA}packages/taggers/{_TAGGER}.zip",),
        1_539_115,
        "6025f530624335c67d6547d44757b357b4e79bae030a0383e9887a92c1718f0b",
        "MIT",
        f"nltk_data/taggers/{_TAGGER}",
        {
            f"{_TAGGER}/{_TAGGER}.{part}.json": f"{_TAGGER}.{part}.json"
            for part in ("weights", "tagdict", "classes")
        },
    ),
    TextFile(
        f"{_DICTIONARY}.tar.gz",
        (
            f"https://github.com/r9y9/open_jtalk/releases/download/v1.11.1/{_DICTIONARY}.tar.gz",
            "https://huggingface.co/XXXXRT/GPT-SoVITS-Pretrained/resolve/"
            f"0c47645e02a7bc3688d7b263b0042c81e3cd82cd/{_DICTIONARY}.tar.gz",
        ),
        23_646_843,
        "fe6ba0e43542cef98339abdffd903e062008ea170b04e7e2a35da805902f382a",
        "BSD-3-Clause",
        "naist-jdic",
        {f"{_DICTIONARY}/{part}": part for part in _DICTIONARY_PARTS},
    ),
    TextFile(
        "lid.176.bin",
        ("https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin",),
        131_266_198,
        "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
        "CC BY-SA 3.0",
        "lid.176.bin",
    ),
    TextFile(
        "G2PWModel_1.1.zip",
        (
            "https://www.modelscope.cn/models/kamiorinn/g2pw/resolve/master/G2PWModel_1.1.zip",
            "https://paddlespeech.bj.bcebos.com/Parakeet/released_models/g2p/G2PWModel_1.1.zip",
        ),
        588_857_174,
        "b116f6930a7ee55eef6576a8d8e14bf40c1106583439e8ae924b901512379c64",
        "Apache-2.0",
        "G2PWModel",
        {f"G2PWModel_1.1/{part}": part for part in _G2PW_PARTS},
        large=True,
    ),
    _upstream(
        *("g2pw/polyphonic.rep", 1_391),
        "a8f13e2004702cbbf01e2e3fe8436d9d620a0fe4d57176a844704619ffd5df5e",
        "upstream/polyphonic.rep",
        large=True,
    ),
    _upstream(
        *("g2pw/polyphonic-fix.rep", 1_660_967),
        "bbfac0e43e5b1db56566e5eb8b147f7e9b57175e07ffe6303195ee6563682f6b",
        "upstream/polyphonic-fix.rep",
        large=True,
    ),
)


def download_text_data(
    folder: Path,
    progress: Progress,
    report: Callable[[str], None],
    *,
    large: bool = False,
    mirror: str = "",
    files: Iterable[TextFile] = FILES,
    patience: float = 1.0,
) -> None:
    """Bring the text data into ``folder``; what is there already does not come again.

    Args:
        folder: made when it is not there.
        progress: called while bytes come.
        report: called with a line for each file: where it comes from, and its licence.
        large: the G2PW model as well.
        mirror: address of a folder that holds all files by their names, in place of their own.
        files: what to bring.
        patience: seconds before a second attempt.

    Raises:
        CheckpointError: a file can't be downloaded, or what came has another checksum; files that
            came before it stay.
    """
    if mirror and urllib.parse.urlsplit(mirror).scheme not in ("http", "https"):
        raise CheckpointError(f"mirror {mirror!r}: allowed: http:// or https:// addresses")
    for file in files:
        if file.large and not large:
            continue
        place = folder / file.target
        if file.members and all((place / name).is_file() for name in file.members.values()):
            continue
        addresses = (f"{mirror.rstrip('/')}/{file.name}",) if mirror else file.addresses
        came = _first_that_works(file, addresses, folder, progress, report, patience)
        if file.members:
            _unpack(came, file, place)
            came.unlink()


def _first_that_works(
    file: TextFile,
    addresses: tuple[str, ...],
    folder: Path,
    progress: Progress,
    report: Callable[[str], None],
    patience: float,
) -> Path:
    failures = []
    for address in addresses:
        advice = (
            "check the connection, name a mirror that has it with --text-mirror, or put it into "
            "a folder for --text-data by hand"
        )
        source = Source(address, advice, patience)
        report(f"text data: {file.name} from {address} ({file.licence})")
        try:
            return source.download(address, file.remote, folder, progress)
        except CheckpointError as error:
            failures.append(error)
    raise failures[-1]


def _unpack(archive: Path, file: TextFile, place: Path) -> None:
    """The archive's members into their folder, which is there whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as packed:
                    for member, target in file.members.items():
                        with packed.open(member) as content:
                            _write(content, whole / target)
            else:
                with tarfile.open(archive) as packed_tar:
                    for member, target in file.members.items():
                        found = packed_tar.extractfile(member)
                        if found is None:
                            raise KeyError(member)
                        _write(found, whole / target)
        except (KeyError, tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
            raise CheckpointError(f"{archive}: can't be unpacked: {error}") from error
        if place.exists():
            shutil.rmtree(place)
        whole.rename(place)


def _write(content: IO[bytes], path: Path) -> None:
    with path.open("wb") as output:
        shutil.copyfileobj(content, output)


def main(arguments: list[str] | None = None) -> int:
    """Fill a folder; exit code 1 and one line if a file can't be downloaded."""
    parser = argparse.ArgumentParser(prog="python -m gsv.checkpoints.text_download")
    parser.add_argument("folder", type=Path, help="folder to fill, for gsv prepare --text-data")
    parser.add_argument("--g2pw", action="store_true", help="the G2PW model as well (590 MB)")
    parser.add_argument("--mirror", default="", help="address of a folder with the files")
    targets = sorted(file.target for file in FILES)
    parser.add_argument("--without", action="append", default=[], choices=targets)
    options = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    try:
        download_text_data(
            options.folder,
            lambda *_: None,
            say,
            large=options.g2pw,
            mirror=options.mirror,
            files=[file for file in FILES if file.target not in options.without],
        )
    except CheckpointError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
