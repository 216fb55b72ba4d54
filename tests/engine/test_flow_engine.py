"""The flow engine with the tiny estimator: company changes nothing, and nobody waits for ever."""

from __future__ import annotations

import dataclasses
import math
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from acoustic_models import sovits
from golden import load_case, sizes
from torch import Tensor
from torch.testing import assert_close

from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.give_way import GiveWay
from gsv.engine.turns import Turn
from gsv.errors import Cancelled, ConfigurationError, GsvError, InvalidRequest, Overloaded
from gsv.models.flow import FlowMatching

WAIT = 30  # seconds; only a failing test waits that long


@pytest.fixture
def engine() -> Iterator[FlowEngine]:
    made = FlowEngine(sovits("tiny").flow, slots=8, waiting_limit=32)
    made.start()
    yield made
    made.stop()


def request(frames: int, steps: int = 4, seed: int = 0, **changes: Any) -> FlowRequest:
    config = sovits("tiny").config
    generator = torch.Generator().manual_seed(frames * 1000 + seed)
    prompt = frames // 3
    made = FlowRequest(
        condition=torch.randn(config.condition_channels, frames, generator=generator),
        prompt=torch.rand(config.mel_channels, prompt, generator=generator) * 2 - 1,
        steps=steps,
        seed=seed,
    )
    return dataclasses.replace(made, **changes)


class Answers:
    """Collects what the engine calls back with."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Tensor | BaseException] = queue.Queue()
        self.done = self.failed = self._queue.put

    def get(self) -> Tensor | BaseException:
        return self._queue.get(timeout=WAIT)


class Gate(FlowMatching):
    """The tiny flow, whose estimator waits at a gate and can be made to fail."""

    def __init__(self) -> None:
        super().__init__(sovits("tiny").config)
        self.load_state_dict(sovits("tiny").flow.state_dict())
        self.eval().requires_grad_(False)
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.error: Exception | None = None
        self.estimator.register_forward_pre_hook(self._wait)

    def _wait(self, *_: Any) -> None:
        self.entered.release()
        assert self.open.acquire(timeout=WAIT)
        if self.error is not None:
            raise self.error


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def gated(gate: Gate) -> Iterator[FlowEngine]:
    made = FlowEngine(gate, slots=2, waiting_limit=1)
    made.start()
    yield made
    for _ in range(1000):
        gate.open.release()
    made.stop()


@pytest.mark.parametrize("size", sizes("cfm"))
@pytest.mark.parametrize(
    ("output", "steps", "temperature"),
    [("x_n4_cfg0", 4, 1.0), ("x_n8_cfg0", 8, 1.0), ("x_n4_temp0p7", 4, 0.7)],
)
def test_sampler(size: str, output: str, steps: int, temperature: float) -> None:
    case = load_case(f"{size}_cfm")
    prompt = case.tensor("prompt")[0]
    engine = FlowEngine(sovits(size).flow)
    engine.start()
    made = engine.run(
        FlowRequest(
            condition=case.tensor("mu")[0].mT,
            prompt=prompt,
            steps=steps,
            temperature=temperature,
            noise=case.tensor("noise")[0, :, prompt.shape[1] :],
        )
    )
    engine.stop()
    # Upstream also returns the prompt's frames, which are zero.
    case.check(output, torch.nn.functional.pad(made, (prompt.shape[1], 0))[None])


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("size", sizes("cfm"))
def test_upstreams_guidance(size: str) -> None:
    """Upstream can push a velocity away from the one without condition; nothing here asks for it,
    but its arrays tell that the estimator is the same."""
    case, rate, steps = load_case(f"{size}_cfm"), 0.5, 4
    flow, prompt, condition = sovits(size).flow, case.tensor("prompt"), case.tensor("mu").mT
    start = prompt.shape[-1]
    noisy = case.tensor("noise").mT.clone()
    noisy[:, :start] = 0
    told = flow.embed(condition, prompt)
    untold = flow.embed(torch.zeros_like(condition), torch.zeros_like(prompt))
    for modulation in flow.schedule(steps):
        velocity, other = (flow.estimator(noisy, i, modulation[None]) for i in (told, untold))
        noisy[:, start:] += (velocity + (velocity - other) * rate)[:, start:] / steps
    case.check("x_n4_cfg0p5", noisy.mT)


@pytest.mark.parametrize("size", sizes("cfm_batch"))
def test_sampler_in_a_batch(size: str) -> None:
    case = load_case(f"{size}_cfm_batch")
    prompt, frames = case.tensor("prompt"), case.inputs["mu"].shape[1]
    start = prompt.shape[-1]
    lengths = {0: frames, 1: frames - 25, 2: frames}
    rows = {0: 0, 1: 1, 2: 1}
    requests = [
        FlowRequest(
            condition=case.tensor("mu")[rows[i], :length].mT,
            prompt=prompt[rows[i]],
            steps=4,
            noise=case.tensor("noise")[rows[i], :, start:length],
        )
        for i, length in lengths.items()
    ]
    full, cut, second = together(sovits(size).flow, requests)
    pad = torch.nn.functional.pad
    case.check("x_batch_full", torch.stack([pad(full, (start, 0)), pad(second, (start, 0))]))
    case.check("x_single_cut", pad(cut, (start, 0))[None])


def together(flow: FlowMatching, requests: list[FlowRequest]) -> list[Tensor]:
    """Results of requests that are all in work at once, in batches that take any length."""
    engine = FlowEngine(flow, slots=len(requests), batch_frames=100_000)
    engine._scheduler.max_padding = 1.0
    engine.start()
    answers = [Answers() for _ in requests]
    with engine._changed:  # so that all are there before the first step
        for each, answer in zip(requests, answers, strict=True):
            engine.submit(each, answer.done, answer.failed)
    results = [answer.get() for answer in answers]
    stats = engine.stats()
    engine.stop()
    assert stats.steps == max(each.steps for each in requests)
    assert stats.finished == len(requests)
    for result in results:
        assert isinstance(result, Tensor), result
    return results  # type: ignore[return-value]


def test_company_changes_nothing(engine: FlowEngine) -> None:
    requests = [
        request(90, steps=4, seed=1),
        request(30, steps=7, seed=2),
        request(61, steps=1, seed=3),
        request(90, steps=5, seed=4, sentence=3, first_frame=20),
        request(8, steps=4, seed=5, temperature=0.5),
    ]
    for made, each in zip(together(sovits("tiny").flow, requests), requests, strict=True):
        assert_close(made, engine.run(each), atol=2e-5, rtol=0)


def test_turns_change_nothing(engine: FlowEngine) -> None:
    requests = [request(60 + n % 3, steps=2 + n % 3, seed=n) for n in range(24)]
    alone = [engine.run(each) for each in requests]
    answers = [Answers() for _ in requests]
    for n, (each, answer) in enumerate(zip(requests, answers, strict=True)):
        turn = Turn(str(n % 5), first_audio=n % 4 == 0, buffered=[math.inf, 0.5][n % 2])
        engine.submit(dataclasses.replace(each, turn=turn), answer.done, answer.failed)
    for answer, one in zip(answers, alone, strict=True):
        assert_close(answer.get(), one, atol=2e-5, rtol=0)


def test_arrival_at_any_time_changes_nothing(gate: Gate) -> None:
    requests = [
        request(60, steps=6, seed=1),
        request(50, steps=2, seed=2),
        request(58, steps=9, seed=3),
    ]
    engine = FlowEngine(gate, slots=3)
    engine.start()
    answers = [Answers() for _ in requests]
    for each, answer in zip(requests, answers, strict=True):
        engine.submit(each, answer.done, answer.failed)
        assert gate.entered.acquire(timeout=WAIT)  # a step is under way: this one comes late
        gate.open.release()
    for _ in range(30):
        gate.open.release()
    mixed = [answer.get() for answer in answers]
    alone = [engine.run(each) for each in requests if [gate.open.release() for _ in range(20)]]
    rows_per_step = engine.stats().rows / engine.stats().steps
    engine.stop()
    assert rows_per_step > 1, "the late ones must have joined"
    for one, other in zip(mixed, alone, strict=True):
        assert_close(one, other, atol=2e-5, rtol=0)


def test_a_chunk_has_the_noise_of_its_place() -> None:
    whole = request(60, first_frame=0).initial_noise()
    assert_close(request(60, first_frame=15).initial_noise()[:10], whole[15:25])
    other = request(60, sentence=1).initial_noise()
    assert not torch.equal(whole, other)


def test_more_steps_than_allowed_and_wrong_shapes(engine: FlowEngine) -> None:
    answer = Answers()
    for steps in (0, 101):
        with pytest.raises(InvalidRequest, match=r"SAMPLE_STEPS: got \d+; allowed: 1 to 100"):
            engine.submit(request(30, steps=steps), answer.done, answer.failed)
    config = sovits("tiny").config
    wrong = [
        {"condition": torch.zeros(config.condition_channels + 1, 30)},
        {"condition": torch.zeros(config.condition_channels, 10)},  # nothing after the prompt
        {"noise": torch.zeros(config.mel_channels, 30)},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match=r"must be \[48, T\]"):
            engine.submit(request(30, **change), answer.done, answer.failed)
    with pytest.raises(ValueError, match=r"flow model 'other': allowed are \[''\]"):
        engine.submit(request(30, model="other"), answer.done, answer.failed)


def test_a_full_line_answers_at_once(gated: FlowEngine) -> None:
    answer = Answers()
    for _ in range(3):
        gated.submit(request(30), answer.done, answer.failed)
    with pytest.raises(Overloaded, match="waiting_limit 1"):
        gated.submit(request(30), answer.done, answer.failed)


def test_cancelling_frees_the_slot_within_a_step(gate: Gate, gated: FlowEngine) -> None:
    first, second, third = Answers(), Answers(), Answers()
    handle = gated.submit(request(30, steps=100), first.done, first.failed)
    assert gate.entered.acquire(timeout=WAIT)
    gated.submit(request(60, steps=1), second.done, second.failed)
    waiting = gated.submit(request(60), third.done, third.failed)
    handle.cancel()
    waiting.cancel()
    assert gated.stats().running >= 1
    for _ in range(2):  # the step under way, and that of the other request
        gate.open.release()
    assert isinstance(first.get(), Cancelled)
    assert isinstance(second.get(), Tensor)
    assert isinstance(third.get(), Cancelled)
    handle.cancel()  # without effect
    stats = gated.stats()
    assert (stats.cancelled, stats.finished, stats.running, stats.waiting) == (2, 1, 0, 0)


def test_a_failing_step_fails_its_jobs_only(gate: Gate, gated: FlowEngine) -> None:
    first, second = Answers(), Answers()
    gated.submit(request(30), first.done, first.failed)
    assert gate.entered.acquire(timeout=WAIT)
    gate.error = RuntimeError("out of memory")
    gate.open.release()
    error = first.get()
    assert isinstance(error, GsvError)
    assert "out of memory" in str(error)
    gate.error = None
    gated.submit(request(30, steps=1), second.done, second.failed)
    gate.open.release()
    assert isinstance(second.get(), Tensor)
    assert gated.stats().failed == 1


def test_frames_that_are_not_finite_are_an_error(engine: FlowEngine) -> None:
    answer = Answers()
    bad = request(30)
    bad.condition[0, 0] = float("nan")
    engine.submit(bad, answer.done, answer.failed)
    error = answer.get()
    assert isinstance(error, GsvError)
    assert "not finite" in str(error)


def test_stopping_answers_everybody(gate: Gate, gated: FlowEngine) -> None:
    answers = [Answers() for _ in range(3)]
    for answer in answers:
        gated.submit(request(30, steps=50), answer.done, answer.failed)
    assert gate.entered.acquire(timeout=WAIT)
    stopper = threading.Thread(target=gated.stop)
    stopper.start()
    gate.open.release()
    for answer in answers:
        assert "stopped" in str(answer.get())
    stopper.join(WAIT)
    with pytest.raises(GsvError, match="doesn't run"):
        gated.submit(request(30), answers[0].done, answers[0].failed)
    gated.start()
    for _ in range(4):
        gate.open.release()
    assert gated.run(request(30)).shape == (100, 20)


def test_a_broken_engine_reaches_every_waiter(gated: FlowEngine) -> None:
    answer = Answers()

    def broken() -> None:
        raise RuntimeError("a bug")

    gated._scheduler.admit = broken  # type: ignore[method-assign]
    gated.submit(request(30), answer.done, answer.failed)
    assert "a bug" in str(answer.get())
    with pytest.raises(GsvError, match="the flow engine broke: a bug"):
        gated.submit(request(30), answer.done, answer.failed)


def test_a_callback_may_submit_and_may_fail(engine: FlowEngine) -> None:
    answer = Answers()

    def then(mel: Tensor) -> None:
        engine.submit(request(31), answer.done, answer.failed)
        raise ValueError("the caller's own")

    engine.submit(request(30), then, answer.failed)
    assert isinstance(answer.get(), Tensor)
    assert engine.run(request(30)).shape == (100, 20)


def test_starting_twice(engine: FlowEngine) -> None:
    with pytest.raises(ConfigurationError, match="runs already"):
        engine.start()


def test_several_models() -> None:
    flow = sovits("tiny").flow
    engine = FlowEngine(flow)
    engine.add_model("zero", _zeroed(flow))
    engine.start()
    engine.warm_up()
    assert not torch.equal(engine.run(request(30)), engine.run(request(30, model="zero")))
    noise = request(30).initial_noise().mT
    assert_close(engine.run(request(30, model="zero")), noise)
    engine.stop()


def _zeroed(flow: FlowMatching) -> FlowMatching:
    made = FlowMatching(sovits("tiny").config)
    made.load_state_dict(flow.state_dict())
    made.estimator.output.weight.data.zero_()
    made.estimator.output.bias.data.zero_()
    return made.eval().requires_grad_(False)


def test_what_a_request_waits_for_its_first_step_is_told(gate: Gate) -> None:
    waits: list[float] = []
    engine = FlowEngine(gate, slots=1, waiting_limit=2, on_wait=waits.append)
    engine.start()
    answers = [Answers(), Answers()]
    for seed, answer in enumerate(answers):
        engine.submit(request(12, steps=2, seed=seed), answer.done, answer.failed)
    assert gate.entered.acquire(timeout=WAIT)
    time.sleep(0.2)
    gate.open.release(4)
    for answer in answers:
        assert isinstance(answer.get(), Tensor)
    engine.stop()
    first, second = waits  # once each, however many steps they have
    assert 0 <= first < 0.2 <= second


def test_warming_up_gives_way_to_nobody() -> None:
    """Those who wait for first audio wait for this very engine, when its process is a new one."""
    rests_for_ever = GiveWay(lambda: True, clock=lambda: 0.0)
    made = FlowEngine(sovits("tiny").flow, slots=2, waiting_limit=2, give_way=rests_for_ever)
    made.start()
    warming = threading.Thread(target=made.warm_up, daemon=True)
    warming.start()
    warming.join(WAIT)
    warm = not warming.is_alive()
    made.stop()
    assert warm
