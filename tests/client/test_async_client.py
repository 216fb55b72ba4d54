"""The asyncio client: over a fake transport, and over gRPC against a real local server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from kserve_grpc import serve_grpc
from kserve_models import Models

from gsv_client import (
    AsyncClient,
    Audio,
    Cancelled,
    Chunk,
    Client,
    InvalidRequest,
    NotFound,
    ServerError,
    ServerUnavailable,
    SpeechOptions,
    Timeout,
    WordTime,
)
from gsv_client.testing import FakeAsyncTransport, FakeTransport
from gsv_client.transport import Request


def run(work: Callable[[AsyncClient], Awaitable[object]], client: AsyncClient) -> object:
    async def inside() -> object:
        async with client:
            return await work(client)

    return asyncio.run(inside())


@pytest.fixture
def address(models: Models) -> Iterator[str]:
    with serve_grpc(models) as url:
        yield url


async def pieces(*texts: str | None) -> AsyncIterator[str | None]:
    for text in texts:
        await asyncio.sleep(0)
        yield text


def test_say_stream_phones_voices(transport: FakeTransport) -> None:
    async def work(client: AsyncClient) -> None:
        audio = await client.say("Hello.", voice="demo", request_id="7")
        assert (type(audio), audio.duration) == (Audio, 0.6)
        chunks = [chunk async for chunk in client.stream("One. Two three.", sample_rate=16_000)]
        assert [(c.sentence, c.duration) for c in chunks] == [(0, 0.4), (1, 0.5), (1, 0.5)]
        assert (await client.phones("Hi.")).sentences[0].segments[0].phonemes == ("H", "i", ".")
        assert [voice.name for voice in await client.voices()] == ["demo"]
        assert (await client.health()).ready

    run(work, AsyncClient(transport=FakeAsyncTransport(transport)))
    assert [r.model for r in transport.requests[:2]] == ["gpt_sovits_v4", "gpt_sovits_v4_stream"]
    assert transport.requests[0].request_id == "7"


def test_times_come_where_they_are_offered() -> None:
    transport = FakeTransport(times=True)

    async def work(client: AsyncClient) -> None:
        assert "TIMES" in (await client.model_io("gpt_sovits_v4_stream")).outputs
        audio = await client.say("Hi you.", SpeechOptions(seed=1), times=True)
        assert audio.times == (WordTime("Hi", 0.0, 0.2), WordTime("you", 0.3, 0.6))
        chunks = [chunk async for chunk in client.stream("One. Two three.", times=True)]
        assert [w.word for c in chunks for w in c.times] == ["One", "Two", "three"]
        assert [w.start for c in chunks for w in c.times] == [0.0, 0.4, 0.8]
        transport.infer = lambda request: FakeTransport.infer(  # type: ignore[method-assign]
            transport, Request("gpt_sovits_v4", request.inputs, ("AUDIO", "SAMPLE_RATE"))
        )
        with pytest.raises(ServerError, match="TIMES"):
            await client.say("Hi.", times=True)  # the answer lacks them

    run(work, AsyncClient(transport=FakeAsyncTransport(transport)))


def test_both_clients_send_the_same_requests(transport: FakeTransport) -> None:
    """One place makes the requests of `Client` and `AsyncClient`."""
    words = ["One sentence is here. And", " another."]
    client = Client(transport=transport, timeout=9)
    client.say("Hello.", voice="demo", request_id="a", times=True, report=True)
    list(client.stream("Hello.", seed=3, request_id="b", times=True, report=True))
    list(client.stream_text(words, seed=3, request_id="c"))
    client.phones("Hi.", "en", split_method="cut0", voice="demo")
    client.voices()
    asked, transport.requests = transport.requests, []

    async def work(client: AsyncClient) -> None:
        await client.say("Hello.", voice="demo", request_id="a", times=True, report=True)
        _ = [
            chunk
            async for chunk in client.stream(
                "Hello.", seed=3, request_id="b", times=True, report=True
            )
        ]
        _ = [c async for c in client.stream_text(pieces(*words), seed=3, request_id="c")]
        await client.phones("Hi.", "en", split_method="cut0", voice="demo")
        await client.voices()

    run(work, AsyncClient(transport=FakeAsyncTransport(transport), timeout=9))
    assert len(asked) == 6
    assert sorted(map(repr, asked)) == sorted(map(repr, transport.requests))


def test_a_text_that_is_being_written(transport: FakeTransport) -> None:
    async def work(client: AsyncClient) -> list[Chunk]:
        stream = client.stream_text(
            pieces("It is ", "so. Fo", None, "rty", "-two"), seed=5, request_id="r"
        )
        return [chunk async for chunk in stream]

    chunks = run(work, AsyncClient(transport=FakeAsyncTransport(transport)))
    assert isinstance(chunks, list)
    assert [c.sentence for c in chunks] == sorted(c.sentence for c in chunks)
    asked = [(r.inputs["TEXT"][0, 0].decode(), int(r.inputs["SEED"][0, 0]), r.request_id)
             for r in transport.requests]  # fmt: skip
    assert sorted(asked, key=lambda item: item[1]) == [
        ("It is so.", 5, "r/0"), ("Fo", 6, "r/1"), ("rty-two", 7, "r/2"),
    ]  # fmt: skip


def test_leaving_a_text_stream_cancels_all_of_it(transport: FakeTransport) -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            await asyncio.sleep(0)
            yield "A sentence of the never ending kind. "

    async def work(client: AsyncClient) -> None:
        async with client.stream_text(endless()) as stream:
            await stream.__anext__()
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        assert left == []

    run(work, AsyncClient(transport=FakeAsyncTransport(transport, pace=0.001)))
    assert transport.closed >= 1


def test_errors_reach_the_reader_of_a_text_stream() -> None:
    refusing = FakeTransport(refuse=lambda request: ServerUnavailable("full"))

    async def broken() -> AsyncIterator[str]:
        yield "A first sentence. And"
        raise KeyError("the writer's own")

    async def work(client: AsyncClient) -> None:
        with pytest.raises(ServerUnavailable, match="full"):
            _ = [c async for c in client.stream_text(pieces("Hello there. "))]

    async def work_broken(client: AsyncClient) -> None:
        with pytest.raises(KeyError, match="own"):
            _ = [c async for c in client.stream_text(broken())]

    run(work, AsyncClient(transport=FakeAsyncTransport(refusing)))
    run(work_broken, AsyncClient(transport=FakeAsyncTransport()))


def test_over_grpc(address: str, models: Models) -> None:
    async def work(client: AsyncClient) -> None:
        assert (await client.say("Hello.", sample_rate=16_000, request_id="a")).rate == 16_000
        chunks = [chunk async for chunk in client.stream("count 4", request_id="b")]
        assert [c.sentence for c in chunks] == [0, 0, 1, 1]
        health = await client.health()
        assert (health.ready, health.version) == (True, "2.51.0")
        assert [m.name for m in await client.models()] == ["gpt_sovits_v4", "vocoder"]
        assert "AUDIO" in (await client.model_io("gpt_sovits_v4")).outputs
        with pytest.raises(InvalidRequest, match="VOICE: got 'nobody'"):
            await client.say("Hello.", voice="nobody")
        with pytest.raises(InvalidRequest, match="VOICE: got 'nobody'"):
            await client.stream("Hello.", voice="nobody").__anext__()
        with pytest.raises(ServerUnavailable, match="try again later"):
            await client.say("busy")
        with pytest.raises(ServerError, match="it broke in the middle"):
            _ = [chunk async for chunk in client.stream("breaks")]
        with pytest.raises(NotFound):
            await client.model_io("nothing")

    run(work, AsyncClient(address, timeout=10))
    assert [seen[2] for seen in models.seen[:2]] == ["a", "b"]


def test_a_wait_has_an_end(address: str) -> None:
    async def work(client: AsyncClient) -> None:
        with pytest.raises(Timeout):
            await client.stream("wait 5").__anext__()
        with pytest.raises(Timeout):
            await client.say("sleep 1")

    run(work, AsyncClient(address, timeout=0.2))


def test_leaving_reaches_the_server(address: str, models: Models) -> None:
    async def closes(client: AsyncClient) -> None:
        async with client.stream("count 1000") as stream:
            await stream.__anext__()
        with pytest.raises(Cancelled):
            await stream.__anext__()

    async def is_cancelled(client: AsyncClient) -> None:
        heard = asyncio.Event()

        async def listen() -> None:
            async for _ in client.stream("count 1000"):
                heard.set()

        task = asyncio.create_task(listen())
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for work in (closes, is_cancelled):
        models.cancelled.clear()
        run(work, AsyncClient(address, timeout=10))
        assert models.cancelled.wait(5)


def test_closing_from_another_task_wakes_the_reader(address: str) -> None:
    async def work(client: AsyncClient) -> None:
        stream = client.stream("wait 30")
        asyncio.get_running_loop().call_later(0.2, lambda: asyncio.ensure_future(stream.aclose()))
        with pytest.raises(Cancelled):
            await stream.__anext__()

    run(work, AsyncClient(address, timeout=10))


async def words() -> AsyncIterator[str]:
    """Of a text that goes on."""
    yield "wait 30. "
    await asyncio.sleep(30)


@pytest.mark.parametrize("by", ["another task", "the client", "the text"])
def test_whoever_reads_a_text_stream_hears_of_its_end(address: str, by: str) -> None:
    async def torn() -> AsyncIterator[str]:
        yield "A sentence. "
        await asyncio.sleep(0.2)
        raise asyncio.CancelledError

    async def work(client: AsyncClient) -> None:
        stream = client.stream_text(torn() if by == "the text" else words())
        reader = asyncio.create_task(_read_all(stream))
        await asyncio.sleep(0.1)
        if by == "another task":
            await stream.aclose()
        elif by == "the client":
            await client.aclose()
        done, _ = await asyncio.wait([reader], timeout=10)
        assert done
        with pytest.raises(Cancelled, match="the stream was closed"):
            reader.result()
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        assert left == []

    run(work, AsyncClient(address, timeout=20))


async def _read_all(stream: AsyncIterator[Chunk]) -> None:
    async for _ in stream:
        pass


def test_who_closes_while_nobody_waits_tells_the_reader(transport: FakeTransport) -> None:
    """What was heard is not all, and does not look like it."""

    async def work(client: AsyncClient) -> None:
        stream = client.stream_text(pieces("One. Two. Three. Four."))
        await stream.__anext__()
        await stream.aclose()
        with pytest.raises(Cancelled, match="the stream was closed"):
            await stream.__anext__()
        with pytest.raises(StopAsyncIteration):
            await stream.__anext__()

    run(work, AsyncClient(transport=FakeAsyncTransport(transport)))


def test_leaving_the_loop_over_a_text_stream_leaves_nothing(address: str, models: Models) -> None:
    async def endless() -> AsyncIterator[str]:
        while True:
            yield "count 1000 words. "
            await asyncio.sleep(0)

    async def work(client: AsyncClient) -> None:
        async for _ in client.stream_text(endless()):
            break
        gc.collect()
        for _ in range(50):
            left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            if not left:
                break
            await asyncio.sleep(0.1)
        assert left == []
        await asyncio.get_running_loop().run_in_executor(None, models.cancelled.wait, 5)
        assert models.cancelled.is_set()

    run(work, AsyncClient(address, timeout=10))


def test_a_task_that_reads_a_text_stream_and_is_cancelled_leaves_nothing(address: str) -> None:
    async def work(client: AsyncClient) -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_read_all(client.stream_text(words())), 0.2)
        await asyncio.sleep(0.05)
        left = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        assert left == []

    run(work, AsyncClient(address, timeout=20))


def test_leaving_the_loop_reaches_the_server(address: str, models: Models) -> None:
    async def work(client: AsyncClient) -> None:
        async for _ in client.stream("count 1000"):
            break
        await asyncio.get_running_loop().run_in_executor(None, models.cancelled.wait, 5)
        assert models.cancelled.is_set()

    run(work, AsyncClient(address, timeout=10))


def test_a_stream_may_outlive_its_event_loop(address: str) -> None:
    kept = []

    async def work() -> None:
        client = AsyncClient(address, timeout=10)
        kept.append(client.stream("count 1000"))
        await kept[0].__anext__()

    asyncio.run(work())
    kept.clear()


def test_nobody_there() -> None:
    async def work(client: AsyncClient) -> None:
        health = await client.health()
        assert not health.live
        with pytest.raises(ServerUnavailable, match="no server answers"):
            await client.say("Hello.")

    run(work, AsyncClient("127.0.0.1:9", timeout=5))


def test_only_grpc_addresses() -> None:
    with pytest.raises(InvalidRequest, match="protocol"):
        AsyncClient("http://localhost:8000")


def test_headers_of_one_request(address: str, models: Models) -> None:
    async def work(client: AsyncClient) -> None:
        await client.say("x", headers={"traceparent": "a"})
        [_ async for _ in client.stream("x", headers={"traceparent": "b"})]
        [_ async for _ in client.stream_text(pieces("x"), headers={"traceparent": "c"})]
        await client.say("x")

    run(work, AsyncClient(address, headers={"x-token": "secret"}))
    seen = [headers for *_, headers in models.seen]
    assert [headers.get("traceparent") for headers in seen] == ["a", "b", "c", None]
    assert {headers["x-token"] for headers in seen} == {"secret"}
