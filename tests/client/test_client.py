"""The client over a fake transport: what it sends, what it makes of answers."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import pytest

from gsv_client import (
    Analysis,
    Audio,
    Cancelled,
    Client,
    InvalidRequest,
    NotFound,
    ServerError,
    ServerUnavailable,
    SpeechOptions,
    Voices,
)
from gsv_client.testing import FakeTransport
from gsv_client.transport import Endpoint, Request
from gsv_client.transport.base import Tensors


class Answering(FakeTransport):
    """Gives one fixed answer to everything."""

    def __init__(self, **tensors: np.ndarray) -> None:
        super().__init__()
        self.tensors = tensors

    def infer(self, request: Request) -> Tensors:
        return self.tensors

    def stream(self, request: Request):  # type: ignore[no-untyped-def]
        return Fixed([self.tensors])


class Fixed:
    def __init__(self, answers: list[Tensors]) -> None:
        self.answers = iter(answers)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return self

    def __next__(self) -> Tensors:
        return next(self.answers)

    def close(self) -> None:
        self.answers = iter(())


AUDIO = np.zeros((1, 10), np.float32)
RATE = np.array([[48_000]], np.int32)


def test_say_asks_the_unary_model(fake: Client, transport: FakeTransport) -> None:
    audio = fake.say("Hello.", voice="demo", request_id="7")
    assert (type(audio), audio.duration, audio.rate) == (Audio, 0.6, 48_000)
    request = transport.requests[0]
    assert (request.model, request.request_id) == ("gpt_sovits_v4", "7")
    assert request.outputs == ("AUDIO", "SAMPLE_RATE")
    assert sorted(request.inputs) == ["TEXT", "VOICE"]


def test_stream_asks_the_decoupled_model(fake: Client, transport: FakeTransport) -> None:
    chunks = list(fake.stream("One. Two three.", sample_rate=16_000))
    assert [(chunk.sentence, chunk.duration) for chunk in chunks] == [
        (0, 0.4), (1, 0.5), (1, 0.5),
    ]  # fmt: skip
    request = transport.requests[0]
    assert request.model == "gpt_sovits_v4_stream"
    assert request.outputs == ("AUDIO", "SAMPLE_RATE", "SENTENCE_INDEX")
    assert transport.closed == 0


def test_options_in_one_piece_or_as_keywords(fake: Client, transport: FakeTransport) -> None:
    options = SpeechOptions(voice="demo", seed=3)
    fake.say("x", options)
    fake.say("x", voice="demo", seed=3)
    assert transport.requests[0].inputs == transport.requests[1].inputs
    with pytest.raises(InvalidRequest, match="given together with seed"):
        fake.say("x", options, seed=4)


def test_mistakes_are_found_before_anything_is_sent(fake: Client, transport: FakeTransport) -> None:
    for call in (fake.say, fake.stream, fake.stream_text):
        with pytest.raises(InvalidRequest, match="reference_text: missing"):
            call("x", reference=(np.zeros(9), 9))
    with pytest.raises(InvalidRequest):
        fake.stream("")
    assert not transport.requests


def test_the_timeout_goes_with_the_request(transport: FakeTransport) -> None:
    Client(transport=transport, timeout=7).say("x")
    assert transport.requests[0].timeout == 7
    for bad in (0, -1, float("nan")):
        with pytest.raises(InvalidRequest, match="seconds above 0"):
            Client(transport=transport, timeout=bad)


def test_letting_go_of_a_stream_closes_it(fake: Client, transport: FakeTransport) -> None:
    for _ in fake.stream("A rather long sentence."):
        break
    gc.collect()
    assert transport.closed == 1
    with fake.stream("A rather long sentence.") as stream:
        next(stream)
    assert transport.closed == 2
    with pytest.raises(Cancelled):
        next(stream)


def test_a_broken_stream_is_closed_and_its_error_is_raised() -> None:
    transport = FakeTransport(break_after=1, broken=ServerError("broken"))
    stream = Client(transport=transport).stream("A rather long sentence.")
    next(stream)
    with pytest.raises(ServerError, match="broken"):
        next(stream)
    assert transport.closed == 1


@pytest.mark.parametrize("tensors", [{}, {"AUDIO": AUDIO}, {"SAMPLE_RATE": RATE}])
def test_an_answer_without_its_tensors(tensors: dict) -> None:
    client = Client(transport=Answering(**tensors))
    with pytest.raises(ServerError, match="but no .*different versions"):
        client.say("x")
    with pytest.raises(ServerError, match="but no "):
        next(client.stream("x"))
    with pytest.raises(ServerError, match="but not one ANALYSIS"):
        client.phones("x")


def test_chunks_that_hold_nothing_are_not_shown() -> None:
    index = np.array([[0]], np.int32)
    empty = {"AUDIO": AUDIO[:, :0], "SAMPLE_RATE": RATE, "SENTENCE_INDEX": index}

    class Waiting(FakeTransport):
        def stream(self, request: Request) -> Fixed:  # type: ignore[override]
            return Fixed([empty, empty | {"AUDIO": AUDIO}, empty])

    (chunk,) = Client(transport=Waiting()).stream("x")
    assert len(chunk.samples) == 10


def test_the_rate_may_not_change_inside_a_stream() -> None:
    index = np.array([[0]], np.int32)
    answers = [
        {"AUDIO": AUDIO, "SAMPLE_RATE": RATE, "SENTENCE_INDEX": index},
        {"AUDIO": AUDIO, "SAMPLE_RATE": RATE // 2, "SENTENCE_INDEX": index},
    ]

    class Changing(FakeTransport):
        def stream(self, request: Request) -> Fixed:  # type: ignore[override]
            return Fixed(answers)

    stream = Client(transport=Changing()).stream("x")
    next(stream)
    with pytest.raises(ServerError, match="from 48000 to 24000 Hz"):
        next(stream)


def test_a_pause_that_the_text_asks_for() -> None:
    sentence = '{"text": "x", "normalized": "x", "segments": [], "pause_after": %s}'
    for written, read in (("0.8", 0.8), ("null", None)):
        analysis = Analysis.from_json(f'{{"sentences": [{sentence % written}]}}')
        assert analysis.sentences[0].pause_after == read


def test_phones(fake: Client, transport: FakeTransport) -> None:
    analysis = fake.phones("Hi.", "en", split_method="cut0", voice="demo")
    assert analysis.sentences[0].segments[0].ids == (72, 105, 46)
    assert analysis.as_dict()["sentences"][0]["segments"][0]["phonemes"] == ("H", "i", ".")
    request = transport.requests[0]
    assert (request.model, request.outputs) == ("text_frontend", ("ANALYSIS",))
    assert sorted(request.inputs) == ["LANGUAGE", "SPLIT_METHOD", "TEXT", "VOICE"]


def test_voices(fake: Client, transport: FakeTransport) -> None:
    (voice,) = fake.voices()
    assert (voice.name, voice.language, voice.references, voice.default) == (
        "demo", "en", ("happy",), True,
    )  # fmt: skip
    assert transport.requests[0].inputs["NAME"].tolist() == [[b""]]


def test_voices_that_the_server_cannot_use() -> None:
    voices = Voices.from_json(
        '{"default": null, "voices": [{"name": "a"}, {"name": "b"}], "broken": ["c: no text"]}'
    )
    assert [voice.name for voice in voices] == ["a", "b"]
    assert (len(voices), voices[-1].name, voices.broken) == (2, "b", ("c: no text",))


def test_a_server_that_lists_no_voices() -> None:
    client = Client(transport=FakeTransport(models=["gpt_sovits_v4"]))
    with pytest.raises(NotFound, match="can't list voices, because its repository has no model"):
        client.voices()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sentences": [{}]}', '{"voices": [{}]}'])
def test_json_that_is_not_as_documented(text: str) -> None:
    with pytest.raises(ServerError, match="ANALYSIS: the server's JSON is not as documented"):
        Analysis.from_json(text)
    with pytest.raises(ServerError, match="VOICES: the server's JSON is not as documented"):
        Voices.from_json(text)


def test_health_does_not_raise_for_a_server_that_is_away() -> None:
    class Away(FakeTransport):
        def is_live(self, timeout: float) -> bool:
            raise ServerUnavailable("no server answers")

    health = Client(transport=Away()).health()
    assert (health.live, health.ready, health.message) == (False, False, "no server answers")


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        (None, None, Endpoint("http", "localhost", 8000)),
        (None, "grpc", Endpoint("grpc", "localhost", 8001)),
        ("speech", None, Endpoint("http", "speech", 8000)),
        ("speech:9", "grpc", Endpoint("grpc", "speech", 9)),
        ("grpc://speech", None, Endpoint("grpc", "speech", 8001)),
        ("grpcs://speech:9", "grpc", Endpoint("grpc", "speech", 9, secure=True)),
        ("https://speech/a/b/", None, Endpoint("http", "speech", 8000, "/a/b", secure=True)),
        ("[::1]:9", None, Endpoint("http", "::1", 9)),
        ("speech/zürich", None, Endpoint("http", "speech", 8000, "/z%C3%BCrich")),
        (
            "grpc://speech?balance=round_robin",
            None,
            Endpoint("grpc", "speech", 8001, balance=True),
        ),
        (
            "speech:9?balance=round_robin",
            "grpc",
            Endpoint("grpc", "speech", 9, balance=True),
        ),
    ],
)
def test_addresses(url: str | None, protocol: str | None, expected: Endpoint) -> None:
    endpoint = Endpoint.parse(url, protocol)
    assert endpoint == expected
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("url", "protocol", "message"),
    [
        ("[::1:8000", None, "url: got .*host:port"),
        ("http://[::1/v2", None, "url: got .*host:port"),
        ("speech:0", None, "a port from 1 to 65535"),
        ("a..b", None, "the name or address of a host"),
        ("ftp://speech", None, r"url: got 'ftp://speech'; allowed: \[http"),
        ("http://speech", "grpc", "protocol: got 'grpc'; allowed: http or grpc, and http with"),
        ("speech:99999", None, "a port from 1 to 65535"),
        ("speech:x", None, "a port from 1 to 65535"),
        ("http://", None, "scheme://host:port"),
        ("http://u:p@speech", None, "scheme://host:port"),
        ("http://speech?x=1", None, "scheme://host:port"),
        ("http://speech?balance=round_robin", None, r"with grpc or grpcs, \?balance=round_robin"),
        ("grpc://speech?balance=fair", None, r"with grpc or grpcs, \?balance=round_robin"),
        ("speech", "smtp", "allowed"),
    ],
)
def test_what_is_no_address(url: str, protocol: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Endpoint.parse(url, protocol)


def test_requests_can_be_compared_with_replaced_ones() -> None:
    request = Request("m", {}, ("A",))
    assert dataclasses.replace(request, timeout=3.0).timeout == 3.0
