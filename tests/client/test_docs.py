"""Every example in a docstring or in the README runs, against a fake transport."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import shlex
from pathlib import Path

import click
import numpy as np
import pytest

import gsv_client
from gsv_client import Audio, Client
from gsv_client.cli import OF_THE_BACKEND, main
from gsv_client.testing import FakeTransport

PACKAGE = Path(gsv_client.__file__).parent
README = Path(__file__).parents[2] / "client" / "README.md"
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "gsv_client.")) + [
    "gsv_client"
]
ON_THE_WIRE = 'Client("localhost:8000")'
IN_THE_TEST = 'Client(transport=__import__("gsv_client.testing").testing.FakeTransport())'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with the recording that the examples speak of."""
    monkeypatch.chdir(tmp_path)
    Audio(np.zeros(4 * 16_000), 16_000).save("voice.wav")
    return tmp_path


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        test.globs["client"] = Client(transport=FakeTransport())
        for example in test.examples:
            example.source = example.source.replace(ON_THE_WIRE, IN_THE_TEST)
        runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_there_are_examples_for_what_people_call() -> None:
    for method in (Client, Client.say, Client.stream, Client.stream_text, Client.phones, Audio):
        assert ">>>" in (method.__doc__ or ""), method


def test_the_readmes_python_runs(folder: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        assert ON_THE_WIRE in block
        exec(compile(block.replace(ON_THE_WIRE, IN_THE_TEST), "README.md", "exec"), {})
    assert Audio.read(folder / "hello.wav").duration > 0
    assert Audio.read(folder / "nihao.flac").rate == 48_000


def _command_lines() -> list[list[str]]:
    text = README.read_text(encoding="utf-8")
    for name in main.list_commands(click.Context(main)):
        if name not in OF_THE_BACKEND:
            command = main.get_command(click.Context(main), name)
            assert command is not None
            text += f"```bash\n{command.help}\n```"
    shown = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    found = re.findall(r"(?:^|\| )\s*gsv (?!-)(.*)$", shown, re.MULTILINE)
    return [shlex.split(line.split("|")[0].split(" #")[0]) for line in found]


def test_the_command_lines_shown_are_right() -> None:
    """Each parses: no option that has been renamed is still being taught."""
    shown = _command_lines()
    assert len(shown) > 10
    for arguments in shown:
        group, context = main, click.Context(main)
        while isinstance(group, click.Group):
            command = group.get_command(context, arguments[0])
            assert command is not None, arguments
            group, arguments = command, arguments[1:]
        group.make_parser(context).parse_args(list(arguments))


def test_the_errors_of_the_readme_exist() -> None:
    text = README.read_text(encoding="utf-8")
    paragraph = text.split("Errors are subclasses", 1)[1].split("##")[0]
    for name in re.findall(r"`(\w+)`", paragraph):
        assert hasattr(gsv_client, name), name


def test_what_is_public_is_exported_and_sorted() -> None:
    assert gsv_client.__all__ == sorted(gsv_client.__all__)
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    imported = {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert imported == set(gsv_client.__all__)
