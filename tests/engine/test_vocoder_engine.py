"""The vocoder's engine: company and turns change no wave, and nobody waits for ever."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from acoustic_models import vocoder
from numpy.typing import NDArray
from torch import Tensor

from gsv.engine.give_way import GiveWay
from gsv.engine.turns import Turn
from gsv.engine.vocoder_engine import VocoderEngine, VocoderRequest, WindowLimits
from gsv.engine.vocoder_windows import GraphedVocoder
from gsv.errors import Cancelled, GsvError, Overloaded
from gsv.models.vocoder import Vocoder

WAIT = 30  # seconds; only a failing test waits that long
Wave = NDArray[np.float32]


def mel(frames: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(frames)
    return (rng.standard_normal((100, frames)) * 2 - 5).astype(np.float32)


def alone(*frames: int) -> list[Wave]:
    with torch.inference_mode():
        return [vocoder("tiny")(torch.from_numpy(mel(n))[None])[0, 0].numpy() for n in frames]


class Gate(GraphedVocoder):
    """The tiny vocoder, which waits at a gate for each batch and can be made to fail."""

    def __init__(self) -> None:
        super().__init__(vocoder("tiny"))
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.sizes: list[tuple[int, int]] = []
        self.failing: int | None = None  # frames of windows that fail

    def __call__(self, mel: Tensor) -> Tensor:
        self.entered.release()
        assert self.open.acquire(timeout=WAIT)
        self.sizes.append((mel.shape[0], mel.shape[2]))
        if mel.shape[2] == self.failing or (mel == 77).any():
            raise RuntimeError("out of memory")
        return super().__call__(mel)


class Answers:
    """Collects what the engine calls back with, for several requests in order."""

    def __init__(self) -> None:
        self._queue: queue.Queue[tuple[str, list[Wave] | BaseException]] = queue.Queue()

    def submit(self, engine: VocoderEngine, name: str, *frames: int, **turn: object):  # noqa: ANN201
        request = VocoderRequest([mel(n) for n in frames], Turn(**turn))
        return self.submit_request(engine, name, request)

    def submit_request(self, engine: VocoderEngine, name: str, request: VocoderRequest):  # noqa: ANN201
        return engine.submit(
            request,
            lambda waves: self._queue.put((name, waves)),
            lambda error: self._queue.put((name, error)),
        )

    def get(self) -> tuple[str, list[Wave] | BaseException]:
        return self._queue.get(timeout=WAIT)

    def empty(self) -> bool:
        return self._queue.empty()


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def gate() -> Gate:
    return Gate()


def engine_with(
    model: GraphedVocoder, limits: WindowLimits, waiting: int = 32
) -> Iterator[VocoderEngine]:
    made = VocoderEngine(model, limits, waiting)
    made.start()
    yield made
    if isinstance(model, Gate):
        model.open.release(1000)
    made.stop()


@pytest.fixture
def engine(gate: Gate) -> Iterator[VocoderEngine]:
    yield from engine_with(gate, WindowLimits(40))


@pytest.fixture
def batching(gate: Gate) -> Iterator[VocoderEngine]:
    yield from engine_with(gate, WindowLimits(64, 16, 256))


@pytest.mark.parametrize("limits", [WindowLimits(40), WindowLimits(64, 16, 256)])
def test_company_changes_no_wave(limits: WindowLimits, answers: Answers) -> None:
    model: Vocoder = vocoder("tiny")
    frames = {"a": (150, 37), "b": (5, 90, 64), "c": (0,), "d": (), "e": (150, 0, 64)}
    expected = {name: alone(*(n for n in own if n)) for name, own in frames.items()}
    for made in engine_with(GraphedVocoder(model), limits):
        for name, own in frames.items():
            answers.submit(made, name, *own, first_audio=name == "b")
        found = dict(answers.get() for _ in frames)
        stats = made.stats()
    for name, own in frames.items():
        waves = found[name]
        assert isinstance(waves, list), waves
        assert [len(wave) for wave in waves] == [480 * n for n in own]
        for one, other in zip([w for w in waves if len(w)], expected[name], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)
    assert (stats.finished, stats.running, stats.waiting) == (5, 0, 0)


def test_first_audio_waits_for_one_window_of_a_long_answer(
    gate: Gate, engine: VocoderEngine, answers: Answers
) -> None:
    answers.submit(engine, "long", 300, owner="long")
    assert gate.entered.acquire(timeout=WAIT)  # its first window is under way
    answers.submit(engine, "short", 30, owner="short", first_audio=True)
    gate.open.release(2)
    assert answers.get()[0] == "short"
    assert [size for _, size in gate.sizes[:2]] != [30, 30]
    gate.open.release(100)
    assert answers.get()[0] == "long"


def test_windows_of_whole_answers_rest_while_somebody_waits_elsewhere(answers: Answers) -> None:
    awaited = threading.Event()
    awaited.set()
    looked = threading.Semaphore(0)

    def look() -> bool:
        looked.release()
        return awaited.is_set()

    give_way = GiveWay(look, clock=lambda: 0.0)
    made = VocoderEngine(Gate(), WindowLimits(40), give_way=give_way)
    made._vocoder.open.release(1000)  # type: ignore[attr-defined]
    made.start()
    answers.submit(made, "whole", 60)
    for _ in range(3):
        assert looked.acquire(timeout=WAIT)
    assert answers.empty()
    answers.submit(made, "first", 10, first_audio=True)
    assert answers.get()[0] == "first"
    awaited.clear()
    assert answers.get()[0] == "whole"
    made.stop()


def test_requests_share_whatever_their_length(
    gate: Gate, engine: VocoderEngine, answers: Answers
) -> None:
    for n in range(8):
        answers.submit(engine, f"long {n}", 40, 39, 38, owner="long")
    answers.submit(engine, "short", 35, owner="short")
    gate.open.release(100)
    order = [answers.get()[0] for _ in range(9)]
    assert order.index("short") < 2


def test_equal_windows_of_several_requests_share_a_batch(
    gate: Gate, batching: VocoderEngine, answers: Answers
) -> None:
    answers.submit(batching, "first", 30)
    assert gate.entered.acquire(timeout=WAIT)
    for n in range(4):
        answers.submit(batching, str(n), 64)
    gate.open.release(100)
    for _ in range(5):
        assert isinstance(answers.get()[1], list)
    assert gate.sizes == [(1, 30), (4, 64)]


def test_a_cancelled_request_ends_between_two_windows(
    gate: Gate, engine: VocoderEngine, answers: Answers
) -> None:
    handle = answers.submit(engine, "long", 400)
    assert gate.entered.acquire(timeout=WAIT)
    assert engine.stats().running == 1
    handle.cancel()
    gate.open.release()
    assert isinstance(answers.get()[1], Cancelled)
    assert len(gate.sizes) == 1
    handle.cancel()  # without effect
    stats = engine.stats()
    assert (stats.cancelled, stats.running, stats.waiting) == (1, 0, 0)


def test_only_the_request_at_fault_fails(
    gate: Gate, batching: VocoderEngine, answers: Answers
) -> None:
    answers.submit(batching, "first", 30)
    assert gate.entered.acquire(timeout=WAIT)
    answers.submit_request(batching, "bad", VocoderRequest([np.full((100, 64), 77, np.float32)]))
    answers.submit(batching, "good", 64)
    gate.open.release(100)
    found = dict(answers.get() for _ in range(3))
    assert isinstance(found["bad"], GsvError)
    assert "out of memory" in str(found["bad"])
    good = found["good"]
    assert isinstance(good, list)
    np.testing.assert_allclose(good[0], alone(64)[0], atol=1e-6, rtol=0)
    assert batching.stats().failed == 1


def test_a_full_line_refuses_at_once(gate: Gate, answers: Answers) -> None:
    for made in engine_with(gate, WindowLimits(40), waiting=2):
        answers.submit(made, "a", 40)
        answers.submit(made, "b", 40)
        with pytest.raises(Overloaded, match=r"2 requests wait.*waiting_limit 2"):
            answers.submit(made, "c", 40)


def test_stopping_answers_everybody(gate: Gate, engine: VocoderEngine, answers: Answers) -> None:
    answers.submit(engine, "a", 400)
    answers.submit(engine, "b", 400)
    assert gate.entered.acquire(timeout=WAIT)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    while True:  # until the stop has been told
        try:
            answers.submit(engine, "late", 400)
        except GsvError:
            break
    gate.open.release()
    assert isinstance(answers.get()[1], Cancelled)
    stopper.join(WAIT)
    ended = ["a"]
    while not answers.empty():
        name, error = answers.get()
        assert isinstance(error, Cancelled)
        ended.append(name)
    assert "b" in ended
    with pytest.raises(GsvError, match="the vocoder engine has been stopped"):
        answers.submit(engine, "c", 40)


def test_a_broken_engine_reaches_everybody(engine: VocoderEngine, answers: Answers) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    engine._select = broken  # type: ignore[method-assign,assignment]
    answers.submit(engine, "a", 40)
    assert "the vocoder engine broke: a bug" in str(answers.get()[1])
    with pytest.raises(GsvError, match="the vocoder engine broke: a bug"):
        answers.submit(engine, "b", 40)


def test_what_a_request_waits_for_its_first_window_is_told(gate: Gate, answers: Answers) -> None:
    waits: list[float] = []
    engine = VocoderEngine(gate, WindowLimits(40), on_wait=waits.append)
    engine.start()
    answers.submit(engine, "a", 100)
    answers.submit(engine, "b", 20)
    assert gate.entered.acquire(timeout=WAIT)
    time.sleep(0.2)
    gate.open.release(1000)
    assert {answers.get()[0] for _ in range(2)} == {"a", "b"}
    engine.stop()
    first, second = waits  # once each, however many windows they have
    assert 0 <= first < 0.2 <= second
