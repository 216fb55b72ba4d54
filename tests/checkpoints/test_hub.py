"""Downloads against a local server that answers as the hub does."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints.hub_server import FakeHub, serving

from gsv.checkpoints.download import RemoteFile
from gsv.checkpoints.hub import OFFICIAL, Hub, Snapshot, download_official
from gsv.errors import CheckpointError

SIZE = 700_000  # several blocks


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    files = {path: os.urandom(SIZE) for path in OFFICIAL.paths}
    files["chinese-hubert-base/config.json"] = b'{"small": true}'
    lfs = {path for path in files if not path.endswith("json")}
    with serving(FakeHub(files | {"README.md": b"x"}, lfs)) as running:
        yield running


def download(hub: FakeHub, folder: Path) -> list[tuple[str, int, int]]:
    seen: list[tuple[str, int, int]] = []
    client = Hub(hub.endpoint, revision="main", retry_delay=0.001)
    download_official(client, folder, lambda *step: seen.append(step))
    return seen


def snapshot(hub: FakeHub) -> Snapshot:
    """What the hub has, as if a release of ours had been made for it."""
    files = [
        RemoteFile(path, len(hub.files[path]), hashlib.sha256(hub.files[path]).hexdigest())
        for path in OFFICIAL.paths
    ]
    return Snapshot(hub.commit, tuple(files))


def check(hub: FakeHub, folder: Path) -> None:
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == set(OFFICIAL.paths)
    for path in OFFICIAL.paths:
        assert (folder / path).read_bytes() == hub.files[path]


def transfers(hub: FakeHub) -> list[tuple[str, str]]:
    return [(path, span) for method, path, span in hub.requests if method == "GET"]


def test_all_files_come_with_progress(hub: FakeHub, tmp_path: Path) -> None:
    seen = download(hub, tmp_path)
    check(hub, tmp_path)
    for path in OFFICIAL.paths:
        steps = [(here, size) for name, here, size in seen if name == path]
        assert steps == sorted(steps)
        assert steps[-1] == (len(hub.files[path]),) * 2


def test_what_is_there_is_not_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    download(hub, tmp_path)
    hub.requests.clear()
    download(hub, tmp_path)
    assert transfers(hub) == []


def test_a_changed_file_is_fetched_again(hub: FakeHub, tmp_path: Path) -> None:
    download(hub, tmp_path)
    (tmp_path / "s1v3.ckpt").write_bytes(bytes(SIZE))
    download(hub, tmp_path)
    check(hub, tmp_path)


def test_a_broken_transfer_goes_on_where_it_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [300_000, 200_000]
    download(hub, tmp_path)
    check(hub, tmp_path)
    spans = [span for path, span in transfers(hub) if path == "/store/s1v3.ckpt"]
    assert spans == ["", "bytes=300000-", "bytes=500000-"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(hub: FakeHub, tmp_path: Path) -> None:
    hub.break_after = [300_000, *[0] * 5]
    with pytest.raises(CheckpointError, match="what came so far is kept"):
        download(hub, tmp_path)
    assert (tmp_path / "s1v3.ckpt.part").stat().st_size == 300_000
    assert not (tmp_path / "s1v3.ckpt").exists()
    hub.requests.clear()
    download(hub, tmp_path)
    check(hub, tmp_path)
    assert ("/store/s1v3.ckpt", "bytes=300000-") in transfers(hub)


def test_a_server_without_ranges(hub: FakeHub, tmp_path: Path) -> None:
    hub.ranges, hub.break_after = False, [300_000]
    download(hub, tmp_path)
    check(hub, tmp_path)


def test_passing_server_errors(hub: FakeHub, tmp_path: Path) -> None:
    hub.fail = [503, 500, 502]
    download(hub, tmp_path)
    check(hub, tmp_path)


def test_final_server_errors(hub: FakeHub, tmp_path: Path) -> None:
    hub.fail = [403]
    with pytest.raises(CheckpointError, match="s1v3.ckpt: can't be downl.*HTTP 403.*HF_ENDPOINT"):
        download(hub, tmp_path)


def test_wrong_content_is_thrown_away(hub: FakeHub, tmp_path: Path) -> None:
    hub.wrong = {"gsv-v4-pretrained/s2Gv4.pth"}
    with pytest.raises(CheckpointError, match="s2Gv4.pth: what came .* another checksum"):
        download(hub, tmp_path)
    assert list((tmp_path / "gsv-v4-pretrained").iterdir()) == []
    hub.wrong = {"chinese-hubert-base/config.json"}  # a small file, with Git's sum
    with pytest.raises(CheckpointError, match="config.json: what came .* another checksum"):
        download(hub, tmp_path)
    hub.wrong = set()
    download(hub, tmp_path)
    check(hub, tmp_path)


def test_a_part_of_another_version(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "s1v3.ckpt.part").write_bytes(bytes(SIZE + 1))
    download(hub, tmp_path)
    check(hub, tmp_path)


def test_all_files_are_of_one_commit(hub: FakeHub, tmp_path: Path) -> None:
    """A branch that moves while files come makes no mixture."""
    client = Hub(hub.endpoint, revision="main", retry_delay=0.001)
    files = client.describe(OFFICIAL.paths)
    assert client.revision == hub.commit
    revisions = [path.split("/resolve/")[1] for _, path, _ in hub.requests if "/resolve/" in path]
    assert [r.split("/")[0] for r in revisions] == ["main"] + [hub.commit] * (len(revisions) - 1)
    hub.requests.clear()
    client.download(files[0], tmp_path, lambda *_: None)
    assert f"/resolve/{hub.commit}/" in transfers(hub)[0][0]


def test_a_revision_can_be_named(hub: FakeHub) -> None:
    (file,) = Hub(hub.endpoint, revision=hub.commit).describe(["s1v3.ckpt"])
    assert file.size == SIZE
    with pytest.raises(CheckpointError, match=r"does not have s1v3.ckpt \(revision v9\)"):
        Hub(hub.endpoint, revision="v9").describe(["s1v3.ckpt"])


def test_the_default_is_one_commit_with_known_sums(hub: FakeHub, tmp_path: Path) -> None:
    assert re.fullmatch("[0-9a-f]{40}", OFFICIAL.revision)
    assert all(re.fullmatch("[0-9a-f]{64}", file.sha256) for file in OFFICIAL.files)
    assert len({file.sha256 for file in OFFICIAL.files}) == 9
    with pytest.raises(CheckpointError, match=OFFICIAL.revision):
        download_official(Hub(hub.endpoint), tmp_path, lambda *_: None)  # it has another commit
    assert all(f"/resolve/{OFFICIAL.revision}/" in path for _, path, _ in hub.requests)


@pytest.mark.parametrize("which", ["s1v3.ckpt", "chinese-hubert-base/config.json"])
def test_files_with_other_sums_are_refused_at_the_known_commit(
    hub: FakeHub, tmp_path: Path, which: str
) -> None:
    """Even if the hub tells matching sums for what it sends."""
    official = snapshot(hub)
    client = Hub(hub.endpoint, revision=hub.commit, retry_delay=0.001)
    download_official(client, tmp_path / "right", lambda *_: None, official)
    check(hub, tmp_path / "right")

    hub.files[which] = bytes(len(hub.files[which]))
    with pytest.raises(CheckpointError, match=f"{which}: .* (another file|another checksum)"):
        download_official(client, tmp_path / "wrong", lambda *_: None, official)
    assert not (tmp_path / "wrong" / which).exists()
    if which in hub.lfs:
        assert not (tmp_path / "wrong").exists()  # known before anything is transferred


def test_a_mirror_that_tells_no_commit(hub: FakeHub, tmp_path: Path) -> None:
    hub.commit = ""
    download(hub, tmp_path)
    check(hub, tmp_path)


def test_no_token_is_sent(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download(hub, tmp_path)
    assert hub.requests
    assert hub.authorizations == set()


def test_missing_files_are_named(hub: FakeHub, tmp_path: Path) -> None:
    del hub.files["s1v3.ckpt"]
    with pytest.raises(CheckpointError, match="does not have s1v3.ckpt"):
        download(hub, tmp_path)


def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeHub({})) as gone:
        pass
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the hub's library waits for 23 s
    with pytest.raises(CheckpointError, match="can't be downloaded from http://127.0.0.1"):
        download(gone, tmp_path)


@pytest.mark.parametrize("endpoint", ["file:///etc", "huggingface.co", "ftp://x", ""])
def test_other_addresses(endpoint: str) -> None:
    with pytest.raises(CheckpointError, match="allowed: http:// or https:// addresses"):
        Hub(endpoint)
