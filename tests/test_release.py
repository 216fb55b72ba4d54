"""One version everywhere, and wheels of both packages that work in an environment of their own."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import gsv
import gsv_client

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

import set_version  # noqa: E402

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
FOUND = "import importlib.util as u; there = lambda name: u.find_spec(name) is not None"
CARRIED = ("backend", "client", "model_repository", "voices")


def test_one_version_everywhere() -> None:
    versions = set_version.found()
    assert {version for there in versions.values() for version in there} == {gsv.__version__}
    assert gsv.__version__ == gsv_client.__version__
    assert {"docker/Dockerfile", "docker/compose.yaml"} <= set(versions)


def test_releases_in_the_changelog_come_newest_first() -> None:
    heads = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert heads[0] == "Unreleased"
    released = [tuple(map(int, re.findall(r"\d+", head)[:3])) for head in heads[1:]]
    assert released == sorted(released, reverse=True)


def test_the_tool_writes_and_checks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for glob, _, _ in set_version.PLACES:
        for path in ROOT.glob(glob):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    monkeypatch.setattr(set_version, "ROOT", tmp_path)
    assert set_version.main([]) == 0
    assert set_version.main(["7.8.9rc1"]) == 0
    assert set().union(*set_version.found().values()) == {"7.8.9rc1"}
    compose = (tmp_path / "docker" / "compose.yaml").read_text()
    assert compose.count("gpt-sovits-triton:7.8.9rc1") == 2
    assert set_version.main(["new"]) == 1
    client = tmp_path / "client" / "gsv_client" / "__init__.py"
    client.write_text(client.read_text().replace("7.8.9rc1", "7.8.8"))
    assert set_version.main([]) == 1


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels of both packages, by the name of the package's folder."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in CARRIED:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    made = {}
    for name in ("client", "backend"):
        build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder / name)]
        subprocess.run([*PIP, *build, str(folder / "source" / name)], check=True)
        (made[name],) = (folder / name).glob("*.whl")
    return made


def environment(folder: Path, *wheels: Path) -> Path:
    """The program folder of an environment that holds wheels, what they ask for, and no more.

    What they ask for are links to the packages of the running environment, without its others.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    install = ["install", "--no-deps", *map(str, wheels)]
    subprocess.run([*PIP, "--python", str(folder / "bin" / "python"), *install], check=True)
    purelib = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    )
    own = {canonicalize_name(d.name): d for d in importlib.metadata.distributions(path=[purelib])}
    todo, asked = [(name, "") for name in own], set[tuple[str, str]]()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in asked:
            continue
        asked.add((name, extra))
        distribution = own.get(name) or importlib.metadata.distribution(name)
        if name not in own:
            link(distribution, purelib)
        for requirement in map(Requirement, distribution.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                inner = canonicalize_name(requirement.name)
                todo += [(inner, inner_extra) for inner_extra in ("", *requirement.extras)]
    return folder / "bin"


def link(distribution: importlib.metadata.Distribution, purelib: Path) -> None:
    """Links to everything of a distribution that can be imported."""
    for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        if not (purelib / name).exists():  # namespace packages share a folder
            (purelib / name).symlink_to(Path(str(distribution.locate_file(name))))


def run(program: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, cwd=program.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_wheels_work_with_what_they_ask_for(wheels: dict[str, Path], tmp_path: Path) -> None:
    programs = environment(tmp_path / "environment", *wheels.values())
    where = "import gsv, gsv_client; print(gsv.__file__); print(gsv_client.__file__)"
    for path in run(programs / "python", "-I", "-c", where).split():
        assert Path(path).is_relative_to(tmp_path)
    assert gsv.__version__ in run(programs / "gsv", "--version")
    for command in ("say", "prepare", "serve", "voices", "doctor", "bench", "gateway", "phones"):
        assert "Usage" in run(programs / "gsv", command, "--help")
    repository = tmp_path / "repository"
    run(programs / "gsv", "prepare", "--demo", "tiny", "--out", repository)
    assert len(list(repository.glob("*/config.pbtxt"))) == len(
        list((ROOT / "model_repository").glob("*/config.pbtxt"))
    )
    assert (tmp_path / "voices" / "sample" / "voice.toml").is_file()
    # What no dependency brings along is not there by chance either.
    assert run(programs / "python", "-c", f"{FOUND}; print(there('fastapi'), there('torch'))") == (
        "False True\n"
    )


def test_the_clients_wheel_works_alone(wheels: dict[str, Path], tmp_path: Path) -> None:
    programs = environment(tmp_path / "environment", wheels["client"])
    assert run(programs / "python", "-c", f"{FOUND}; print(there('gsv'), there('torch'))") == (
        "False False\n"
    )
    assert gsv.__version__ in run(programs / "gsv", "--version")
    for command in ("say", "doctor", "bench", "gateway", "phones", "probe"):
        assert "Usage" in run(programs / "gsv", command, "--help")
    speak = "from gsv_client import Client; from gsv_client.testing import FakeTransport as T; "
    speak += "print(Client(transport=T()).say('Hello.').duration)"
    assert run(programs / "python", "-c", speak) == "0.6\n"
    for url in ("localhost:1", "grpc://localhost:1"):
        done = subprocess.run(
            [programs / "gsv", "probe", "--url", url], capture_output=True, text=True
        )
        assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
        assert "localhost:1" in done.stdout + done.stderr
