"""Keys: who has one is known by name, the file gives none away, a change counts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from gateway.running import key_file

from gsv_client import InvalidRequest
from gsv_client.gateway import keys
from gsv_client.gateway.keys import KeyRing, new_key


def test_a_key_is_known_by_its_name(tmp_path: Path) -> None:
    file, made = key_file(tmp_path, "alice", "bob")
    ring = KeyRing(file)
    assert [ring.name_of(made[name]) for name in ("alice", "bob")] == ["alice", "bob"]
    for wrong in ("", "gsv-", made["alice"][:-1], made["alice"] + "x", "\ud800"):
        assert ring.name_of(wrong) is None
    text = file.read_text()
    assert made["alice"] not in text
    assert hashlib.sha256(made["alice"].encode()).hexdigest() in text


def test_keys_are_long_and_new_each_time() -> None:
    made = {new_key("a")[0] for _ in range(50)}
    assert len(made) == 50
    assert all(len(key) > 40 for key in made)


def test_every_line_is_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, made = key_file(tmp_path, "alice", "bob", "carol")
    compared = []
    right = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(b) or right(a, b))
    ring = KeyRing(file)
    for key in (made["alice"], made["carol"], "wrong"):
        compared.clear()
        ring.name_of(key)
        assert len(compared) == 3


def test_a_change_of_the_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "LOOK_AGAIN_SECONDS", 0.0)
    file, made = key_file(tmp_path, "alice")
    ring = KeyRing(file)
    key, line = new_key("dave")
    file.write_text(line)
    assert ring.name_of(key) == "dave"
    assert ring.name_of(made["alice"]) is None


@pytest.mark.parametrize("broken", [b"alice secret\n", b"\xff\xfe", None])
def test_a_change_that_can_not_be_read_shuts_nobody_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: bytes | None,
) -> None:
    """The keys from before stay and the log tells once, until the file is mended."""
    monkeypatch.setattr(keys, "LOOK_AGAIN_SECONDS", 0.0)
    file, made = key_file(tmp_path, "alice")
    ring = KeyRing(file)
    if broken is None:
        file.unlink()
    else:
        file.write_bytes(broken)
    assert [ring.name_of(made["alice"]) for _ in range(3)] == ["alice"] * 3
    assert caplog.text.count("the keys from before this change stay") == 1
    key, line = new_key("dave")
    file.write_text(line)
    assert ring.name_of(key) == "dave"
    assert ring.name_of(made["alice"]) is None


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n# fine\nalice secret\n")
    with pytest.raises(InvalidRequest, match=r"line 3 is not `NAME HASH`.*--new-key"):
        KeyRing(file)
    with pytest.raises(InvalidRequest, match="No such file"):
        KeyRing(tmp_path / "nothing")
    with pytest.raises(InvalidRequest, match="name of the key: got 'a b'"):
        new_key("a b")
