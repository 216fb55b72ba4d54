"""A sequence that begins from tokens drawn before goes on as the uninterrupted one would."""

from __future__ import annotations

import dataclasses
import os
import threading

import numpy as np
import pytest
from gpt_models import KnownGPT, golden_config, golden_gpt, known_request, random_request

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when the kernels are defined

from gsv.engine.gpt import engine as engine_module
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.gpu_model_runner import GpuModelRunner
from gsv.engine.gpt.sequence import SequenceRequest
from gsv.errors import InvalidRequest

PATIENCE = 60  # seconds after which a test that waits has failed


def after(request: SequenceRequest, tokens: list[int]) -> SequenceRequest:
    return dataclasses.replace(request, prefix_tokens=np.array(tokens, np.int32))


def together(engine: Engine, requests: list[SequenceRequest]) -> list[list[int]]:
    """All at once, each one's tokens."""
    answers: list[list[int]] = [[] for _ in requests]
    errors: list[BaseException] = []
    open_ones = threading.Semaphore(0)

    def submit(index: int, request: SequenceRequest) -> None:
        def on_tokens(tokens: np.ndarray, last: bool) -> None:
            answers[index].extend(tokens.tolist())
            if last:
                open_ones.release()

        def on_error(error: BaseException) -> None:
            errors.append(error)
            open_ones.release()

        engine.submit(request, on_tokens, on_error)

    for index, request in enumerate(requests):
        submit(index, request)
    for _ in requests:
        assert open_ones.acquire(timeout=PATIENCE)
    assert not errors
    return answers


def known_requests(count: int) -> list[SequenceRequest]:
    rng = np.random.default_rng(count)
    return [
        known_request(
            rng.integers(0, 50, rng.integers(1, 20)).tolist(),
            rng.integers(0, 16, rng.integers(0, 9)).tolist(),
            sentence=n % 3,
            seed=n,
            top_k=int(rng.integers(2, 18)),
            top_p=float(rng.choice([0.6, 1.0])),
            temperature=float(rng.choice([0.7, 1.3])),
            repetition_penalty=2.0,
            max_tokens=int(rng.integers(2, 40)),
        )
        for n in range(count)
    ]


def check_continues(engine: Engine, requests: list[SequenceRequest], cuts: list[int]) -> int:
    """Every request, taken up again after each of ``cuts`` tokens; the number of runs compared."""
    asked, expected = [], []
    for request in requests:
        whole = engine.generate(request).tolist()
        for cut in cuts:
            if cut < min(len(whole) + 1, request.params.max_tokens):
                asked.append(after(request, whole[:cut]))
                expected.append(whole[cut:])
    assert together(engine, asked) == expected
    return len(asked)


def test_it_goes_on_from_any_token_with_company_of_any_kind() -> None:
    """Noise, barred EOS, penalties and the limit are those of the whole sentence."""
    engine = Engine(KnownGPT(), slots=5, max_length=256, waiting_limit=5000)
    engine.start()
    try:
        assert check_continues(engine, known_requests(40), list(range(40))) > 500
    finally:
        engine.stop()


@pytest.mark.golden
@pytest.mark.parametrize("kind", ["ModelRunner", "GpuModelRunner"])
def test_the_real_model_goes_on_in_float32(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "GpuModelRunner":
        monkeypatch.setattr(engine_module, "ModelRunner", GpuModelRunner)
    rng = np.random.default_rng(3)
    requests = [random_request(rng, golden_config("tiny"), seed=n, max_tokens=60) for n in range(4)]
    engine = Engine(golden_gpt("tiny"), slots=3, max_length=400, waiting_limit=100)
    engine.warm_up()
    engine.start()
    try:
        assert check_continues(engine, requests, [1, 5, 11, 12, 40]) >= 8
    finally:
        engine.stop()


def test_only_new_tokens_are_delivered_in_chunks() -> None:
    engine = Engine(KnownGPT(), slots=2, max_length=256)
    engine.start()
    request = known_request([1, 2, 3], seed=4, max_tokens=30, chunk_tokens=4)
    chunks: list[list[int]] = []
    ended = threading.Event()

    def on_tokens(tokens: np.ndarray, last: bool) -> None:
        chunks.append(tokens.tolist())
        if last:
            ended.set()

    try:
        whole = engine.generate(dataclasses.replace(request, chunk_tokens=0)).tolist()
        assert len(whole) > 10
        engine.submit(after(request, whole[:5]), on_tokens, lambda error: pytest.fail(str(error)))
        assert ended.wait(PATIENCE)
    finally:
        engine.stop()
    assert sum(chunks, []) == whole[5:]
    assert len(chunks[0]) == 4


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([16], "PREFIX_TOKENS: got 16; allowed: 0 to 15"),
        ([-1], "PREFIX_TOKENS: got -1"),
        (
            [0] * 40,
            "PREFIX_TOKENS: got '40 tokens'; allowed: fewer than the 40 of a whole sentence",
        ),
    ],
)
def test_what_no_sentence_can_have_begun_with_is_refused(tokens: list[int], message: str) -> None:
    engine = Engine(KnownGPT(), slots=2, max_length=256)
    request = after(known_request([1, 2, 3]), tokens)
    with pytest.raises(InvalidRequest, match=message):
        engine.submit(request, lambda *_: None, lambda *_: None)
