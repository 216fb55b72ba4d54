"""Environments: which packages they hold, what they look like, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gsv.commands.prepare import prepare
from gsv.errors import ConfigurationError
from gsv.packing import packages
from gsv.packing.environment import Choices, check_place, pack, point_models_at
from gsv.packing.interpreter import RUNNING, VERSIONS, Interpreter
from gsv.packing.packages import Package

OTHER = next(version for version in VERSIONS if version != RUNNING)


@pytest.fixture
def few_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one small package, so that a test takes no time."""
    found = {package.name: package for package in packages.needed()}
    few = [found["click"]]
    monkeypatch.setattr(packages, "needed", lambda folders=None, python=RUNNING: few)


def run(program: Path, code: str) -> str:
    """Output of code in an environment, with nothing else on the paths."""
    library = program.parent.parent / "lib"
    done = subprocess.run(
        [str(program), "-c", code],
        env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(library)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_environment_is_a_python_of_its_own(few_packages: None, tmp_path: Path) -> None:
    lines: list[str] = []
    made = tmp_path / "made"
    pack(made, Choices(links=True), replace=False, report=lines.append)
    moved = made.rename(tmp_path / "moved")
    code = (
        "import sys, bz2, ctypes, hashlib, lzma, sqlite3, ssl, zlib, click, gsv;"
        "print(sys.prefix, gsv.__file__, click.__file__, *sys.path)"
    )
    for program in ("python3", "python", f"python{RUNNING}"):
        for path in run(moved / "bin" / program, code).split():
            assert Path(path).is_relative_to(moved), path
    about = json.loads((moved / "environment.json").read_text())
    assert about["python"] == RUNNING
    assert list(about["packages"]) == ["click"]
    assert about["bytes"] > 10_000_000
    assert about["glibc"].startswith("2.")
    assert any("needs glibc 2." in line for line in lines)
    assert (moved / "lib" / f"libpython{RUNNING}.so.1.0").is_file()
    assert not list(moved.glob("lib/python3*/test"))
    assert [p.name for p in tmp_path.iterdir()] == ["moved"]


def test_activation_puts_the_environment_first(few_packages: None, tmp_path: Path) -> None:
    made = tmp_path / "made"
    pack(made, Choices(links=True), replace=False, report=lambda line: None)
    script = "source made/bin/activate && command -v python3 && echo ${PYTHONPATH-none} $PWD"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "/somewhere", "PYTHONHOME": "/else"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(made / "bin" / "python3"), "none", str(tmp_path)]


def test_what_stands_in_the_way(few_packages: None, tmp_path: Path) -> None:
    say = lambda line: None  # noqa: E731
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="exists already"):
        pack(mine, Choices(links=True), replace=False, report=say)
    with pytest.raises(ConfigurationError, match="not an environment that gsv made"):
        pack(mine, Choices(links=True), replace=True, report=say)
    assert (mine / "letter.txt").read_text() == "dear"
    with pytest.raises(ConfigurationError, match="without spaces"):
        pack(tmp_path / "my python", Choices(links=True), replace=False, report=say)
    pack(tmp_path / "env", Choices(links=True), replace=False, report=say)
    (tmp_path / "env" / "old").touch()
    pack(tmp_path / "env", Choices(links=True), replace=True, report=say)
    assert not (tmp_path / "env" / "old").exists()
    with pytest.raises(ConfigurationError, match="every folder for a model"):
        check_place(tmp_path / "repository" / "env", tmp_path / "repository")
    check_place(tmp_path / "repository-env", tmp_path / "repository")


def test_what_serving_needs_is_the_closure_of_what_we_ask_for() -> None:
    found = {package.name: package for package in packages.needed()}
    assert {"torch", "transformers", "numpy", "tritonclient", "grpcio", "regex"} <= set(found)
    assert not {"pytest", "mypy", "nvidia-pytriton", "fastapi", "gsv", "gsv-client"} & set(found)
    names = {name for _, name in found["torch"].files}
    assert "torch/__init__.py" in names
    assert "torch/bin/torch_shm_manager" in names
    assert not [name for name in names if name.startswith(("..", "torch/include/", "torch/test/"))]
    assert any(name.endswith(".dist-info/METADATA") for _, name in found["numpy"].files)


def test_another_python_needs_other_packages() -> None:
    wanted = {r.name for r, must in packages._own_requirements("3.10") if must}
    assert "tomli" in wanted
    assert "tomli" not in {r.name for r, must in packages._own_requirements("3.12") if must}


def test_a_package_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not installed, and the server needs it"):
        packages.needed([str(tmp_path)])


def test_pythons_that_are_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"got '3\.8'; allowed: 3\.10, 3\.11, 3\.12"):
        Interpreter.find("3.8")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=f"no Python {OTHER} on this machine"):
        Interpreter.find(OTHER)
    fake = tmp_path / f"python{OTHER}"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    for wanted in (OTHER, str(fake)):
        with pytest.raises(ConfigurationError, match="not a Python that runs: exit code 3"):
            Interpreter.find(wanted)
    assert Interpreter.find(sys.executable).version == RUNNING


def test_a_python_without_a_shared_library(tmp_path: Path) -> None:
    answer = {"version": "3.10", "executable": "/x", "standard_library": "/x", "library": ""}
    program = tmp_path / "python3.10"
    program.write_text(f"#!{sys.executable}\nprint({json.dumps(answer)!r})\n")
    program.chmod(0o755)
    with pytest.raises(ConfigurationError, match=r"libpython3\.10\.so\.1\.0"):
        Interpreter.at(program)


def test_a_python_that_uv_knows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\n[ "$1 $2" = "python find" ] && echo {tmp_path}/found\n')
    found = tmp_path / "found"
    answer = {
        "version": OTHER,
        "executable": "/x/python",
        "standard_library": "/x/lib",
        "headers": "/x/include",
        "library": "/x/libpython.so",
        "debian": False,
    }
    found.write_text(f"#!{sys.executable}\nprint({json.dumps(answer)!r})\n")
    for program in (uv, found):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))  # the machine may have that Python
    assert Interpreter.find(OTHER).executable == Path("/x/python")


def test_every_python_model_is_pointed_at_the_environment(tmp_path: Path) -> None:
    for name, content in {
        "voices": 'backend: "python"\nparameters [ { key: "a" value: { string_value: "b" } } ]\n',
        "pipeline": 'platform: "ensemble"\n',
    }.items():
        (tmp_path / "repository" / name).mkdir(parents=True)
        (tmp_path / "repository" / name / "config.pbtxt").write_text(content)
    folder = tmp_path / "python"
    for _ in range(2):
        assert point_models_at(tmp_path / "repository", folder) == ["voices"]
    config = (tmp_path / "repository" / "voices" / "config.pbtxt").read_text()
    assert config.splitlines()[1:] == [
        'parameters [ { key: "a" value: { string_value: "b" } } ]',
        'parameters { key: "EXECUTION_ENV_PATH" value: '
        '{ string_value: "$$TRITON_MODEL_DIRECTORY/../../python" } }',
    ]
    assert point_models_at(tmp_path / "repository", tmp_path / "other" / "env") == ["voices"]
    config = (tmp_path / "repository" / "voices" / "config.pbtxt").read_text()
    assert config.count("EXECUTION_ENV_PATH") == 1
    assert "$$TRITON_MODEL_DIRECTORY/../../other/env" in config
    assert "ensemble" in (tmp_path / "repository" / "pipeline" / "config.pbtxt").read_text()


def test_links_cost_nothing_and_copies_are_independent(
    few_packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "click.py"
    source.write_text("")
    few = [Package("click", "1", ((source, "click.py"),))]
    monkeypatch.setattr(packages, "needed", lambda folders=None, python=RUNNING: few)
    for links in (True, False):
        folder = tmp_path / f"env-{links}"
        pack(folder, Choices(links=links), replace=False, report=lambda line: None)
        (module,) = folder.glob("lib/python3*/*-packages/click.py")
        assert os.path.samefile(module, source) is links


def test_packages_that_pip_can_not_have(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    choices = Choices(torch_index=f"file://{tmp_path}/nothing", links=True)
    with pytest.raises(ConfigurationError, match="-m pip: ERROR: .*torch"):
        pack(tmp_path / "env", choices, replace=False, report=lambda line: None)
    assert list(tmp_path.iterdir()) == []


def test_options_of_the_command(tmp_path: Path) -> None:
    out = tmp_path / "repository"
    runner = CliRunner()
    result = runner.invoke(prepare, ["--demo", "tiny", "--out", str(out), "--python", "3.12"])
    assert result.exit_code == 2
    assert "are for --pack-env" in result.output
    result = runner.invoke(
        prepare, ["--demo", "tiny", "--out", str(out), "--pack-env", str(out / "python")]
    )
    assert result.exit_code == 1
    assert "Triton takes every folder for a model" in result.output
    assert not out.exists()
