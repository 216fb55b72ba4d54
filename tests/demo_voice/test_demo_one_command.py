"""The one command, and the bundle that travels."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from pathlib import Path

import bundle
import click
import codes
import corpus
import places
import pytest
import teachers
import train_all

STUB = """\
import os, pathlib, sys, time
run = pathlib.Path(os.environ["DEMO_VOICE_RUN"])
name = pathlib.Path(__file__).stem
with (run / "calls").open("a") as file:
    file.write(" ".join([name, *sys.argv[1:]]) + "\\n")
(run / f"{name}.json").write_text('{"step": 1}')
if name == "codes":
    (run / "corpus_tokens.npz").touch()
if name == os.environ.get("STUB_FAILS"):
    sys.exit(3)
if name == os.environ.get("STUB_WAITS"):
    time.sleep(60)
"""


@pytest.fixture
def stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scripts that write down how they were called stand for the steps; the run's folder."""
    tools, run = tmp_path / "tools", tmp_path / "run"
    tools.mkdir()
    run.mkdir()
    for step in ("corpus", "codes", "export", *train_all.SHARES):
        (tools / f"{step}.py").write_text(STUB)
    monkeypatch.setattr(train_all, "TOOLS", tools)
    monkeypatch.setattr(places, "RUN", run)
    return run


def called(*arguments: str) -> None:
    train_all.main.main(list(arguments), standalone_mode=False)


def calls(run: Path) -> list[list[str]]:
    return [line.split() for line in (run / "calls").read_text().splitlines()]


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


def test_on_a_processor_steps_get_their_shares_in_turn(stubs: Path) -> None:
    called("--minutes", "100", "--count", "7", "--out", str(stubs / "out"))
    made = calls(stubs)
    assert [call[0] for call in made] == ["corpus", "codes", *train_all.SHARES, "export"]
    assert option(made[0], "--count") == "7"
    minutes = {call[0]: float(option(call, "--minutes")) for call in made[2:-1]}
    assert minutes == {step: 100 * share for step, share in train_all.SHARES.items()}
    assert sum(train_all.SHARES.values()) == pytest.approx(1.0)


def test_on_a_gpu_all_steps_end_at_the_same_time(stubs: Path) -> None:
    called("--device", "cuda", "--minutes", "9", "--out", str(stubs / "out"))
    made = {call[0]: call for call in calls(stubs)}
    assert set(made) == {"corpus", "codes", "export", *train_all.SHARES}
    for step in train_all.SHARES:
        assert option(made[step], "--device") == "cuda"
        minutes = float(option(made[step], "--minutes"))
        # HuBERT has learned what it can long before.
        assert 0.4 * 8.4 < minutes < 0.4 * 8.7 if step == "hubert" else 8.4 < minutes < 8.7
    # The full adversary, which a GPU's default is, would leave the others little of it.
    assert option(made["vocoder"], "--adversary") == "light"


def test_a_failed_step_stops_the_others(stubs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUB_FAILS", "vocoder")
    monkeypatch.setenv("STUB_WAITS", "sovits")
    with pytest.raises(click.ClickException, match="vocoder failed"):
        called("--device", "cuda", "--minutes", "9", "--out", str(stubs / "out"))
    assert "export" not in {call[0] for call in calls(stubs)}


def test_tokens_that_are_there_are_kept(stubs: Path) -> None:
    (stubs / "corpus_tokens.npz").touch()
    called("--steps", "2", "--out", str(stubs / "out"))
    made = calls(stubs)
    assert "codes" not in {call[0] for call in made}
    assert {option(call, "--steps") for call in made[1:-1]} == {"2"}


def test_a_bundled_run_is_the_same_run(
    run: Path, toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, tokens and codebook travel; the waves are spoken again and come out the same."""
    from toy_teachers import ToyTeacher

    packed = tmp_path / "bundle"
    packed.mkdir()
    bundle.pack_rows(packed / "rows.tar.xz")
    with tarfile.open(packed / "rows.tar.xz") as archive:
        names = archive.getnames()
    assert "codebook.npz" in names
    assert not [name for name in names if name.endswith((".npy", ".pt"))]
    bundle._pack(packed / "engines.tar.xz", {"bin/nothing": Path(__file__)})
    other = tmp_path / "other"
    monkeypatch.setattr(places, "RUN", other)
    environment = train_all.prepare(packed)
    assert environment["DEMO_VOICE_ENGINES"] == str(other / "engines")
    assert str(other / "site") in environment["PYTHONPATH"].split(os.pathsep)
    toys = {"slt": ToyTeacher(200.0), "rms": ToyTeacher(110.0)}
    monkeypatch.setattr(
        corpus, "TEACHERS", {name: teachers.Teacher(name, toy) for name, toy in toys.items()}
    )
    assert [corpus.speak_again(*part) for part in corpus.parts()] == [0] * 6
    remade = codes.read("corpus")
    monkeypatch.setattr(places, "RUN", toy_run)
    before = codes.read("corpus")
    assert remade.texts == before.texts
    assert all((remade.waves[i] == before.waves[i]).all() for i in range(len(before)))
    assert all((remade.mels[i] == before.mels[i]).all() for i in range(len(before)))


def test_without_a_corpus_nothing_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "RUN", tmp_path)
    with pytest.raises(click.ClickException, match=r"run corpus.py and codes.py first"):
        bundle.pack_rows(tmp_path / "rows.tar.xz")


def test_programs_bring_their_libraries() -> None:
    found = [path.name for path in bundle.libraries(Path(sys.executable))]
    assert any(name.startswith("ld-linux") for name in found)
    assert "libc.so.6" in found


def test_a_packed_program_runs_by_its_own_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``true`` stands for Festival."""
    import subprocess

    program = Path(shutil.which("true") or "/bin/true")
    members = {"bin/festival": program, "bin/flite": program}
    members |= {f"lib/{path.name}": path for path in bundle.libraries(program)}
    bundle._pack(tmp_path / "engines.tar.xz", members)
    with tarfile.open(tmp_path / "engines.tar.xz") as archive:
        archive.extractall(tmp_path / "engines", filter="data")
    monkeypatch.setenv("DEMO_VOICE_ENGINES", str(tmp_path / "engines"))
    for name in bundle.PROGRAMS:
        command = teachers._engine(name)
        assert command[0] == str(tmp_path / "engines" / "lib" / "ld-linux-x86-64.so.2")
        assert subprocess.run(command, check=False).returncode == 0
    monkeypatch.delenv("DEMO_VOICE_ENGINES")
    assert teachers._engine("festival") == ["festival"]
