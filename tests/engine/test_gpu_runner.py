"""The runner for GPUs, on a CPU: the same tokens, one step ahead, with graphs or without."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Callable

import numpy as np
import pytest
from gpt_models import golden_config, golden_gpt, random_request
from replayed import ReplayedCalls

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are defined

from gsv.engine.cuda_graphs import length_buckets, row_buckets
from gsv.engine.gpt import engine as engine_module
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.gpu_model_runner import GpuModelRunner
from gsv.engine.gpt.sequence import SequenceRequest
from gsv.errors import Cancelled

pytestmark = pytest.mark.golden


def requests(count: int = 9) -> list[SequenceRequest]:
    rng = np.random.default_rng(2)
    config = golden_config("tiny")
    made = []
    for n in range(count):
        settings = {"top_k": int(rng.choice([5, 15, 100])), "top_p": float(rng.choice([1.0, 0.8]))}
        limit = int(rng.integers(1, 120))
        made.append(random_request(rng, config, seed=n, max_tokens=limit, **settings))
    return made


def together(engine: Engine, asked: list[SequenceRequest]) -> list[list[int]]:
    """All at once, each one's tokens."""
    answers: list[list[int]] = [[] for _ in asked]
    ended = [threading.Event() for _ in asked]

    def collect(index: int) -> Callable[[np.ndarray, bool], None]:
        def on_tokens(tokens: np.ndarray, last: bool) -> None:
            assert not ended[index].is_set(), "an end was told twice"
            answers[index].extend(tokens.tolist())
            if last:
                ended[index].set()

        return on_tokens

    for index, request in enumerate(asked):
        engine.submit(request, collect(index), lambda error: pytest.fail(str(error)))
    for event in ended:
        assert event.wait(60)
    return answers


def running(monkeypatch: pytest.MonkeyPatch, kind: type, **options: object) -> Engine:
    monkeypatch.setattr(engine_module, "ModelRunner", kind)
    defaults = {"slots": 3, "max_length": 700, "waiting_limit": 100}
    engine = Engine(golden_gpt("tiny"), **{**defaults, **options})
    engine.warm_up()
    engine.start()
    return engine


def test_the_kernel_draws_beside_the_plain_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in float32, which has no decoder of its own."""
    pytest.importorskip("triton", reason="Triton's language is not installed")
    asked = [
        dataclasses.replace(request, params=dataclasses.replace(request.params, max_tokens=4))
        for request in requests(2)
    ]
    plain = running(monkeypatch, engine_module.ModelRunner)
    expected = [plain.generate(request).tolist() for request in asked]
    plain.stop()
    monkeypatch.setattr("gsv.engine.gpt.gpu_model_runner.triton_serves", lambda _: True)
    engine = running(monkeypatch, GpuModelRunner)
    try:
        assert together(engine, asked) == expected
    finally:
        engine.stop()


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("readers", [1, 4])
def test_tokens_equal_those_of_the_plain_runner(
    monkeypatch: pytest.MonkeyPatch, graphs: bool, readers: int
) -> None:
    if graphs:
        for module in ("gpu_model_runner", "prompt_reader"):
            monkeypatch.setattr(f"gsv.engine.gpt.{module}.CapturedCalls", ReplayedCalls)
    monkeypatch.setattr("gsv.engine.gpt.prompt_reader.SLOTS_PER_READER", 4 // readers)
    asked = requests()
    plain = running(monkeypatch, engine_module.ModelRunner)
    expected = [plain.generate(request).tolist() for request in asked]
    plain.stop()
    engine = running(monkeypatch, GpuModelRunner)
    try:
        runner = engine._workers[""].runner
        captured = [len(runner._calls), *map(len, runner._readers)]
        assert [engine.generate(request).tolist() for request in asked] == expected
        assert together(engine, asked) == expected
        # Nothing is captured while somebody waits.
        assert [len(runner._calls), *map(len, runner._readers)] == captured
    finally:
        engine.stop()
    # 3 row buckets of (3 lengths and 2 ways to draw), and prompts of 64 to 640 positions
    assert captured == ([3 * (3 + 2)] + [10] * readers if graphs else [0] * (1 + readers))
    counters = engine.stats().counters
    assert counters.finished == 2 * len(asked)
    assert counters.tokens == 2 * sum(map(len, expected))


def test_a_prompt_longer_than_its_graphs_is_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gsv.engine.gpt.prompt_reader.CapturedCalls", ReplayedCalls)
    monkeypatch.setattr("gsv.engine.gpt.prompt_reader.PROMPT_GRAPHS", 64)
    rng = np.random.default_rng(5)
    asked = [random_request(rng, golden_config("tiny"), seed=n, max_tokens=9) for n in range(4)]
    lengths = [len(request.phonemes) + len(request.spoken_tokens) for request in asked]
    assert min(lengths) <= 64 < max(lengths), "both kinds"
    plain = running(monkeypatch, engine_module.ModelRunner)
    expected = [plain.generate(request).tolist() for request in asked]
    plain.stop()
    engine = running(monkeypatch, GpuModelRunner)
    try:
        assert together(engine, asked) == expected
    finally:
        engine.stop()


def test_a_cancelled_sequence_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    asked = [random_request(rng, golden_config("tiny"), seed=3, max_tokens=60)] * 2
    engine = running(monkeypatch, GpuModelRunner)
    try:
        expected = engine.generate(asked[0]).tolist()
        errors: list[BaseException] = []
        tokens: list[int] = []

        def on_tokens(made: np.ndarray, last: bool) -> None:
            tokens.extend(made.tolist())

        leaving = engine.submit(
            SequenceRequest(**{**vars(asked[0]), "chunk_tokens": 1}), on_tokens, errors.append
        )
        while len(tokens) < 3:
            pass
        leaving.cancel()
        assert engine.generate(asked[1]).tolist() == expected
    finally:
        engine.stop()
    assert [type(error) for error in errors] == [Cancelled]
    assert tokens == expected[: len(tokens)]


def test_buckets_cover_every_number() -> None:
    for slots in (1, 2, 3, 32, 48):
        assert row_buckets(slots)[0] == 1
        assert row_buckets(slots)[-1] == slots
    assert length_buckets(2560)[-1] == 2560
    assert length_buckets(256) == [256]
