"""The text frontend on a real server: `gsv phones`, wrong markup, a voice's lexicon."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException
from voices.voice_files import make_voice

from gsv.text.symbols import symbol_ids
from gsv_client import Client

pytestmark = pytest.mark.server

LIVE_SECONDS = 5.0
LOADED = 5.0  # times slower than alone: other tests run beside this one


def gsv_phones(server: Any, *arguments: str) -> str:
    code = "from gsv_client.cli import main; main()"
    command = [sys.executable, "-c", code, "phones", "--url", f"http://{server.http_url}"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_phones_as_a_table(server: Any) -> None:
    shown = gsv_phones(server, "我喜欢 Python。[pause:0.8s]再见了朋友。", "--language", "zh")
    lines = [line.strip() for line in shown.splitlines()]
    assert lines[0].startswith("1  我喜欢 Python。")
    assert lines[0].endswith("(pause 0.8 s)")
    assert any(line.startswith("zh  我喜欢") for line in lines)
    assert any(line.startswith("en  Python") for line in lines)
    phonemes = next(line for line in lines if line.startswith("w "))
    ids = lines[lines.index(phonemes) + 1]
    assert phonemes.split()[:4] == ["w", "o2", "x", "i3"]
    assert [int(number) for number in ids.split()] == list(symbol_ids(phonemes.split()))


@pytest.mark.parametrize("language", ["auto", "zh", "auto_yue", "all_zh"])
def test_phones_as_json(server: Any, language: str) -> None:
    values = json.loads(gsv_phones(server, "重庆 is big", "--language", language, "--json"))
    (sentence,) = values["sentences"]
    assert "重庆" in sentence["text"]
    segments = sentence["segments"]
    assert {"zh", "yue"} & {segment["language"] for segment in segments}
    for segment in segments:
        assert segment["ids"] == list(symbol_ids(segment["phonemes"]))
        assert segment["normalized"]
        if segment["word2ph"] is not None:
            assert sum(segment["word2ph"]) == len(segment["ids"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("你好[pause:11s]", "TEXT: character 3:"),
        ("你好[pause:soon]世界", "TEXT: character 3:"),
        ("我重{chong9}庆", "TEXT: character 3:"),
        ("a tomato{T AH9}", "TEXT: character 9:"),
    ],
)
def test_markup_that_cannot_be_read_is_the_callers_mistake(
    server: Any, text: str, message: str
) -> None:
    url = f"http://{server.http_url}/v2/models/gpt_sovits_v4/generate"
    body = json.dumps({"TEXT": text, "LANGUAGE": "zh"}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60)
    with refused.value:
        assert refused.value.code == 400
        assert message in json.load(refused.value)["error"]
    for model in ("gpt_sovits_v4", "text_frontend"):
        with grpc_client.InferenceServerClient(server.grpc_url) as client:
            inputs = []
            for name, value in {"TEXT": text, "LANGUAGE": "zh"}.items():
                tensor = grpc_client.InferInput(name, [1, 1], "BYTES")
                tensor.set_data_from_numpy(np.array([[value.encode()]], dtype=np.object_))
                inputs.append(tensor)
            with pytest.raises(InferenceServerException) as caught:
                client.infer(model, inputs)
        assert "INVALID_ARGUMENT" in str(caught.value.status())
        assert message in caught.value.message()


@pytest.fixture
def voice(demo_repository: Path) -> Iterator[Path]:
    """A voice's folder, which is gone for the tests that follow."""
    made = make_voice(demo_repository.parent / "voices" / "worded")
    yield made
    shutil.rmtree(made)


def test_a_voices_lexicon_is_live(server: Any, voice: Path) -> None:
    with Client(server.grpc_url, protocol="grpc") as client:

        def spoken(name: str | None) -> list[str]:
            analysis = client.phones("Say blorp again.", "en", voice=name)
            return [p for s in analysis.sentences for g in s.segments for p in g.phonemes]

        def within_seconds(expected: list[str]) -> bool:
            end = time.monotonic() + LIVE_SECONDS
            while expected != spoken("worded")[2 : 2 + len(expected)]:
                if time.monotonic() > end:
                    return False
                time.sleep(0.2)
            return True

        plain = spoken("worded")
        (voice / "lexicon.toml").write_text("[en]\nblorp = 'K AE1 T'\n")
        assert within_seconds(["K", "AE1", "T"])
        assert spoken(None) == plain
        (voice / "lexicon.toml").write_text("[en]\nblorp = 'D AO1 G'\n")
        assert within_seconds(["D", "AO1", "G"])
        (voice / "lexicon.toml").unlink()
        assert within_seconds(plain[2:])


def test_changes_and_what_is_not_read_are_shown_and_counted(server: Any) -> None:
    shown = gsv_phones(server, "It’s 5–10 people Ж", "--language", "en")
    assert "’ → ': apostrophe" in shown
    assert "~ →  to : a range of numbers" in shown
    assert "not read: Ж" in shown
    address = f"http://{server.metrics_url.removeprefix('http://')}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    (line,) = [x for x in lines if x.startswith("gsv_voice_unread_characters_total{")]
    assert float(line.rpartition(" ")[2]) >= 1


def test_a_long_text_delays_no_short_one(server: Any) -> None:
    """Ten thousand characters take a second or two; others are read in between."""
    text = "".join(random.Random(1).choices("etaoinshrdlu", k=10_000))
    with Client(server.http_url) as client, ThreadPoolExecutor(1) as pool:
        client.phones("Hello there.", "en")
        running = pool.submit(client.phones, text, "en")
        waits = []
        while not running.done():
            started = time.monotonic()
            client.phones("Hello there.", "en")
            waits.append(time.monotonic() - started)
        assert running.result().sentences
    assert len(waits) > 2
    assert sorted(waits)[-1] < 0.2 * LOADED, waits


def test_a_text_without_anything_to_say_is_the_callers_mistake(server: Any) -> None:
    url = f"http://{server.http_url}/v2/models/gpt_sovits_v4/generate"
    body = json.dumps({"TEXT": "Привет мир", "LANGUAGE": "en"}).encode()
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=60)
    assert refused.value.code == 400
    assert "TEXT: nothing to speak" in refused.value.read().decode()
