"""Text that is still being written: where sentences end, order, errors, leaving."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsv_client import Client, InvalidRequest, ServerError
from gsv_client.sentences import MOST_CHARACTERS, SentenceBuffer, sentences_of
from gsv_client.testing import FakeTransport, text_of
from gsv_client.text_stream import CHUNKS_HELD, Channel


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One here. Two here.", ["One here.", "Two here."]),
        ("What?! Really.", ["What?!", "Really."]),
        ("你好吗？我很好。走吧！", ["你好吗？我很好。", "走吧！"]),
        ("今天天气好。“真的吗？”他问。", ["今天天气好。", "“真的吗？”他问。"]),
        ("これはペンです。そうですか。", ["これはペンです。", "そうですか。"]),
        ("It costs 3.50 dollars. Yes.", ["It costs 3.50 dollars.", "Yes."]),
        ("Dr. Smith met J. Doe, e.g. here. Good.", ["Dr. Smith met J. Doe, e.g. here.", "Good."]),
        ('He said "Stop it!" and left. Bye.', ['He said "Stop it!"', "and left.", "Bye."]),
        ("Well... maybe. Fine.", ["Well...", "maybe.", "Fine."]),
        ("No. I can't.", ["No. I can't."]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("see a.b.com/x?y=1 for it. Done.", ["see a.b.com/x?y=1 for it.", "Done."]),
        ("重{chong2}庆很大。[pause:0.8s]对的。", ["重{chong2}庆很大。", "[pause:0.8s]对的。"]),
        ("你好吗?我很好", ["你好吗?我很好"]),
        ("你们好吗?我很好", ["你们好吗?", "我很好"]),
        ("no end", ["no end"]),
        ("... !? 。", []),
        ("", []),
    ],
)  # fmt: skip
def test_sentences_are_the_same_however_the_text_is_cut(text: str, sentences: list[str]) -> None:
    assert list(sentences_of([text])) == sentences
    assert list(sentences_of(text)) == sentences  # letter by letter
    for cut in range(len(text)):
        assert list(sentences_of([text[:cut], "", text[cut:]])) == sentences


def test_a_sentence_goes_out_with_the_first_sign_of_the_next() -> None:
    buffer = SentenceBuffer()
    assert buffer.feed("Hello there.") == []  # `.5` or `”` could follow
    assert buffer.feed(" ") == ["Hello there."]
    assert buffer.feed("你好，再见。") == []
    assert buffer.feed("好") == ["你好，再见。"]
    assert buffer.feed("的\n") == []  # too short alone


def test_a_text_without_ends_is_cut_at_a_clause() -> None:
    text = "word, " * 100
    pieces = list(sentences_of([text]))
    assert all(len(piece) <= MOST_CHARACTERS and piece.endswith(",") for piece in pieces)
    assert " ".join(pieces) == text.strip()
    assert [len(piece) for piece in sentences_of(["字" * 450])] == [200, 200, 50]


@given(st.text(alphabet="ab .!?。！\n”,1", max_size=600), st.integers(1, 50))
def test_nothing_is_lost_and_nothing_grows(text: str, size: int) -> None:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    sentences = list(sentences_of(pieces))
    kept = [c for c in "".join(sentences) if c.isalnum()]
    assert kept == [c for c in text if c.isalnum()]
    assert all(any(c.isalnum() for c in sentence) for sentence in sentences)


def test_one_request_per_sentence_in_one_voice(fake: Client, transport: FakeTransport) -> None:
    words = iter(["Hello th", "ere. How are", " you? Fine, ", "thanks."])
    chunks = list(fake.stream_text(words, voice="demo", seed=5, request_id="r"))
    assert [chunk.sentence for chunk in chunks] == sorted(chunk.sentence for chunk in chunks)
    requests = sorted(transport.requests, key=lambda request: request.request_id)
    assert [text_of(r) for r in requests] == ["Hello there.", "How are you?", "Fine, thanks."]
    assert [r.request_id for r in requests] == ["r/0", "r/1", "r/2"]
    assert [r.inputs["SEED"].item() for r in requests] == [5, 6, 7]
    assert {r.inputs["VOICE"].item() for r in requests} == {b"demo"}


def test_speech_begins_before_the_text_ends(fake: Client) -> None:
    heard = threading.Event()

    def words() -> Iterator[str]:
        yield "The first sentence. "
        assert heard.wait(5)
        yield "The second one."

    stream = fake.stream_text(words())
    assert next(stream).sentence == 0
    heard.set()
    assert {chunk.sentence for chunk in stream} == {0, 1}


def test_an_error_of_the_text_is_raised_after_what_came_before(fake: Client) -> None:
    def words() -> Iterator[str]:
        yield "The first sentence. "
        yield "And"
        raise RuntimeError("the model fell over")

    stream, received = fake.stream_text(words()), []
    with pytest.raises(RuntimeError, match="fell over"):
        received.extend(stream)
    assert len(received) == 4


def test_an_error_of_a_sentence_is_raised_in_its_turn() -> None:
    def refuse(request):  # type: ignore[no-untyped-def]
        return InvalidRequest("TEXT: bad") if b"bad" in request.inputs["TEXT"].item() else None

    client, received = Client(transport=FakeTransport(refuse=refuse)), []
    with pytest.raises(InvalidRequest, match="TEXT: bad"):
        received.extend(client.stream_text(["It is good. It is bad. It is good."]))
    assert {chunk.sentence for chunk in received} == {0}


def test_a_stream_that_breaks_does_not_hang() -> None:
    transport = FakeTransport(break_after=1, broken=ServerError("broken"))
    with pytest.raises(ServerError, match="broken"):
        list(Client(transport=transport).stream_text(["A long sentence. And another one."]))


def test_a_slow_listener_holds_the_text_back(fake: Client, transport: FakeTransport) -> None:
    taken: list[int] = []

    def words() -> Iterator[str]:
        for number in range(1000):
            taken.append(number)
            yield f"This is sentence number {number}. "

    with fake.stream_text(words()) as stream:
        next(stream)
        time.sleep(0.2)
        assert len(taken) < 10
        assert len(transport.requests) <= 3


def test_letting_go_ends_all_threads(fake: Client, transport: FakeTransport) -> None:
    words = ("A sentence of some length, longer than what is held. " * 3 for _ in range(100))
    for _ in fake.stream_text(words):
        break
    gc.collect()
    deadline = time.monotonic() + 2
    while any(t.name == "gsv-text-stream" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_text_is_no_audio(fake: Client, transport: FakeTransport) -> None:
    assert list(fake.stream_text([])) == []
    assert list(fake.stream_text(["", "  \n"])) == []
    assert not transport.requests


def test_never_started_is_nothing(fake: Client, transport: FakeTransport) -> None:
    fake.stream_text(["A sentence."]).close()
    assert not transport.requests


def test_over_the_wire(client: Client) -> None:
    words = ["Hello the", "re. How are ", "you? I am fi", "ne."]
    chunks = list(client.stream_text(words))
    assert [chunk.sentence for chunk in chunks] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_channel_carries_ends_errors_and_leaving() -> None:
    channel: Channel[int] = Channel(2)
    assert channel.put(1)
    channel.end(ValueError("x"))
    assert channel.get() == 1
    with pytest.raises(ValueError, match="x"):
        channel.get()
    with pytest.raises(StopIteration):
        channel.get()
    full: Channel[int] = Channel(1)
    full.put(1)
    answers: list[bool] = []
    writer = threading.Thread(target=lambda: answers.append(full.put(2)))
    writer.start()
    full.leave()
    writer.join(2)
    assert answers == [False]
    assert CHUNKS_HELD >= 1
