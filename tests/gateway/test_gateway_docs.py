"""What the gateway's pages teach is so: every example runs, options, formats and fields exist.

Shell blocks run in bash, Python here, JavaScript in headless Chromium on a page of the gateway's.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from gateway.browser import Browser, chromium, need_chromium
from gateway.running import Gateway, running

from gsv_client import AsyncClient
from gsv_client.cli import main
from gsv_client.gateway.api_v2_door import TtsFields
from gsv_client.gateway.encoders import FORMATS
from gsv_client.gateway.fields import OptionFields
from gsv_client.gateway.settings import Settings
from gsv_client.testing import FakeAsyncTransport, FakeTransport

ROOT = Path(__file__).parents[2]
MAIN = "gateway.md"
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("gateway*.md")
}
DOORS = ("gateway-openai.md", "gateway-api-v2.md", "gateway-own.md")
RECORDING = ROOT / "voices" / "sample" / "reference.wav"
MIN_BYTES = {".srt": 40, ".vtt": 40, ".wav": 1_000, ".mp3": 1_000, ".opus": 1_000, ".pcm": 1_000}
HANDSHAKE = "Upgrade: websocket"
CURL_TIMED_OUT = 28
COMMANDS = f"""set -eu
curl() {{ command curl --silent --show-error --fail-with-body --max-time 60 "$@"; }}
gsv() {{ "{sys.executable}" -c 'from gsv_client.cli import main; main()' "$@"; }}
"""


def blocks(language: str) -> list[Any]:
    """Each block of a language, on every page."""
    return [
        pytest.param(block, id=f"{page}-{number}")
        for page, text in sorted(PAGES.items())
        for number, block in enumerate(
            re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        )
    ]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Path]]:
    """A gateway before a server with times, and the folder that voices may be added to."""
    voices = tmp_path_factory.mktemp("voices")
    client = AsyncClient(transport=FakeAsyncTransport(FakeTransport(times=True)))
    with running(client, Settings(local=True, voices=voices)) as gateway:
        yield gateway, voices


@pytest.fixture
def there(shown: tuple[Gateway, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gateway:
    """That gateway, nobody's voice added yet; the folder is the test's own, with a recording."""
    for added in shown[1].iterdir():
        shutil.rmtree(added)
    monkeypatch.chdir(tmp_path)
    shutil.copy(RECORDING, "me.wav")
    return shown[0]


def adapted(source: str, gateway: Gateway) -> str:
    """An example for this gateway's address."""
    return source.replace("localhost:9880", f"127.0.0.1:{gateway.port}")


def check_files(folder: Path) -> None:
    """What an example has written is as long as it must be."""
    for path in folder.iterdir():
        if path.suffix in MIN_BYTES:
            assert path.stat().st_size > MIN_BYTES[path.suffix], path.name
        if path.suffix == ".wav" and path.name != "me.wav":
            with wave.open(str(path)) as sound:
                assert sound.getframerate() == 48_000


@pytest.mark.parametrize("source", blocks("python"))
def test_the_python_runs(source: str, there: Gateway, tmp_path: Path) -> None:
    if "import requests" in source:
        pytest.importorskip("requests", reason="NOT RUN: the example uses the package requests")
    left: dict[str, Any] = {}
    try:
        exec(compile(adapted(source, there), "a page's Python", "exec"), left)
    finally:
        # A program ends here. In a test the connection would be found open at some later moment.
        if "client" in left:
            left["client"].close()
    check_files(tmp_path)
    for name in re.findall(r'(?:open|stream_to_file)\("([\w.]+)"', source):
        assert (tmp_path / name).exists(), name


def bash(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("curl") is None:
        pytest.skip("NOT RUN: curl not installed")
    environment = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
    return subprocess.run(
        ["bash", "-c", COMMANDS + source],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("source", [b for b in blocks("sh") if "gsv gateway" not in b.values[0]])
def test_the_curl_runs(source: str, there: Gateway, tmp_path: Path) -> None:
    done = bash(adapted(source, there), tmp_path)
    if HANDSHAKE in source:
        assert done.stdout.startswith("HTTP/1.1 101 Switching Protocols")
        assert done.returncode == CURL_TIMED_OUT
        return
    assert done.returncode == 0, done.stdout + done.stderr
    for name in re.findall(r"-o (\S+)", source):
        assert (tmp_path / name).exists(), name
    check_files(tmp_path)


def test_the_keys_work_as_shown(tmp_path: Path) -> None:
    """The lines that make a key, serve with it and send it; the gateway of the middle is ours."""
    ((make, serve, use),) = (
        block.values[0].splitlines() for block in blocks("sh") if "--new-key" in block.values[0]
    )
    done = bash(make, tmp_path)
    assert done.returncode == 0, done.stderr
    keys = tmp_path / re.findall(r"--keys (\S+)", serve)[0]
    with running(AsyncClient(transport=FakeAsyncTransport()), Settings(keys=keys)) as gateway:
        done = bash(use.replace("speech:9880", f"127.0.0.1:{gateway.port}"), tmp_path)
        assert '"gpt-sovits-v4"' in done.stdout, done.stderr
        refused = bash(f"curl {gateway.url}/v1/models", tmp_path)
        assert "API key is missing" in refused.stdout


# JavaScript

SPY = """
window.printed = []; window.sounds = []; window.failed = "";
console.log = (...values) => printed.push(values.join(" "));
const RealAudio = window.RealAudio ??= window.Audio;
window.Audio = class extends RealAudio {
  constructor(...given) { super(...given); sounds.push(this); }
};
"""
START = "(async () => {\n%s\n})().then(() => printed.push('returned'), (e) => failed = String(e));"


@pytest.fixture(scope="module")
def screen(shown: tuple[Gateway, Path]) -> Iterator[Browser]:
    need_chromium()
    # In a program these lines stand behind a button's press.
    with chromium("autoplay-policy=no-user-gesture-required") as browser:
        browser.open(shown[0].url)
        yield browser


@pytest.mark.parametrize("source", blocks("javascript"))
def test_the_javascript_runs(source: str, there: Gateway, screen: Browser) -> None:
    screen.driver.execute_script(SPY + START % adapted(source, there))

    def ended() -> bool:
        assert screen.driver.execute_script("return failed") == ""
        return bool(
            screen.driver.execute_script(
                "return printed.includes('returned') && sounds.every((s) => s.ended)"
            )
        )

    screen.wait(ended, 20)
    if "new Audio(" in source:
        seconds = screen.driver.execute_script("return sounds.map((sound) => sound.currentTime)")
        assert len(seconds) == 1
        assert seconds[0] > 0.25  # two characters are spoken in 0.3 s at least
        return
    enough = ("done",) if "socket" in source or "JSON.parse(line)" in source else ("-->",)
    screen.wait(lambda: said(screen, enough), 20)


def said(screen: Browser, words: tuple[str, ...]) -> bool:
    printed = "\n".join(screen.driver.execute_script("return printed"))
    return all(word in printed for word in words)


# What else the pages tell


def test_every_door_has_examples_in_three_languages() -> None:
    for page in DOORS:
        for language in ("python", "javascript", "sh"):
            assert f"```{language}" in PAGES[page], (page, language)
    own = re.split(r"^## ", PAGES["gateway-own.md"], flags=re.MULTILINE)[1:]
    assert [part.partition("\n")[0] for part in own] == ["Lines of JSON", "Captions", "WebSocket"]
    for part in own:
        for language in ("python", "javascript", "sh"):
            assert f"```{language}" in part, (part[:20], language)


def test_the_index_leads_to_every_page() -> None:
    for page in set(PAGES) - {MAIN}:
        assert f"]({page})" in PAGES[MAIN], page
    assert len(PAGES) == 5


def test_every_option_of_the_command_is_told() -> None:
    text = PAGES[MAIN]
    shown = CliRunner().invoke(main, ["gateway", "--help"]).output
    for option in sorted(set(re.findall(r"--[a-z-]+", shown)) - {"--help"}):
        assert f"`{option}" in text or f"{option}`" in text or f", `{option}" in text, option
    told = {option for page in PAGES.values() for option in re.findall(r"`(--[a-z-]+)", page)}
    for option in told - {"--gpt", "--sovits", "--max-time"}:
        assert option in shown, option


def test_every_format_and_field_is_told() -> None:
    for form in FORMATS.values():
        assert f"| `{form.name}`" in PAGES[MAIN], form.name
        assert f"`{form.media_type}`" in PAGES[MAIN]
    for name in OptionFields.model_fields:
        assert f"`{name}`" in PAGES[MAIN], name
    for name in TtsFields.model_fields:
        assert f"`{name}`" in PAGES["gateway-api-v2.md"], name
