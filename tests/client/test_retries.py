"""Calls that are made again: when, how often, with which seed, and never beyond the timeout."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from click.testing import CliRunner
from kserve_models import Models

from gsv_client import AsyncClient, Client
from gsv_client.cli import main
from gsv_client.errors import (
    Cancelled,
    GsvClientError,
    InvalidRequest,
    ServerError,
    ServerUnavailable,
    Timeout,
    from_status,
)
from gsv_client.retries import Attempts
from gsv_client.testing import FakeAsyncTransport, FakeTransport
from gsv_client.transport.base import Patience, Request, Tensors

REQUEST = Request("gpt_sovits_v4", {}, (), timeout=10.0)
FULL = from_status(503, "the line is full; try again later", "http://h")
SOON = from_status(503, "vocoder is being loaded again; try again in 0.05 s", "http://h")


def failing(*errors: GsvClientError) -> Callable[[Request], GsvClientError | None]:
    """Refuses the first requests with these errors."""
    left = list(errors)
    return lambda request: left.pop(0) if left else None


def seeds(transport: FakeTransport) -> list[int]:
    return [int(request.inputs["SEED"][0, 0]) for request in transport.requests]


class Once:
    """A stream of one answer, and an error."""

    def __init__(self, answer: Tensors, error: GsvClientError) -> None:
        self._answers = [answer]
        self._error = error

    def __iter__(self) -> Once:
        return self

    def __next__(self) -> Tensors:
        if self._answers:
            return self._answers.pop()
        raise self._error

    def close(self) -> None:
        pass


class TestAttempts:
    def test_pauses_grow_and_vary(self) -> None:
        attempts = Attempts(7, Request("m", {}, (), timeout=100.0))
        pauses = [attempts.pause_after(FULL) for _ in range(7)]
        for pause, shortest in zip(pauses, (0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0), strict=True):
            assert shortest <= pause <= 1.2 * shortest
        with pytest.raises(ServerUnavailable, match="the line is full"):
            attempts.pause_after(FULL)

    def test_the_wait_that_the_server_names(self) -> None:
        error = from_status(503, "stopping; try again in 3 s", "http://h")
        assert isinstance(error, ServerUnavailable)
        assert error.wait == 3.0
        assert 3.0 <= Attempts(1, REQUEST).pause_after(error) <= 3.6

    def test_the_gateway_hands_that_wait_on(self) -> None:
        problems = pytest.importorskip("gsv_client.gateway.problems")  # starlette is an extra
        error = from_status(503, "stopping; try again in 4.2 s", "http://h")
        assert problems.Problem.of(error).response().headers["Retry-After"] == "5"
        assert problems.Problem.of(FULL).response().headers["Retry-After"] == "2"

    def test_the_time_until_there_is_audio(self) -> None:
        """An empty chunk, which only says that the server is at work, does not begin it anew."""
        now = 0.0
        patience = Patience(Request("m", {}, (), timeout=10.0, first_timeout=3.0), lambda: now)
        assert patience.seconds() == 3.0
        now = 2.0
        patience.take({"AUDIO": np.zeros((1, 0), np.float32)})
        assert patience.seconds() == 1.0
        now = 5.0
        assert 0 < patience.seconds() < 0.1
        patience.take({"AUDIO": np.zeros((1, 5), np.float32)})
        assert patience.seconds() == 10.0

    def test_all_share_the_timeout(self) -> None:
        now = 0.0
        attempts = Attempts(9, REQUEST, lambda: now)
        assert attempts.request is REQUEST
        now = 9.0
        attempts.pause_after(FULL)
        assert attempts.request.first_timeout == pytest.approx(1.0)
        assert attempts.request.timeout == 10.0
        now = 9.6
        with pytest.raises(ServerUnavailable):  # the pause would end after the timeout
            attempts.pause_after(FULL)

    @pytest.mark.parametrize(
        "error",
        [
            InvalidRequest("SPEED: got 9; allowed: 0.6 to 1.65"),
            Timeout("no answer within 10 s"),
            ServerError("it broke"),
            from_status(503, "voice anna: reference.wav is missing", "http://h"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_what_time_does_not_mend(self, error: GsvClientError) -> None:
        with pytest.raises(type(error)):
            Attempts(3, REQUEST).pause_after(error)

    @pytest.mark.parametrize("retries", [-1, 1.5, True, "2"])
    def test_no_number_of_times(self, retries: object) -> None:
        with pytest.raises(InvalidRequest, match=r"retries: got .*; allowed: a whole"):
            Client(transport=FakeTransport(), retries=retries)  # type: ignore[arg-type]


class TestClient:
    def test_nothing_is_made_again_unless_told(self) -> None:
        transport = FakeTransport(refuse=failing(SOON))
        with pytest.raises(ServerUnavailable):
            Client(transport=transport).say("Hello.")
        assert "SEED" not in transport.requests[0].inputs
        assert len(transport.requests) == 1

    @pytest.mark.parametrize("given", [None, -1])
    def test_a_random_seed_is_drawn_once(self, given: int | None) -> None:
        transport = FakeTransport(refuse=failing(SOON, SOON))
        client = Client(transport=transport, retries=2)
        client.say("Hello.", seed=given)
        client.say("Hello.", seed=given)
        first, again, third, other = seeds(transport)
        assert first == again == third >= 0
        assert other != first

    def test_a_seed_of_the_callers_stays(self) -> None:
        transport = FakeTransport(refuse=failing(SOON))
        Client(transport=transport, retries=1).say("Hello.", seed=0)
        assert seeds(transport) == [0, 0]

    def test_other_calls_too(self) -> None:
        transport = FakeTransport(refuse=failing(SOON))
        client = Client(transport=transport, retries=1)
        assert client.phones("Hi.").sentences
        transport = FakeTransport(refuse=failing(SOON))
        assert len(list(Client(transport=transport, retries=1).voices())) == 1

    def test_it_gives_up(self) -> None:
        transport = FakeTransport(refuse=lambda request: SOON)
        with pytest.raises(ServerUnavailable, match="being loaded again"):
            Client(transport=transport, retries=2).say("Hello.")
        assert len(transport.requests) == 3

    def test_a_stream_before_its_first_chunk(self) -> None:
        transport = FakeTransport(refuse=failing(SOON, SOON))
        chunks = list(Client(transport=transport, retries=2).stream("Hello there. You."))
        assert len(chunks) > 1
        assert len(set(seeds(transport))) == 1
        assert len(transport.requests) == 3

    def test_a_stream_that_breaks_later_does_not_begin_again(self) -> None:
        transport = FakeTransport(break_after=1, broken=SOON)
        stream = Client(transport=transport, retries=5).stream("Hello there. You.")
        next(stream)
        with pytest.raises(ServerUnavailable):
            next(stream)
        assert len(transport.requests) == 1

    def test_a_stream_of_which_nothing_was_heard_begins_again(self) -> None:
        index = np.array([[0]], np.int32)
        empty = {
            "AUDIO": np.zeros((1, 0), np.float32),
            "SAMPLE_RATE": np.array([[48_000]], np.int32),
            "SENTENCE_INDEX": index,
        }

        class Waiting(FakeTransport):
            opened = 0

            def stream(self, request: Request) -> Iterator[Tensors]:  # type: ignore[override]
                self.opened += 1
                return Once(empty, SOON) if self.opened == 1 else super().stream(request)

        transport = Waiting()
        assert list(Client(transport=transport, retries=1).stream("Hello there."))
        assert transport.opened == 2

    def test_a_text_that_is_being_written(self) -> None:
        transport = FakeTransport(refuse=failing(SOON))
        words = iter(["One sentence is here. And", " another."])
        client = Client(transport=transport, retries=1)
        assert [c.sentence for c in client.stream_text(words, seed=5)][-1] == 1
        assert sorted(seeds(transport)) in ([5, 5, 6], [5, 6, 6])

    def test_closing_ends_the_pause(self) -> None:
        wait = from_status(503, "stopping; try again in 30 s", "http://h")
        transport = FakeTransport(refuse=lambda request: wait)
        stream = Client(transport=transport, retries=1).stream("Hello.")
        threading.Timer(0.1, stream.close).start()
        began = time.monotonic()
        with pytest.raises(Cancelled):
            next(stream)
        assert time.monotonic() - began < 2.0


class TestAsyncClient:
    def test_answers_and_streams(self) -> None:
        transport = FakeTransport(refuse=failing(SOON, SOON))

        async def work() -> None:
            client = AsyncClient(transport=FakeAsyncTransport(transport), retries=2)
            await client.say("Hello.")
            assert [chunk async for chunk in client.stream("Hello.")]

        asyncio.run(work())
        first, again, third, other = seeds(transport)
        assert first == again == third != other

    def test_closing_ends_the_pause(self) -> None:
        wait = from_status(503, "stopping; try again in 30 s", "http://h")

        async def work() -> None:
            transport = FakeTransport(refuse=lambda request: wait)
            client = AsyncClient(transport=FakeAsyncTransport(transport), retries=1)
            stream = client.stream("Hello.")
            asyncio.get_running_loop().call_later(
                0.1, lambda: asyncio.ensure_future(stream.aclose())
            )
            with pytest.raises(Cancelled):
                await stream.__anext__()

        asyncio.run(asyncio.wait_for(work(), 5))

    def test_a_stream_that_breaks_later_does_not_begin_again(self) -> None:
        transport = FakeTransport(break_after=1, broken=SOON)

        async def work() -> None:
            client = AsyncClient(transport=FakeAsyncTransport(transport), retries=5)
            with pytest.raises(ServerUnavailable):
                _ = [chunk async for chunk in client.stream("Hello there. You.")]

        asyncio.run(work())
        assert len(transport.requests) == 1


class TestServers:
    """The same over HTTP and gRPC."""

    @pytest.fixture
    def retrying(self, address: str) -> Iterator[Client]:
        with Client(address, timeout=5, retries=3) as client:
            yield client

    def test_answers(self, retrying: Client, models: Models) -> None:
        retrying.say("busy 2")
        sent = [int(np.ravel(inputs["SEED"])[0]) for _, inputs, _, _ in models.seen]
        assert len(sent) == 3
        assert len(set(sent)) == 1

    def test_streams(self, retrying: Client, models: Models) -> None:
        assert len(list(retrying.stream("busy 2"))) == 3
        assert len(models.seen) == 3

    def test_it_ends_within_the_timeout(self, address: str) -> None:
        for ask in (lambda c: c.say("busy 99"), lambda c: list(c.stream("busy 99"))):
            with Client(address, timeout=0.8, retries=99) as client:
                began = time.monotonic()
                with pytest.raises(ServerUnavailable):
                    ask(client)
                assert time.monotonic() - began < 1.5

    def test_later_chunks_have_the_whole_timeout(self, address: str, models: Models) -> None:
        # The second attempt has less than 0.7 s for its first chunk, and that is not kept.
        models.pause_after_first = 0.7
        with Client(address, timeout=1.0, retries=3) as client:
            assert len(list(client.stream("busy 3"))) == 3

    def test_nobody_there(self) -> None:
        began = time.monotonic()
        with (
            Client("http://127.0.0.1:1", timeout=1.0, retries=9) as client,
            pytest.raises(ServerUnavailable),
        ):
            client.say("Hello.")
        assert 0.2 < time.monotonic() - began < 2.0

    def test_the_command(self, address: str, models: Models) -> None:
        say = ["say", "busy 1", "--url", address, "-o", "-", "--format", "raw", "-q"]
        assert CliRunner().invoke(main, say).exit_code == 1
        models.seen.clear()
        assert CliRunner().invoke(main, [*say, "--retries", "1"]).exit_code == 0
