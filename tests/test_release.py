"""One version everywhere, and wheels of both packages that work in an environment of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

import gsv
import gsv_client

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

import set_version  # noqa: E402

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
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program folder of an environment into which both wheels were installed.

    Dependencies are those of the running environment, whose editable installs don't count there.
    """
    folder = tmp_path_factory.mktemp("wheels")
    for name in CARRIED:
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheels = folder / "wheels"
    sources = [str(folder / "source" / name) for name in ("client", "backend")]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), *sources]
    subprocess.run([*pip, *build], check=True)
    made = folder / "environment"
    venv.create(made, symlinks=True, with_pip=False)
    install = ["install", "--no-deps", *map(str, sorted(wheels.glob("*.whl")))]
    subprocess.run([*pip, "--python", str(made / "bin" / "python"), *install], check=True)
    purelib = sysconfig.get_path("purelib", vars={"base": str(made), "platbase": str(made)})
    # Sorted after ours; .pth files in a folder that one names are not read.
    (Path(purelib) / "dependencies.pth").write_text(f"{Path(click_folder()).parent}\n")
    return made / "bin"


def click_folder() -> str:
    """Where the dependencies are installed."""
    import click

    return str(Path(click.__file__).parent)


def run(program: Path, *arguments: str | Path) -> str:
    done = subprocess.run(
        [str(program), *map(str, arguments)], capture_output=True, text=True, cwd=program.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheels_work_by_themselves(installed: Path, tmp_path: Path) -> None:
    where = "import gsv, gsv_client; print(gsv.__file__); print(gsv_client.__file__)"
    for path in run(installed / "python", "-I", "-c", where).split():
        assert Path(path).is_relative_to(installed.parent)
    assert gsv.__version__ in run(installed / "gsv", "--version")
    for command in ("say", "prepare", "serve", "voices", "doctor", "bench", "gateway", "phones"):
        assert "Usage" in run(installed / "gsv", command, "--help")
    repository = tmp_path / "repository"
    run(installed / "gsv", "prepare", "--demo", "tiny", "--out", repository)
    assert len(list(repository.glob("*/config.pbtxt"))) == len(
        list((ROOT / "model_repository").glob("*/config.pbtxt"))
    )
    assert (tmp_path / "voices" / "sample" / "voice.toml").is_file()
