"""The page in a real browser, through its own controls."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from gateway.browser import Browser, chromium, need_chromium
from gateway.running import Gateway, key_file, running
from selenium.webdriver.common.by import By

from gsv_client import AsyncClient, InvalidRequest
from gsv_client.gateway.settings import Settings
from gsv_client.testing import FakeAsyncTransport, FakeTransport
from gsv_client.transport import Request

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "voices" / "sample" / "reference.wav"
TEXT = "Hello there. Here is more."
SECONDS = 2.5
# Every word that is marked, in turn: no look from outside is quick enough to miss none.
NOTE_MARKS = """
window.marked = [];
new MutationObserver((changes) => {
  for (const node of changes.flatMap((change) => [...change.addedNodes])) {
    if (node.nodeName === "MARK") marked.push(node.textContent);
  }
}).observe(document.getElementById("words"), { childList: true, subtree: true });
"""
RATE = 48_000


def refuse(request: Request) -> InvalidRequest | None:
    """What a server would say of a text that it can't read."""
    text = request.inputs.get("TEXT")
    if text is not None and b"{chong9}" in text.item():
        return InvalidRequest("TEXT: character 3: 'chong9' is no pinyin")
    return None


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Gateway, Path]]:
    """The page of a gateway that may add voices, before a server with times."""
    need_chromium()
    folder = tmp_path_factory.mktemp("voices")
    transport = FakeAsyncTransport(FakeTransport(times=True, refuse=refuse), pace=0.05)
    settings = Settings(local=True, voices=folder)
    with running(AsyncClient(transport=transport), settings) as gateway, chromium() as browser:
        downloads = {"behavior": "allow", "downloadPath": str(folder)}
        browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", downloads)
        yield browser, gateway, folder


@pytest.fixture
def browser(page: tuple[Browser, Gateway, Path]) -> Iterator[Browser]:
    """The page, freshly opened; nothing may have gone wrong in it."""
    browser, gateway, _ = page
    browser.driver.get("about:blank")  # else a mere change of the # would not load it anew
    browser.open(gateway.url)
    browser.complaints()
    yield browser
    assert browser.complaints() == []


def test_it_speaks(browser: Browser) -> None:
    """Types, presses, hears: every sample reaches the audio thread, at its level."""
    browser.driver.execute_script(NOTE_MARKS)
    browser.type("text", TEXT)
    assert browser.text("count") == f"{len(TEXT)} of 10000 characters"
    browser.press("speak")
    browser.wait(lambda: browser.figures()["state"] == "playing")
    assert browser("stop").is_enabled()
    browser.wait(lambda: browser.figures()["state"] == "finished")
    figures = browser.figures()
    assert figures["played"] == SECONDS * RATE
    assert figures["peak"] == pytest.approx(0.1, abs=1e-3)
    assert figures["gaps"] == 0
    assert browser.text("words") == "Hello there Here is more"
    marked = browser.driver.execute_script("return marked")
    assert marked == ["Hello", "there", "Here", "is", "more"]
    assert browser.text("length") == "2.50 s"
    assert 0 < float(browser.text("first_audio").split()[0]) < 2
    assert 0 < float(browser.text("factor")) < 2
    assert browser.text("status") == "Done."
    assert not browser("stop").is_enabled()
    drawn = browser.driver.execute_script(
        "const c = document.getElementById('wave');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return d.reduce((n, v, i) => n + (i % 4 === 3 && v > 0), 0) / (c.width * c.height)"
    )
    assert 0.2 < drawn < 0.9


def test_it_stops(browser: Browser) -> None:
    browser.type("text", "A very long sentence. " * 20)
    browser.press("speak")
    browser.wait(lambda: browser.figures()["state"] == "playing")
    browser.press("stop")
    browser.wait(lambda: browser.figures()["state"] == "stopped")
    played = browser.figures()["played"]
    assert browser.text("status") == "Stopped."
    time.sleep(0.3)
    assert browser.figures()["played"] == played
    assert browser.text("error") == ""


def test_pressing_again_begins_anew(browser: Browser) -> None:
    browser.type("text", "A very long sentence. " * 20)
    browser.press("speak")
    browser.wait(lambda: browser.figures()["state"] == "playing")
    browser.type("text", "Hi you.")
    browser.press("speak")
    browser.wait(lambda: browser.figures()["state"] == "finished")
    assert browser.figures()["played"] == 0.7 * RATE


def test_the_download_is_what_was_heard(
    browser: Browser, page: tuple[Browser, Gateway, Path]
) -> None:
    import soundfile

    assert not browser("download").is_enabled()
    browser.type("text", TEXT)
    browser.press("speak")
    browser.wait(lambda: browser("download").is_enabled())
    browser.press("download")
    file = page[2] / "speech.wav"
    browser.wait(file.is_file)
    samples, rate = soundfile.read(file)
    file.unlink()
    assert (len(samples), rate) == (SECONDS * RATE, RATE)
    assert abs(samples).max() == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Write something to say first."),
        ("x" * 10_001, "The text is too long; at most 10000 characters."),
        ("重{chong9}庆", "TEXT: character 3: 'chong9' is no pinyin"),
    ],
)
def test_errors_in_words(browser: Browser, text: str, words: str) -> None:
    browser.driver.execute_script("document.getElementById('text').value = arguments[0]", text)
    browser.press("speak")
    browser.wait(lambda: browser.text("error"))
    assert browser.text("error") == words
    assert browser("error").get_attribute("role") == "alert"
    if "chong9" in text:  # the browser counts the answer of status 400 as a complaint
        assert len(browser.complaints()) == 1


def test_options_and_their_limits(browser: Browser, page: tuple[Browser, Gateway, Path]) -> None:
    browser.choose("#options, details > summary")
    assert browser("o_speed").get_attribute("max") == "1.65"
    assert "0.6 to 1.65; default 1" in browser.text("o_speed_hint")
    browser.type("text", "Hi you.")
    browser.type("o_speed", "9")
    browser.press("speak")
    browser.wait(lambda: browser.text("error"))
    assert browser.text("error") == "Speed: allowed is 0.6 to 1.65."
    browser.type("o_speed", "1.2")
    browser.type("o_seed", "77")
    browser.press("speak")
    browser.wait(lambda: browser.figures()["state"] == "finished")
    assert browser.text("error") == ""


def test_a_link_carries_the_settings(browser: Browser, page: tuple[Browser, Gateway, Path]) -> None:
    browser.choose("#options, details > summary")
    browser.type("text", "你好 & <b>?")
    browser.type("o_seed", "77")
    browser.choose("#language option[value=zh]")
    browser.choose("#voice option[value='demo/happy']")
    browser.press("link")
    browser.wait(lambda: "link" in browser.text("status"))
    link = browser.driver.current_url
    browser.driver.get("about:blank")
    browser.open(link)
    values = {name: browser(name).get_attribute("value")
              for name in ("text", "o_seed", "language", "voice")}  # fmt: skip
    assert values == {
        "text": "你好 & <b>?", "o_seed": "77", "language": "zh", "voice": "demo/happy",
    }  # fmt: skip


def test_an_own_recording(browser: Browser, page: tuple[Browser, Gateway, Path]) -> None:
    browser.choose("input[value=recording]")
    browser.type("text", "Hi you.")
    browser.press("speak")
    browser.wait(lambda: browser.text("error"))
    assert browser.text("error") == "Choose a sound file or record one first."
    browser("file").send_keys(str(SAMPLE))
    browser.wait(lambda: "fit to speak" in browser.text("verdict").lower()
                 or "can be used" in browser.text("verdict"))  # fmt: skip
    browser.press("speak")
    browser.wait(lambda: "Write down what is said" in browser.text("error"))
    browser.type("reference_text", "What I say.")
    browser.press("speak")
    browser.wait(lambda: browser.figures()["state"] == "finished")


def test_a_recording_that_will_not_do(browser: Browser, tmp_path: Path) -> None:
    import numpy as np

    from gsv_client import Audio

    short, long = tmp_path / "short.wav", tmp_path / "long.wav"
    sample = Audio.read(SAMPLE)
    Audio(sample.samples[: sample.rate], sample.rate).save(short)
    Audio(np.tile(sample.samples, 3), sample.rate).save(long)
    browser.choose("input[value=recording]")
    browser("file").send_keys(str(short))
    browser.wait(lambda: "This recording can't be used" in browser.text("verdict"))
    assert "1.00 s long; allowed: 3 to 10 s" in browser.text("verdict")
    browser("file").send_keys(str(long))
    browser.wait(lambda: "Use the best piece of it" in browser.text("verdict"))
    assert browser("use_piece").is_selected()
    browser.type("text", "Hi you.")
    browser.type("reference_text", "What I say.")
    browser.press("speak")
    browser.wait(lambda: browser.figures()["state"] == "finished")


def test_the_microphone(browser: Browser) -> None:
    browser.choose("input[value=recording]")
    browser.press("record")
    browser.wait(lambda: browser.text("record") == "Stop recording")
    time.sleep(1.2)
    browser.press("record")
    browser.wait(lambda: browser.text("record") == "Record")
    # A beep for a second: too short, and the gateway could read what the browser recorded.
    browser.wait(lambda: "s long; allowed: 3 to 10 s" in browser.text("verdict"))


def test_both_languages(browser: Browser) -> None:
    browser.type("text", "Hi you.")
    browser.choose("#tongue option[value=zh]")
    assert browser.text("speak") == "合成"
    assert browser("html", By.TAG_NAME).get_attribute("lang") == "zh-Hans"
    assert browser("text").get_attribute("value") == "Hi you."
    assert browser.text("count") == "7 / 10000 个字符"
    left = browser.driver.execute_script(
        "return [...document.querySelectorAll('[data-text]')]"
        ".filter(e => !e.textContent || e.textContent === 'undefined').length"
    )
    assert left == 0
    browser.choose("#tongue option[value=en]")
    assert browser.text("speak") == "Speak"


def test_a_key_is_asked_for(tmp_path: Path) -> None:
    need_chromium()
    file, keys = key_file(tmp_path, "alice")
    client = AsyncClient(transport=FakeAsyncTransport(FakeTransport()))
    with running(client, Settings(keys=file)) as gateway, chromium() as browser:
        browser.driver.get(gateway.url)
        browser.wait(lambda: "asks for an API key" in browser.text("error"))
        browser.type("key", keys["alice"] + "\t")
        browser.wait(lambda: browser("body", By.TAG_NAME).get_attribute("data-ready") == "yes")
        browser.type("text", "Hi you.")
        browser.press("speak")
        browser.wait(lambda: browser.figures()["state"] == "finished")
        assert browser.text("words") == ""  # this server tells no times


@pytest.mark.parametrize("width", [1200, 390], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_accessible_and_nothing_sticks_out(browser: Browser, width: int, dark: bool) -> None:
    """axe finds nothing, with all parts open; no part is wider than the screen.

    GSV_SCREENSHOTS names a folder for pictures.
    """
    import axe_core_python

    name = f"{width}-{'dark' if dark else 'light'}"
    browser.look(width, 1500, dark=dark)
    try:
        browser.type("text", TEXT)
        browser.press("speak")
        browser.wait(lambda: browser.figures()["state"] == "playing")
        picture(browser, name)
        browser.choose("input[value=recording]")
        browser.driver.execute_script(
            "for (const d of document.querySelectorAll('details')) d.open = true"
        )
        browser("file").send_keys(str(SAMPLE))
        browser.wait(lambda: browser.text("verdict") not in ("", "Listening to the recording…"))
        picture(browser, f"{name}-open")
        wide = browser.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        script = (files(axe_core_python) / "axe.min.js").read_text(encoding="utf-8")
        browser.driver.execute_script(script)
        found = browser.driver.execute_async_script(
            "axe.run().then(arguments[arguments.length - 1])"
        )
        assert [violation(one) for one in found["violations"]] == []
        assert len(found["passes"]) > 20
    finally:
        browser.look(1200, 1300, dark=False)


def violation(found: dict[str, Any]) -> str:
    places = [node["html"][:200] for node in found["nodes"]]
    return json.dumps([found["impact"], found["id"], places])


def picture(browser: Browser, name: str) -> None:
    if folder := os.environ.get("GSV_SCREENSHOTS"):
        browser.driver.save_screenshot(str(Path(folder) / f"page-{name}.png"))


def test_the_page_asks_nobody_else() -> None:
    """No address of another server stands in any of its files."""
    folder = Path(str(files("gsv_client.gateway"))) / "page"
    names = sorted(path.name for path in folder.iterdir())
    assert {"index.html", "app.js", "worklet.js", "style.css"} <= set(names)
    for path in folder.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text, path
        assert "https:" not in text, path
        assert "//cdn" not in text, path


def test_both_languages_have_the_same_words() -> None:
    text = (Path(str(files("gsv_client.gateway"))) / "page" / "texts.js").read_text("utf-8")
    english, chinese = text.split("  zh: {")[0], text.split("  zh: {")[1].split("};")[0]

    def keys(part: str) -> set[str]:
        names = re.sub(r'"[^"]*"|`[^`]*`', "", part)  # the words themselves may hold colons
        return set(re.findall(r"(\w+):", names)) - {"en"}

    assert keys(english) == keys(chinese)
