"""What docs/gateway.md teaches is so: its Python runs, its options and formats exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from gateway.running import Gateway

from gsv_client.cli import main
from gsv_client.gateway.encoders import FORMATS
from gsv_client.gateway.fields import OptionFields

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
HERE = re.compile(r"localhost:9880")


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_the_python_runs(
    number: int, gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = HERE.sub(f"127.0.0.1:{gateway.port}", PYTHON[number])
    # The voice of the fake server is another one than that of the demo repositories.
    source = source.replace('"ref_audio_path": "sample"', '"ref_audio_path": "demo"')
    if "import requests" in source:
        pytest.importorskip("requests", reason="NOT RUN: the example uses the package requests")
    exec(compile(source, f"gateway.md, Python block {number}", "exec"), {})
    written = [path.stat().st_size for path in tmp_path.iterdir()]
    assert all(size > 1_000 for size in written)


def test_there_are_examples_of_every_door_in_three_languages() -> None:
    for title in ("## OpenAI", "## GPT-SoVITS api_v2", "## Lines of JSON", "## WebSocket"):
        part = TEXT.split(f"{title}\n")[1].split("\n## ")[0]
        for language in ("python", "javascript"):
            assert f"```{language}" in part, (title, language)
        assert "curl" in part, title


def test_every_option_of_the_command_is_told() -> None:
    shown = CliRunner().invoke(main, ["gateway", "--help"]).output
    for option in sorted(set(re.findall(r"--[a-z-]+", shown)) - {"--help"}):
        assert f"`{option}" in TEXT or f"{option}`" in TEXT or f", `{option}" in TEXT, option
    for option in set(re.findall(r"`(--[a-z-]+)", TEXT)) - {"--gpt", "--sovits"}:
        assert option in shown, option


def test_every_format_and_field_is_told() -> None:
    for form in FORMATS.values():
        assert f"| `{form.name}`" in TEXT, form.name
        assert f"`{form.media_type}`" in TEXT
    for name in OptionFields.model_fields:
        assert f"`{name}`" in TEXT, name


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).exists(), target
    titles = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in titles, anchor
