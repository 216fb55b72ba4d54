"""Commands that other packages bring, found through real entry points of a made-up package."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gsv_client.cli import main
from gsv_client.cli.plugins import GsvGroup, points

MODULE = """
import click
from gsv_client.doctor import Finding

@click.command(help="Make tea.")
@click.option("--milk", is_flag=True)
def tea(milk):
    click.echo(f"tea, milk: {milk}")

@click.command("list", help="List the folder.")
@click.option("--folder", default="voices")
@click.option("--json", "as_json", is_flag=True)
def list_folder(folder, as_json):
    click.echo(f"folder {folder} {as_json}")

@click.command(help="Add a voice.")
@click.argument("name")
def add(name):
    click.echo(f"added {name}")

def check(repository, voices):
    yield Finding("warning", "tea", f"cold in {repository}, {voices}", "heat it")

def broken(repository, voices):
    raise ValueError("no\\nidea")

no_command = 3
"""
Install = Callable[[dict[str, dict[str, str]]], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package with entry points: group → name → `module:attribute`."""

    def install(groups: dict[str, dict[str, str]]) -> None:
        site = tmp_path / "site"
        info = site / "gsv_test_plugin-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "gsv_test_plugin.py").write_text(MODULE, encoding="utf-8")
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: gsv-test-plugin\nVersion: 1.0\n"
        )
        lines = [
            line
            for group, found in groups.items()
            for line in (f"[{group}]", *(f"{n} = gsv_test_plugin:{a}" for n, a in found.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(str(site))

    return install


def run(*arguments: str, group: click.Group = main) -> tuple[int, str, str]:
    result = CliRunner().invoke(group, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_a_command_of_another_package(install: Install) -> None:
    install({"gsv.commands": {"tea": "tea"}})
    assert run("tea", "--milk") == (0, "tea, milk: True\n", "")
    assert "Make tea." in run("--help")[1]


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (
            "missing",
            "Error: `main tea` can't be loaded from gsv_test_plugin:missing: AttributeError",
        ),
        (
            "no_command",
            "Error: `main tea` can't be loaded: gsv_test_plugin:no_command is not a click command",
        ),
    ],
)
def test_one_that_cannot_be_loaded_hurts_only_itself(
    install: Install, attribute: str, message: str
) -> None:
    install({"gsv.commands": {"tea": attribute}})
    code, out, err = run("tea", "--whatever", "it", "is")
    assert (code, out) == (1, "")
    assert err.startswith(message)
    code, out, _ = run("--help")
    assert (code, "say" in out) == (0, True)


def test_our_own_commands_cannot_be_replaced(install: Install) -> None:
    install({"gsv.commands": {"say": "tea"}})
    assert "Speak TEXT" in run("say", "--help")[1]


def test_the_backends_absence_is_explained() -> None:
    @click.group(
        cls=GsvGroup,
        of_the_backend={"prepare": "Build a repository."},
        entry_points="gsv.test_nothing_here",
    )
    def bare() -> None:
        """Nothing."""

    assert "Build a repository. (needs the backend package)" in run("--help", group=bare)[1]
    code, out, err = run("prepare", "--demo", "tiny", group=bare)
    assert (code, out) == (1, "")
    assert err == (
        "Error: `bare prepare` belongs to the backend, which is not installed here; "
        "install the backend package beside the client: pip install ./backend\n"
    )


def test_each_entry_point_once(install: Install) -> None:
    install({"gsv.commands": {"tea": "tea"}})
    assert [point.name for point in points("gsv.commands")].count("tea") == 1
    assert points("gsv.nothing") == []


def test_voices_of_a_folder_and_of_a_server_in_one_command(
    install: Install, http_address: str
) -> None:
    install({"gsv.voices": {"list": "list_folder", "add": "add"}})
    assert run("voices", "add", "alice") == (0, "added alice\n", "")
    assert run("voices", "list", "--folder", "here", "--json") == (0, "folder here True\n", "")
    code, out, _ = run("voices", "list", "--url", http_address, "--json")
    assert (code, json.loads(out)[0]["name"]) == (0, "爱丽丝")
    assert run("voices", "list", "--url", http_address)[1].startswith("NAME")
    out = run("voices", "list", "--help")[1]
    assert "--folder" in out
    assert "--url" in out
    assert "With --url it asks that server instead of a folder." in out
    assert out.count("--json") == 1


def test_checks_of_another_package(install: Install, tmp_path: Path) -> None:
    install({"gsv.doctor": {"tea": "check", "broken": "broken"}})
    (tmp_path / "repository").mkdir()
    code, out, _ = run("doctor", "--repository", str(tmp_path / "repository"), "--json")
    found = {finding["subject"]: finding for finding in json.loads(out)}
    assert code == 1
    assert found["tea"]["level"] == "warning"
    assert found["tea"]["message"] == f"cold in {tmp_path / 'repository'}, None"
    assert found["broken"]["message"] == "the check itself failed: ValueError: no idea"
    assert "server" not in found
