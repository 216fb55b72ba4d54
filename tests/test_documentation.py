"""The documentation keeps what it promises: tables, links, commands, snippets, names."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest

from gsv.voices.voice import SAMPLING_TYPES, load_entry
from gsv_client import Audio
from gsv_client.cli import main as gsv
from gsv_client.testing import FakeTransport

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import docs_tables  # noqa: E402

READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [
    *READMES,
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "examples" / "README.md",
    ROOT / "client" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
each_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
SOURCE_FOLDERS = ("backend", "client", "tools", "tests", "docker", "examples", ".ci")


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```(?:{'|'.join(languages)})\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_lines(path: Path) -> Iterator[str]:
    """The command lines of a page, continued ones joined."""
    for block in blocks(path, "sh", "bash"):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())


# Tables


def test_generated_tables_are_fresh() -> None:
    for page in {page for page, _ in docs_tables.BLOCKS}:
        text = (docs_tables.DOCS / page).read_text(encoding="utf-8")
        assert docs_tables.updated(page, text) == text, "run python tools/docs_tables.py"


def test_every_model_and_parameter_is_explained() -> None:
    models = {path.parent.name for path in docs_tables.REPOSITORY.glob("*/config.pbtxt")}
    assert models == set(docs_tables.MODELS)
    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for model in models:
        assert f"| `{model}` |" in architecture, model
        text = docs_tables.config_text(model)
        for name in docs_tables.parsed(model).parameters:
            meaning = docs_tables.comment_above(f'key: "{name}"', text)
            assert len(meaning) > 10, f"{model}: {name} has no comment of its own"


def test_every_public_tensor_is_explained() -> None:
    rows = re.findall(r"^\| `.*$", docs_tables.tensors(), re.MULTILINE)
    assert len(rows) > 15
    assert [row for row in rows if row.split("|")[-2].strip() == ""] == []


def sources() -> Iterator[tuple[Path, str]]:
    """Files that may read the environment."""
    paths = [p for folder in SOURCE_FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()]
    for path in (ROOT / "Makefile", *paths):
        if path.suffix in (".py", ".sh", ".yaml", ".c", "") and path.name != "docs_tables.py":
            try:
                yield path, path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # built, not written


def read_variables(text: str) -> set[str]:
    """Names of environment variables that a source reads."""
    name = r"[A-Z][A-Z0-9_]+"
    found = set(re.findall(rf'environ(?:\.get|\.setdefault)?[(\[]\s*"({name})"', text))
    found |= set(re.findall(rf'"({name})" (?:not )?in os\.environ', text))
    found |= set(re.findall(rf'(?:envvar=|getenv\()"({name})"', text))
    found |= set(re.findall(rf"\$\{{({name}):-", text))
    for line in re.findall(r"^export ([A-Z_ ]+)$", text, re.MULTILINE):
        found |= set(line.split())
    for constant in re.findall(rf"environ\.get\(({name})\)", text):
        found |= set(re.findall(rf'^{constant} = "({name})"', text, re.MULTILINE))
    return found


def test_every_environment_variable_is_listed() -> None:
    known = set(docs_tables.VARIABLES)
    everything = ""
    for path, text in sources():
        if path != Path(__file__):
            found = read_variables(text)
            if path.is_relative_to(ROOT / "tests"):
                # What a test does inside, such as for a program that it stands in for, is its own.
                found = {name for name in found if name.startswith("GSV_")}
            assert found <= known, path
            everything += text
    everything += (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert [name for name in known if name not in everything] == [], "nothing reads these"


def test_reading_the_environment_is_noticed() -> None:
    text = 'os.environ["A_B"], os.environ.get("C_D"), envvar="E_F", "G_H" in os.environ ${I_J:-x}'
    assert read_variables(text) == {"A_B", "C_D", "E_F", "G_H", "I_J"}


def test_every_metric_is_explained_and_exists() -> None:
    source = (ROOT / "backend/gsv/serving/backend/metrics.py").read_text(encoding="utf-8")
    told = {name for name in re.findall(r'"(gsv_\w+)"', source)}
    for group in re.findall(r'name=f"gsv_(\w+)_\{', source):
        told |= {f"gsv_{group}_*"}
    pages = "".join(
        (ROOT / "docs" / page).read_text(encoding="utf-8")
        for page in ("operations.md", "voices.md")
    )
    shown = set(re.findall(r"`(gsv_\w+)`", pages)) - {"gsv_client"}
    assert {name for name in told if "*" not in name} <= shown
    for name in shown:
        group = re.sub(r"^(gsv_[a-z]+)_.*", r"\1_*", name)
        assert name in told or group in told, name


# Links, names and commands


# What starts a thread; the name is a keyword, else the first argument.
STARTERS = {"Thread", "ThreadPoolExecutor", "EngineThread", "BatchQueue", "CallPool", "WeightCache"}
NAME_KEYWORDS = {"name", "thread_name_prefix"}


def thread_names(source: str) -> Iterator[str]:
    """Names of the threads that a module starts, as far as they are written there."""
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute))):
            continue
        starter = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        if starter not in STARTERS:
            continue
        given = [keyword.value for keyword in node.keywords if keyword.arg in NAME_KEYWORDS]
        for value in given or node.args[:1]:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                ending = "-engine" if starter == "EngineThread" else ""
                yield value.value.replace(" ", "-") + ending


def test_every_thread_is_in_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = {
        name
        for path in (ROOT / "backend" / "gsv").rglob("*.py")
        for name in thread_names(path.read_text(encoding="utf-8"))
    }
    assert {"token-feed", "semantic-GPT-engine", "conditions", "voices-gpt", "speech"} <= names
    assert [name for name in sorted(names) if not re.search(rf"`{name}(_[0N])?`", page)] == []


@each_page
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in re.findall(
        r"\]\((?!http)([^)#\s]*)(?:#([^)\s]+))?\)", path.read_text(encoding="utf-8")
    ):
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), f"{target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@each_page
def test_files_that_are_named_exist(path: Path) -> None:
    folders = "tools|tests|backend|client|deploy|docker|benchmarks|examples|docs|model_repository"
    text = path.read_text(encoding="utf-8")
    for named in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]+\w", text):
        assert (ROOT / named).exists(), named


@each_page
def test_modules_that_are_run_exist(path: Path) -> None:
    for module in re.findall(r"python -m (gsv[\w.]*)", path.read_text(encoding="utf-8")):
        assert importlib.util.find_spec(module), module


@each_page
def test_make_targets_exist(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in shell_lines(path):
        if target := re.match(r"make (\w+)", line):
            assert re.search(rf"^{target[1]}:", makefile, re.MULTILINE), line


@each_page
def test_command_lines_parse(path: Path) -> None:
    """Each ``gsv`` line shown: the command is there, and so is every option."""
    for line in shell_lines(path):
        for part in line.split(" | "):
            words = shlex.split(part, comments=True)
            if words[:1] == ["gsv"]:
                parse(words[1:])


def parse(arguments: list[str]) -> None:
    group: click.Command = gsv
    context = click.Context(gsv)
    while isinstance(group, click.Group):
        command = group.get_command(context, arguments[0])
        assert command is not None, arguments
        group, arguments = command, arguments[1:]
        context = click.Context(group, info_name=group.name)
    group.make_parser(context).parse_args(list(arguments))


def test_of_every_command_for_operators_is_said_whether_it_was_run() -> None:
    page = ROOT / "docs" / "operations.md"
    section = page.read_text(encoding="utf-8").partition("\n## What was run\n")[2]
    rows = re.findall(r"^\| (`.*?) \| (.+) \|$", section, re.MULTILINE)
    told = [shlex.split(code) for row, _ in rows for code in re.findall(r"`([^`]+)`", row)]
    commands = [words for line in shell_lines(page) if (words := shlex.split(line))]
    assert len(commands) > 10
    for words in commands:
        given = {word.partition("=")[0] for word in words} | set(words)
        # The longest row whose words the command has: a program and its options.
        assert any(len(row) > 1 and row[:2] == words[:2] and set(row) <= given for row in told), (
            words
        )


def test_the_pages_show_commands() -> None:
    lines = [line for path in PAGES for line in shell_lines(path) if line.startswith("gsv ")]
    assert len(lines) > 30


TRITONS_OWN = (
    "Stub process", "is not healthy", "Address already in use", "HandleCancellation called",
    "Socket closed",
)  # fmt: skip


def test_the_messages_of_the_troubleshooting_page_exist() -> None:
    code = "".join(text for _, text in sources())
    code = re.sub(r'"\s*\n\s*f?"', "", code).replace("`", "")  # strings that go on in the next line
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*?) \|", page, re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    fragments = [part.strip() for message in messages for part in message.split("…")]
    long_ones = [part for part in fragments if len(part) > 10 and not part.endswith(TRITONS_OWN)]
    assert len(long_ones) > 12
    for fragment in long_ones:
        assert fragment in code or fragment.startswith(TRITONS_OWN), fragment


# Snippets


@each_page
def test_python_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if path.name.startswith("gateway"):
        return  # its examples talk with a gateway: tests/gateway/test_gateway_docs.py runs them
    monkeypatch.chdir(tmp_path)
    Audio(np.zeros(4 * 16_000), 16_000).save("voice.wav")
    monkeypatch.setattr("gsv_client.client.open_transport", lambda *_: FakeTransport())
    for block in blocks(path, "python"):
        exec(compile(block, str(path), "exec"), {})
    for saved in re.findall(r'save\("([\w.]+)"\)', "".join(blocks(path, "python"))):
        assert Audio.read(tmp_path / saved).duration > 0


def test_pages_show_python() -> None:
    assert len([block for path in PAGES for block in blocks(path, "python")]) >= 4


@each_page
def test_toml_parses(path: Path) -> None:
    for block in blocks(path, "toml"):
        assert tomllib.loads(block)


def test_the_voice_shown_is_one(tmp_path: Path) -> None:
    """The voice.toml of the documentation is accepted as it stands."""
    (block,) = [b for b in blocks(ROOT / "docs" / "voices.md", "toml") if "[sampling]" in b]
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "voice.toml").write_text(block, encoding="utf-8")
    for name in ("reference.wav", "happy.wav"):
        Audio(np.zeros(4 * 16_000), 16_000).save(tmp_path / "alice" / name)
    for name in ("gpt", "sovits"):
        (tmp_path / "alice" / f"{name}.safetensors").write_bytes(b"\0" * 16)
    entry = load_entry(tmp_path / "alice")
    assert set(entry.others) == {"alice/happy"} or set(entry.others) == {"happy"}
    assert dict(entry.base.sampling) == {"top_k": 5}


# The two READMEs


@pytest.mark.parametrize("path", READMES, ids=lambda p: p.name)
def test_the_readme_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 160, "details belong into docs/"


def test_both_readmes_are_in_step() -> None:
    english, chinese = (path.read_text(encoding="utf-8") for path in READMES)
    assert english.count("\n## ") == chinese.count("\n## ")

    def links(text: str) -> list[str]:
        return [target for target in re.findall(r"\]\(([^)]+)\)", text) if "README" not in target]

    assert sorted(links(english)) == sorted(links(chinese))
    for language in ("sh", "python", "text"):
        both = [[strip(block) for block in blocks(path, language)] for path in READMES]
        assert both[0] == both[1], f"the {language} blocks differ"


def strip(block: str) -> str:
    """A block without its comments, which are in the page's language."""
    return re.sub(r"\s+# .*$", "", block, flags=re.MULTILINE)


def test_pages_begin_with_a_title() -> None:
    for path in PAGES:
        assert path.read_text(encoding="utf-8").startswith("# "), path


def test_a_voices_defaults_are_all_named() -> None:
    for page in ("voices.md", "requests.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8").lower()
        assert [name for name in SAMPLING_TYPES if name not in text] == [], page
