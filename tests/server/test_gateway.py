"""The gateway before a real Triton: formats, latency, a caller who leaves, the page."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from pathlib import Path

import av
import httpx
import numpy as np
import openai
import pytest
from gateway.browser import chromium, need_chromium
from gateway.running import Gateway, running
from gateway.test_api_v2_door import UpstreamClient
from server.test_soak import metrics, wait_until_idle

from gsv.serving.server.launcher import EmbeddedServer
from gsv_client import AsyncClient, Audio, Client
from gsv_client.gateway.settings import Settings

pytestmark = pytest.mark.server

FORMS = ("mp3", "opus", "aac", "flac", "wav", "pcm")
TEXT = "A sentence of some length, and then a second one. The third ends it!"
OPTIONS = {"seed": 5, "sample_steps": 2}
RATE = 48_000
LOW_RATES = (8_000, 16_000, 24_000)
# Samples that decoding gives beyond those that went in, at most: one frame of the codec, which in
# MP3 is half as long below 32 kHz.
EXTRA = {"mp3": 1_152, "aac": 1_024}
# Samples of a first chunk. How long the later ones of a stream are depends on how fast they are
# made, and their samples with it: on a slow machine two streams of a request are the same up here.
FIRST = 17_760
TRIES = 5


@pytest.fixture(scope="module")
def gateway(server: EmbeddedServer) -> Iterator[Gateway]:
    with running(AsyncClient(server.grpc_url), Settings(local=True)) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def native(server: EmbeddedServer) -> Audio:
    """What Triton itself streams."""
    with Client(server.grpc_url, protocol="grpc") as client:
        return Audio.join(client.stream(TEXT, seed=5, sample_steps=2))


def decoded(data: bytes, form: str, pcm_rate: int = 24_000) -> tuple[np.ndarray, int]:
    if form == "pcm":
        return np.frombuffer(data, "<i2") / np.float32(32_768), pcm_rate
    with av.open(io.BytesIO(data), format={"aac": "aac"}.get(form)) as file:
        stream = file.streams.audio[0]
        joined = np.concatenate([f.to_ndarray() for f in file.decode(stream)], axis=1)[0]
        scale = 32_768 if joined.dtype == np.int16 else 1
        return joined.astype(np.float32) / scale, int(stream.rate)


@pytest.mark.parametrize("form", FORMS)
def test_the_official_client_saves_what_triton_streams(
    gateway: Gateway, native: Audio, form: str, tmp_path: Path
) -> None:
    file = tmp_path / f"speech.{form}"
    with (
        openai.OpenAI(api_key="none", base_url=f"{gateway.url}/v1") as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=TEXT,
            response_format=form, extra_body=OPTIONS,  # type: ignore[arg-type]
        ) as answer,
    ):  # fmt: skip
        answer.stream_to_file(file)
    heard, rate = decoded(file.read_bytes(), form)
    expected = len(native.samples) * rate / RATE
    assert -1 <= len(heard) - expected <= EXTRA.get(form, 1)
    if form in ("flac", "wav"):
        check_samples(heard[:FIRST], native.samples[:FIRST])
    # Not a stretch of silence more than the native stream has: at no seam, nor anywhere.
    size = rate // 50
    first = max(0, len(heard) - int(expected)) // size
    levels = [level(wave, size) for wave in (heard[: int(expected)], resized(native, rate))]
    count = min(map(len, levels)) - first
    quiet = [(one[:count] < 0.01).sum() for one in levels]
    assert abs(int(quiet[0]) - int(quiet[1])) <= 2 + first


@pytest.mark.parametrize("rate", LOW_RATES)
@pytest.mark.parametrize("form", FORMS)
def test_lower_rates_have_their_length(
    gateway: Gateway, server: EmbeddedServer, form: str, rate: int
) -> None:
    options = {**OPTIONS, "sample_rate": rate}
    body = {"input": TEXT, "response_format": form, **options}
    frame = EXTRA.get(form, 1) // (2 if form == "mp3" else 1)
    with Client(server.grpc_url, protocol="grpc") as client:
        expected = {
            True: len(Audio.join(client.stream(TEXT, **options)).samples),
            False: len(client.say(TEXT, **options).samples),
        }
    for stream, count in expected.items():
        answer = httpx.post(
            f"{gateway.url}/v1/audio/speech", json={**body, "stream": stream}, timeout=60
        ).raise_for_status()
        heard, found = decoded(answer.content, form, rate)
        assert -1 <= len(heard) * rate / found - count <= frame


@pytest.mark.parametrize("form", ["mp3", "aac"])
def test_a_text_that_ends_without_a_pause_has_its_length(
    gateway: Gateway, server: EmbeddedServer, form: str
) -> None:
    text, options = TEXT + "[pause:0s]", {**OPTIONS, "sample_rate": 24_000}
    with Client(server.grpc_url, protocol="grpc") as client:
        expected = len(Audio.join(client.stream(text, **options)).samples)
    answer = httpx.post(
        f"{gateway.url}/v1/audio/speech",
        json={"input": text, "response_format": form, "stream": True, **options},
        timeout=60,
    ).raise_for_status()
    heard, rate = decoded(answer.content, form, 24_000)
    frame = EXTRA[form] // (2 if form == "mp3" else 1)
    assert -1 <= len(heard) * 24_000 / rate - expected <= frame


def level(wave: np.ndarray, size: int) -> np.ndarray:
    count = len(wave) // size
    return np.sqrt((wave[: count * size].reshape(count, size) ** 2).mean(1))


def check_samples(heard: np.ndarray, sent: np.ndarray) -> None:
    assert np.abs(heard - np.clip(sent, -1, 1)).max() <= 1 / 32_768


def resized(audio: Audio, rate: int) -> np.ndarray:
    return audio.samples[:: audio.rate // rate]


def test_upstreams_client(gateway: Gateway, server: EmbeddedServer, native: Audio) -> None:
    client = UpstreamClient(gateway.url)
    with Client(server.grpc_url, protocol="grpc") as own:
        whole = own.say(TEXT, language="auto", **OPTIONS)
    fields = {"text": TEXT, "text_lang": "auto", "ref_audio_path": "sample", **OPTIONS}
    for verb in (client.tts_get, client.tts_post):
        for mode, expected in ((0, whole), (2, native)):
            status, kind, data = verb(streaming_mode=mode, **fields)
            assert (status, kind) == (200, "audio/wav")
            heard = decoded(data, "wav")[0]
            assert len(heard) == len(expected.samples)
            exact = FIRST if mode else len(heard)
            check_samples(heard[:exact], expected.samples[:exact])
    status, _, data = client.tts_post(**{**fields, "ref_audio_path": "nobody"})
    assert status == 400
    assert b"VOICE" in data
    status, _, data = client.tts_post(**fields, top_k=0)
    assert status == 400
    assert b"TOP_K" in data


def test_the_first_byte_comes_with_the_first_chunk(
    gateway: Gateway, server: EmbeddedServer
) -> None:
    """Within 50 ms of Triton's: the best of calls in turn, since others use this machine too."""

    async def of_triton(seed: int) -> float:
        begin = time.perf_counter()
        async with client.stream(TEXT, seed=seed, sample_steps=2) as stream:
            await stream.__anext__()
            return time.perf_counter() - begin

    async def of_gateway(seed: int) -> float:
        body = {"input": TEXT, "response_format": "mp3", "sample_steps": 2, "seed": seed}
        begin = time.perf_counter()
        async with http.stream("POST", "/v1/audio/speech", json=body) as answer:
            await anext(answer.aiter_raw())
            return time.perf_counter() - begin

    client: AsyncClient
    http: httpx.AsyncClient

    async def measure() -> tuple[float, float]:
        nonlocal client, http
        async with (
            AsyncClient(server.grpc_url) as client,
            httpx.AsyncClient(base_url=gateway.url, timeout=60) as http,
        ):
            await of_triton(0), await of_gateway(0)
            pairs = [(await of_triton(n), await of_gateway(n)) for n in range(1, TRIES + 1)]
            first, second = (min(column) for column in zip(*pairs, strict=True))
            return first, second

    native, through = asyncio.run(measure())
    print(f"first chunk after {native:.3f} s, first byte of mp3 after {through:.3f} s")  # noqa: T201
    assert through - native < 0.05


def test_leaving_a_whole_answer_cancels_it_in_triton(
    gateway: Gateway, server: EmbeddedServer
) -> None:
    def cancelled() -> float:
        name = 'gsv_requests_total{model="gpt_sovits_v4",outcome="cancelled"}'
        return metrics(server).get(name, 0)

    before = cancelled()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{gateway.url}/v1/audio/speech",
            json={"input": TEXT * 20, "stream": False},
            timeout=0.5,
        )
    deadline = time.monotonic() + 10
    while cancelled() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert cancelled() == before + 1
    wait_until_idle(server)


def test_the_page_speaks(gateway: Gateway, server: EmbeddedServer) -> None:
    """From the press to the first audio it takes at most 1.5 times what the native stream takes,
    and 0.05 s for the browser's sound to start."""
    need_chromium()
    text = "A sentence to be heard."
    with Client(server.grpc_url, protocol="grpc") as client, chromium() as browser:
        browser.open(gateway.url)
        natives, pages, samples = [], [], 0
        for seed in range(1, 4):
            begin = time.perf_counter()
            with client.stream(text, seed=seed) as stream:
                first = next(stream)
                natives.append(time.perf_counter() - begin)
                samples = len(first.samples) + sum(len(chunk.samples) for chunk in stream)
            browser.driver.execute_script(
                "for (const [id, value] of Object.entries(arguments[0]))"
                " document.getElementById(id).value = value",
                {"o_seed": str(seed), "text": text},
            )
            browser.press("speak")
            browser.wait(lambda: browser.figures()["state"] == "playing", 30)
            pages.append(float(browser.text("first_audio").split()[0]))
        browser.wait(lambda: browser.figures()["state"] == "finished", 60)
        assert browser.figures()["played"] == samples  # of the same seed: every one was played
        assert browser.figures()["peak"] > 0.01
        native, page = min(natives), min(pages)
        print(f"first audio: native {native:.2f} s, page {page:.2f} s")  # noqa: T201
        assert page < 1.5 * native + 0.05
        assert browser.complaints() == []
