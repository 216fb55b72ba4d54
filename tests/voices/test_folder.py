"""The voice folder: names, references, defaults, changes while it is used, hostile content."""

from __future__ import annotations

import logging
import os
import socket
import threading
from pathlib import Path

import pytest
from voices.voice_files import make_voice, write_wave

from gsv.errors import InvalidRequest, VoiceError
from gsv.voices import VoiceEntry, VoiceFolder, load_voice
from gsv.voices import folder as folder_module
from gsv.voices import voice as voice_module
from gsv.voices.files import open_regular
from gsv.voices.recording import read_recording


class Clock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def folder_of(tmp_path: Path, default: str = "") -> tuple[VoiceFolder, Clock]:
    clock = Clock()
    return VoiceFolder(tmp_path / "voices", default, clock), clock


def test_a_voice_with_everything(tmp_path: Path) -> None:
    extra = """
    [references.happy]
    reference = "happy.wav"
    text = "Happy words."
    [references.sad]
    reference = "deep/sad.wav"
    text = "悲伤的话。"
    language = "zh"
    [sampling]
    top_k = 5
    top_p = 1
    temperature = 0.7
    sample_steps = 8
    """
    made = make_voice(tmp_path / "voices" / "alice", extra, gpt="a.ckpt", sovits="a.pth")
    (made / "a.ckpt").write_bytes(b"x")
    (made / "a.pth").write_bytes(b"y")
    write_wave(made / "happy.wav")
    write_wave(made / "deep" / "sad.wav")
    voices, _ = folder_of(tmp_path)
    alice = voices.get("alice")
    assert (alice.name, alice.text, alice.language) == ("alice", "Some words.", "en")
    assert alice.references == ("happy", "sad")
    assert alice.gpt == made / "a.ckpt"
    assert alice.sovits == made / "a.pth"
    assert alice.sampling == {"top_k": 5, "top_p": 1.0, "temperature": 0.7, "sample_steps": 8}
    assert type(alice.sampling["top_p"]) is float
    happy, sad = voices.get("alice/happy"), voices.get("alice/sad")
    assert (happy.name, happy.text, happy.language) == ("alice/happy", "Happy words.", "en")
    assert (sad.text, sad.language) == ("悲伤的话。", "zh")
    assert sad.reference == made / "deep" / "sad.wav"
    assert (sad.gpt, sad.sampling) == (alice.gpt, alice.sampling)
    with pytest.raises(InvalidRequest, match="'alice/angry'; allowed: alice, alice/happy, alice/s"):
        voices.get("alice/angry")


def test_the_default_voice_may_name_a_reference(tmp_path: Path) -> None:
    extra = "[references.calm]\nreference = 'reference.wav'\ntext = 'Calm.'"
    make_voice(tmp_path / "voices" / "bob", extra)
    voices, _ = folder_of(tmp_path, "bob/calm")
    assert voices.get("").text == "Calm."
    none, _ = folder_of(tmp_path)
    with pytest.raises(InvalidRequest, match="no default voice; allowed: bob"):
        none.get("")
    missing, _ = folder_of(tmp_path, "eve")
    with pytest.raises(VoiceError, match="voice eve: is this server's default, .* VOICE: bob"):
        missing.get("")
    with pytest.raises(InvalidRequest, match="got 'eve'; allowed: bob"):
        missing.get("eve")


@pytest.mark.parametrize(
    "name",
    ["nobody", "../alice", "alice/../alice", "/etc", ".", "..", "a b", "al\nice", "x" * 65,
     ".alice", "alice\0", "C:\\alice", "alice/", "alice/../../etc/passwd"],
)  # fmt: skip
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    make_voice(tmp_path / "voices" / "alice")
    make_voice(tmp_path / "outside")
    voices, _ = folder_of(tmp_path)
    with pytest.raises(InvalidRequest, match="VOICE"):
        voices.get(name)


def test_changes_are_live_within_a_second(tmp_path: Path) -> None:
    voices, clock = folder_of(tmp_path)
    with pytest.raises(InvalidRequest, match="is empty"):
        voices.get("eve")
    made = make_voice(tmp_path / "voices" / "eve")
    first = voices.get("eve")
    make_voice(made, text="Other words.")
    assert voices.get("eve") is first
    clock.now += 1.1
    second = voices.get("eve")
    assert second.text == "Other words."
    write_wave(made / "reference.wav", seconds=5.0)
    clock.now += 1.1
    third = voices.get("eve")
    assert len({v.digest for v in (first, second, third)}) == 3
    (made / "voice.toml").unlink()
    clock.now += 1.1
    with pytest.raises(InvalidRequest):
        voices.get("eve")


def test_a_pinned_name_means_one_content(tmp_path: Path) -> None:
    extra = "[references.calm]\nreference = 'reference.wav'\ntext = 'Calm.'"
    made = make_voice(tmp_path / "voices" / "eve", extra)
    voices, _ = folder_of(tmp_path)
    pinned = voices.get("eve/calm").pinned
    assert voices.get(pinned).text == "Calm."
    make_voice(made, extra.replace("Calm", "Cold"))
    other, _ = folder_of(tmp_path)
    with pytest.raises(VoiceError, match="changed"):
        other.get(pinned)
    # One that has looked just now looks again rather than refuse what is new.
    assert voices.get(other.get("eve/calm").pinned).text == "Cold."


def test_a_broken_voice_is_told_once_and_harms_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_voice(tmp_path / "voices" / "good")
    broken = make_voice(tmp_path / "voices" / "broken", language="klingon")
    voices, clock = folder_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            entries, errors = voices.scan()
            clock.now += 2
    assert [entry.base.name for entry in entries] == ["good"]
    assert [str(e) for e in errors] == [
        "voice broken: language 'klingon' is not one of auto, auto_yue, zh, en, ja, ko, yue, "
        "all_zh, all_ja, all_ko, all_yue"
    ]
    assert len(caplog.records) == 1
    with pytest.raises(VoiceError, match="klingon"):
        voices.get("broken")
    make_voice(broken)
    clock.now += 2
    assert voices.get("broken").language == "en"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("reference = '/etc/passwd'\ntext = 'a'\nlanguage = 'en'", "leaves the voice's folder"),
        ("reference = '../good/reference.wav'\ntext = 'a'\nlanguage = 'en'", "leaves"),
        ('reference = "a\\u0000b"\ntext = "a"\nlanguage = "en"', "can't be read"),
        ("reference = 'missing.wav'\ntext = 'a'\nlanguage = 'en'", "is not a file"),
        ("reference = '.'\ntext = 'a'\nlanguage = 'en'", "is not a file"),
        ("reference = 5\ntext = 'a'\nlanguage = 'en'", "reference must be a text, got 5"),
        ("text = 'a'\nlanguage = 'en'", "reference must be a text, got None"),
        ("{base}\ngpt = '../../weights.ckpt'", "leaves the voice's folder"),
        ("{base}\nsovits = ['a']", "sovits must be a file name"),
        ("{base}\nlua = 'x'", "unknown keys"),
        ("{base}\nsampling = 3", "sampling: got 3"),
        ("{base}\n[sampling]\ntop_k = 0", "sampling.TOP_K: got 0; allowed: from 1 to 1025"),
        ("{base}\n[sampling]\ntop_k = 1.5", "sampling.top_k must be int"),
        ("{base}\n[sampling]\ntop_p = nan", "sampling.TOP_P"),
        ("{base}\n[sampling]\ntemperature = true", "must be float, got True"),
        ("{base}\n[sampling]\nseed = 3", r"sampling: got \['seed'\]"),
        ("{base}\n[sampling]\ntop_p = 1" + "0" * 400, "sampling.TOP_P: got .* 401 digits; allowed"),
        ("{base}\n[sampling]\ntop_k = 1" + "0" * 400, "sampling.TOP_K: got .* 401 digits; allowed"),
        ("{base}\n[sampling]\ntop_k = 0x" + "f" * 5_000, "sampling.TOP_K: got .* 6,021 digits"),
        ("{base}\n[sampling]\ntop_p = ['" + "x" * 60_000 + "']", "must be float, got .*xxx"),
        ("reference = 'reference.wav'\ntext = 0x" + "f" * 5_000, "text must be .*a whole number"),
        ("reference = 'reference.wav'\ntext = ['" + "x" * 60_000 + "']", "text must be .*xxx"),
        ("{base}\ngpt = ['" + "x" * 60_000 + "']", "gpt must be a file name, got .*xxx"),
        ("{base}\ngpt = '" + "x/" * 20_000 + "'", "x/x/x.* can't be read: "),
        ("reference = 'reference.wav'\ntext = 'a'\nlanguage = '" + "x" * 60_000 + "'", "langu.*xx"),
        ("{base}\n" + "x" * 60_000 + " = 1", "unknown keys .*xxx"),
        ("{base}\n" + "\n".join(f"k{n} = 1" for n in range(5_000)), "unknown keys .*'k0'"),
        ("{base}\nsampling = ['" + "x" * 60_000 + "']", "sampling: got .*xxx"),
        ("{base}\n[sampling]\n" + "x" * 60_000 + " = 1", "sampling: got .*xxx"),
        ("{base}\n[references]\nx = ['" + "x" * 60_000 + "']", "references.x: got .*xxx"),
        ("{base}\n[references.x]\n" + "x" * 60_000 + " = 1", "references.x: got .*xxx"),
        ("{base}\n[references.'../x']\nreference = 'reference.wav'\ntext = 'a'", "a name is"),
        ("{base}\n[references.x]\nreference = '/dev/zero'\ntext = 'a'", "leaves"),
        ("{base}\n[references.x]\nreference = 'reference.wav'\ntext = 'a'\ngpt = 'x'", "gpt"),
        ("{base}\n[references]\nx = 3", r"references.x: got 3"),
        ("{base}\n[references.x]\nreference = 'reference.wav'", "references.x.text must be"),
        ("not toml at all", "can't be read"),
        ("x = " + "[" * 20_000, "can't be read"),
        ("x = " + "{a=" * 20_000, "can't be read"),
        (".".join("a" * 30_000) + " = 1", "can't be read: a key of 30,000 parts; allowed: up to"),
        ("#" * 70_000, "'voice.toml' has 70,000 bytes; allowed: up to 65,536"),
        ("\ud800", "can't be read"),
    ],
)  # fmt: skip
def test_hostile_and_mistaken_toml(tmp_path: Path, toml: str, message: str) -> None:
    made = make_voice(tmp_path / "voices" / "eve")
    make_voice(tmp_path / "voices" / "good")
    base = "reference = 'reference.wav'\ntext = 'a'\nlanguage = 'en'"
    content = toml.replace("{base}", base).encode("utf-8", "surrogatepass")
    (made / "voice.toml").write_bytes(content)
    with pytest.raises(VoiceError, match=message) as caught:
        load_voice(made)
    assert str(caught.value).startswith("voice eve: ")
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("key", ["gpt", "sovits", "reference"])
@pytest.mark.parametrize("file", [b"\xff.bin", b"d\xff/a.bin"])
def test_a_file_whose_name_is_not_utf8_is_refused(tmp_path: Path, key: str, file: bytes) -> None:
    """By a link with a proper name: the name of the file itself reaches lists and messages."""
    made = make_voice(tmp_path / "voices" / "eve", **{key: "link.bin"})
    odd = os.fsencode(made) + b"/" + file
    os.makedirs(os.path.dirname(odd), exist_ok=True)
    os.rename(made / "reference.wav", odd)
    os.symlink(file, made / "link.bin")
    if key != "reference":
        write_wave(made / "reference.wav")
    with pytest.raises(
        VoiceError, match=r"eve: 'link.bin' is a link to .*udcff.*; rename it"
    ) as caught:
        load_voice(made)
    str(caught.value).encode("utf-8")


def test_whatever_a_folder_does_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where reading it fails in a way that nobody has thought of."""
    for name in ("good", "odd"):
        make_voice(tmp_path / "voices" / name)
    read = folder_module.load_entry

    def failing(folder: Path) -> VoiceEntry:
        if folder.name == "odd":
            raise ZeroDivisionError("x" * 10_000)
        return read(folder)

    monkeypatch.setattr(folder_module, "load_entry", failing)
    voices, clock = folder_of(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            entries, errors = voices.scan()
            clock.now += 2
    assert [entry.base.name for entry in entries] == ["good"]
    assert len(caplog.records) == 1
    with pytest.raises(VoiceError, match="^voice odd: can't be read: ZeroDivisionError: xxx"):
        voices.get("odd")
    assert len(str(errors[0])) < 1_000


def test_an_unknown_reference_is_echoed_briefly(tmp_path: Path) -> None:
    make_voice(tmp_path / "voices" / "good")
    voices, _ = folder_of(tmp_path)
    for name in ("good/" + "x" * 1_000_000, "good/" + "\u2028" * 1_000, "\u2028" * 1_000):
        with pytest.raises(InvalidRequest, match="^VOICE: got '.*; allowed: good$") as caught:
            voices.get(name)
        assert len(str(caught.value)) < 300


def test_links_that_lead_out(tmp_path: Path) -> None:
    secret = write_wave(tmp_path / "secret.wav")
    made = make_voice(tmp_path / "voices" / "eve")
    (made / "reference.wav").unlink()
    (made / "reference.wav").symlink_to(secret)
    with pytest.raises(VoiceError, match="leaves the voice's folder"):
        load_voice(made)
    (tmp_path / "voices" / "linked").symlink_to(make_voice(tmp_path / "elsewhere"))
    with pytest.raises(VoiceError, match="leads out of the voice folder"):
        load_voice(tmp_path / "voices" / "linked")
    (made / "reference.wav").unlink()
    (made / "reference.wav").symlink_to("reference.wav")
    with pytest.raises(VoiceError, match="reference.wav"):
        load_voice(made)
    (made / "reference.wav").unlink()
    os.mkfifo(made / "reference.wav")
    with pytest.raises(VoiceError, match="is not a file"):
        load_voice(made)


def test_links_within_the_folder_are_welcome(tmp_path: Path) -> None:
    made = make_voice(tmp_path / "voices" / "eve")
    (made / "reference.wav").rename(made / "take_3.wav")
    (made / "reference.wav").symlink_to("take_3.wav")
    assert load_voice(made).reference == made / "take_3.wav"


def test_huge_files_are_refused_unread(tmp_path: Path) -> None:
    made = make_voice(tmp_path / "voices" / "eve", gpt="big.ckpt")
    with (made / "big.ckpt").open("wb") as file:
        file.truncate(5 << 30)  # sparse
    with pytest.raises(VoiceError, match="'big.ckpt' has 5,368,709,120 bytes; allowed"):
        load_voice(made)
    with (made / "reference.wav").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(VoiceError, match="'reference.wav' has"):
        load_voice(made)


def test_huge_toml_is_refused_unread(tmp_path: Path) -> None:
    made = make_voice(tmp_path / "voices" / "eve")
    with (made / "voice.toml").open("r+b") as file:
        file.truncate(100 << 20)
    with pytest.raises(VoiceError, match="'voice.toml' has 104,857,600 bytes; allowed: up to"):
        load_voice(made)


def test_many_big_recordings_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred references of the largest size would keep everybody waiting."""
    monkeypatch.setattr(voice_module, "RECORDINGS_LIMIT", 400_000)
    tables = [f"[references.r{n}]\nreference = 'reference.wav'\ntext = 'a'" for n in range(3)]
    made = make_voice(tmp_path / "voices" / "eve", "\n".join(tables))
    with pytest.raises(VoiceError, match="recordings have more than the 400,000 bytes"):
        load_voice(made)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    """Put in place of a file after it was looked at."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.wav"))
        for name in ("pipe.wav", "zero.wav", "socket.wav", "."):
            with pytest.raises(OSError, match="not a regular file|No such device|directory"):
                open_regular(tmp_path / name)
            with pytest.raises(OSError, match="not a regular file|No such device|directory"):
                read_recording(tmp_path / name, 10)


def test_pipes_and_devices_as_whole_files(tmp_path: Path) -> None:
    made = make_voice(tmp_path / "voices" / "eve", gpt="g.ckpt")
    os.mkfifo(made / "g.ckpt")
    with pytest.raises(VoiceError, match="'g.ckpt' is not a file"):
        load_voice(made)
    (made / "g.ckpt").unlink()
    (made / "g.ckpt").symlink_to("/dev/zero")
    with pytest.raises(VoiceError, match="'g.ckpt' leaves the voice's folder"):
        load_voice(made)
    piped = tmp_path / "voices" / "piped"
    piped.mkdir()
    os.mkfifo(piped / "voice.toml")
    voices, _ = folder_of(tmp_path)
    assert "piped" not in voices.names()
    with pytest.raises(InvalidRequest):
        voices.get("piped")


def test_a_slow_folder_holds_up_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reading = threading.Event(), threading.Event()
    read = folder_module.load_entry

    def slow(folder: Path) -> VoiceEntry:
        if folder.name == "slow":
            reading.set()
            assert gate.wait(10)
        return read(folder)

    monkeypatch.setattr(folder_module, "load_entry", slow)
    for name in ("slow", "quick"):
        make_voice(tmp_path / "voices" / name)
    voices, _ = folder_of(tmp_path)
    waiting = threading.Thread(target=voices.get, args=("slow",))
    waiting.start()
    assert reading.wait(10)
    assert voices.get("quick").name == "quick"
    assert waiting.is_alive()
    gate.set()
    waiting.join(10)


def test_a_voice_that_goes_away_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no broken voice: there is none of that name, or what took its place."""
    read = folder_module.load_entry
    made = make_voice(tmp_path / "voices" / "coming")
    monkeypatch.setattr(folder_module, "_REPLACING_SECONDS", 0.0)
    steps: list[str] = []

    def leaving(folder: Path) -> VoiceEntry:
        step = steps.pop(0)
        if step == "leave":
            made.rename(tmp_path / "gone")
        elif step == "replaced":
            made.rename(tmp_path / "old")
            (tmp_path / "gone").rename(made)
            raise FileNotFoundError(2, "No such file or directory", "reference.wav")
        return read(folder)

    monkeypatch.setattr(folder_module, "load_entry", leaving)
    voices, _ = folder_of(tmp_path)
    steps += ["leave"] + ["read"] * 2
    with pytest.raises(InvalidRequest, match="VOICE"):
        voices.get("coming")
    make_voice(tmp_path / "voices" / "coming")
    steps[:] = ["replaced", "read"]
    assert voices.get("coming").name == "coming"
    assert steps == []


def test_odd_things_in_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "voices"
    make_voice(root / "good")
    make_voice(root / "with space")
    make_voice(root / ".staged")
    (root / "readme.txt").write_text("x")
    (root / "empty").mkdir()
    voices, _ = folder_of(tmp_path)
    assert voices.names() == ["good"]
    entries, errors = voices.scan()
    assert len(entries) == 1
    assert "a name is letters" in str(errors[0])
    assert len(errors) == 1


def test_recordings_are_read_within_bounds(tmp_path: Path) -> None:
    path = write_wave(tmp_path / "a.wav", seconds=4)
    wave, rate = read_recording(path, 10)
    assert (len(wave), rate) == (4 * rate, 24_000)
    with pytest.raises(ValueError, match="longer than the 3 s"):
        read_recording(path, 3)
    (tmp_path / "b.wav").write_bytes(b"RIFF nonsense")
    with pytest.raises(ValueError, match="not a readable sound file"):
        read_recording(tmp_path / "b.wav", 10)
