"""Times of words and reports through a real tritonserver: whole and streamed, HTTP and gRPC."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import srt
import tritonclient.grpc as grpc_client
import webvtt
from gateway.running import running
from server.test_served_speech import infer_inputs
from server.test_served_stream import client_for

from gsv_client import AsyncClient, Audio, Client
from gsv_client.gateway.settings import Settings
from gsv_client.spoken import WordTime

pytestmark = pytest.mark.server

TEXT = "Two words here, and then some more of them. 你好，朋友。 The end!"
WORDS = [
    "Two",
    "words",
    "here",
    "and",
    "then",
    "some",
    "more",
    "of",
    "them",
    "你",
    "好",
    "朋",
    "友",
    "The",
    "end",
]
OPTIONS: dict[str, Any] = {"seed": 21, "sample_steps": 4, "pause_seconds": 0.2}
MODELS = "/v2/models"


def check_times(times: tuple[WordTime, ...], audio: Audio) -> None:
    """Words in order, inside the audio, in their sentences."""
    assert [time.word for time in times] == WORDS
    edges = [edge for time in times for edge in (time.start, time.end)]
    assert edges == sorted(edges)
    assert 0 <= edges[0] <= edges[-1] <= audio.duration
    begins, begin = [], 0.0
    for sentence in audio.report:
        begins.append((begin, begin + sentence.seconds))
        begin += sentence.seconds + OPTIONS["pause_seconds"]
    assert begin == pytest.approx(audio.duration, abs=0.005), "sentences and pauses are all of it"
    for time in times:
        low, high = begins[time.sentence]
        assert low - 0.002 <= time.start <= time.end <= high + 0.002


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_whole_answers_and_streams_tell_the_same(server: Any, protocol: str) -> None:
    with client_for(server, protocol) as client:
        whole = client.say(TEXT, **OPTIONS, times=True, report=True)
        chunks = list(client.stream(TEXT, **OPTIONS, times=True, report=True))
    check_times(whole.times, whole)
    streamed = Audio.join(chunks)
    check_times(streamed.times, streamed)
    for one, other in zip(whole.times, streamed.times, strict=True):
        assert (one.word, one.sentence) == (other.word, other.sentence)
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.002)
    assert streamed.report == whole.report
    # A sentence's words come with the chunk that ends it.
    for sentence in range(len(whole.report)):
        own = [chunk for chunk in chunks if chunk.sentence == sentence]
        assert [len(chunk.report) for chunk in own] == [0] * (len(own) - 1) + [1]
        assert {word.sentence for word in own[-1].times} == {sentence}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_speed_and_rate_move_the_words_with_the_audio(
    server: Any, protocol: str, rate: int
) -> None:
    with client_for(server, protocol) as client:
        for audio in (
            client.say(TEXT, **OPTIONS, speed=1.5, sample_rate=rate, times=True, report=True),
            Audio.join(
                client.stream(TEXT, **OPTIONS, speed=1.5, sample_rate=rate, times=True, report=True)
            ),
        ):
            check_times(audio.times, audio)


def test_nothing_is_told_that_nobody_asked_for(server: Any) -> None:
    for protocol in ("grpc", "http"):
        with client_for(server, protocol) as client:
            assert client.say(TEXT, **OPTIONS).times == ()
            for chunk in client.stream(TEXT, **OPTIONS):
                assert (chunk.times, chunk.report) == ((), ())
            only = client.say(TEXT, **OPTIONS, report=True)
            assert only.times == ()
            assert len(only.report) == 4


def test_every_chunk_of_a_request_that_asked_carries_the_tensors(server: Any) -> None:
    inputs = infer_inputs(grpc_client, {"TEXT": TEXT, "SEED": 21, "SAMPLE_STEPS": 4})
    names = ["AUDIO", "TIMES", "REPORT"]
    answers: list[Any] = []
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        client.start_stream(lambda result, error: answers.append(error or result))
        client.async_stream_infer(
            "gpt_sovits_v4_stream",
            inputs,
            outputs=[grpc_client.InferRequestedOutput(name) for name in names],
        )
        client.stop_stream()
    assert len(answers) > 4
    for answer in answers:
        assert {output.name for output in answer.get_response().outputs} == set(names)
        assert answer.as_numpy("TIMES").shape == (1, 1)
        assert isinstance(json.loads(answer.as_numpy("REPORT")[0, 0]), list)


def generate(server: Any, model: str, **fields: Any) -> list[dict[str, Any]]:
    """The events of generate_stream, or the one answer of generate."""
    stream = model.endswith("stream")
    url = f"http://{server.http_url}{MODELS}/{model}/generate{'_stream' if stream else ''}"
    body = json.dumps({"TEXT": TEXT, "SEED": 21, "SAMPLE_STEPS": 4, **fields}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=120) as answer:
        text = answer.read().decode()
    if not stream:
        return [json.loads(text)]
    return [json.loads(event.removeprefix("data:")) for event in text.split("\n\n") if event]


@pytest.mark.parametrize("model", ["gpt_sovits_v4", "gpt_sovits_v4_stream"])
def test_generate_gives_all_outputs_but_those_that_are_declined(server: Any, model: str) -> None:
    answers = generate(server, model)
    assert all({"TIMES", "REPORT"} <= set(answer) for answer in answers)
    words = [word for answer in answers for word in json.loads(answer["TIMES"])]
    assert [word["word"] for word in words] == WORDS
    bare = generate(server, model, TIMES=False, REPORT=False)
    assert all(not {"TIMES", "REPORT"} & set(answer) for answer in bare)
    assert bare[0]["AUDIO"] == pytest.approx(answers[0]["AUDIO"], abs=2e-4)
    for wrong in ({"TIMES": "no"}, {"AUDIO": False}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            generate(server, model, **wrong)
        assert caught.value.code == 400
        assert next(iter(wrong)) in caught.value.read().decode()


def test_the_guards_report_says_what_was_asked(server: Any) -> None:
    """Random weights don't speak; without the guard nothing is judged."""
    with client_for(server, "grpc") as client:
        bare = client.say(TEXT, **OPTIONS, guard=0, report=True)
    assert all(sentence.retries == sentence.signals == () for sentence in bare.report)
    assert [sentence.seed for sentence in bare.report] == [21] * 4


@pytest.mark.parametrize("stream", [[], ["--stream"]])
def test_say_writes_captions_that_others_can_read(
    server: Any, tmp_path: Path, stream: list[str]
) -> None:
    command = [
        sys.executable, "-c", "from gsv_client.cli import main; main()", "say", TEXT, *stream,
        "--url", f"http://{server.http_url}", "-o", "a.wav", "--srt", "a.srt", "--vtt", "a.vtt",
        "--times", "a.json", "--report", "--seed", "21", "--sample-steps", "4",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line[:2] for line in done.stderr.splitlines()[:4]] == ["1.", "2.", "3.", "4."]
    words = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [word["word"] for word in words] == WORDS
    subtitles = list(srt.parse((tmp_path / "a.srt").read_text(encoding="utf-8")))
    captions = list(webvtt.read(str(tmp_path / "a.vtt")))
    said = [subtitle.content for subtitle in subtitles]
    assert said == [caption.text for caption in captions]
    assert "".join(said).replace(" ", "") == "".join(WORDS)
    audio = Audio.read(tmp_path / "a.wav")
    assert subtitles[0].start.total_seconds() == pytest.approx(words[0]["start"], abs=0.001)
    assert subtitles[-1].end.total_seconds() == pytest.approx(words[-1]["end"], abs=0.001)
    assert subtitles[-1].end.total_seconds() <= audio.duration


def test_the_gateway_tells_words_beside_its_audio(server: Any) -> None:
    with (
        running(AsyncClient(server.grpc_url), Settings(local=True)) as gateway,
        Client(server.grpc_url, protocol="grpc") as client,
    ):
        expected = client.say(TEXT, **OPTIONS, times=True).times
        body = {"text": TEXT, **OPTIONS}
        answer = httpx.post(f"{gateway.url}/v1/speech", json=body, timeout=120)
        lines = [json.loads(line) for line in answer.text.splitlines()]
        captions = httpx.post(f"{gateway.url}/v1/speech/captions", json=body, timeout=120).text
    assert lines[0]["times"] is True
    words = [word for line in lines if line["type"] == "words" for word in line["words"]]
    assert [word["word"] for word in words] == WORDS
    for word, time in zip(words, expected, strict=True):
        assert (word["start"], word["sentence"]) == (
            pytest.approx(time.start, abs=0.002),
            time.sentence,
        )
    assert lines[-1]["type"] == "done"
    assert len(list(srt.parse(captions))) >= 4


def test_callers_beside_each_other_get_their_own_words(server: Any) -> None:
    async def all_at_once() -> list[Audio]:
        async with AsyncClient(server.grpc_url) as client:
            return await asyncio.gather(
                *(
                    client.say(
                        f"Number {n} speaks. {TEXT}", seed=n, sample_steps=4, times=n % 2 == 0,
                        report=n % 3 == 0,
                    )
                    for n in range(8)
                )
            )  # fmt: skip

    for n, audio in enumerate(asyncio.run(all_at_once())):
        assert (audio.times != ()) is (n % 2 == 0)
        assert (audio.report != ()) is (n % 3 == 0)
        if audio.times:
            assert audio.times[0].word == "Number"
            assert np.all(np.diff([time.start for time in audio.times]) >= 0)
