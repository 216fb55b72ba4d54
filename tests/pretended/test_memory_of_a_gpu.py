"""Memory of a pretended GPU: what is no longer needed comes back at once."""

from __future__ import annotations

import copy
import gc
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from acoustic_models import sovits
from gpt_models import golden_gpt, random_request
from pretend_cuda import Machine, pretend_cuda

from gsv.engine.cuda_graphs import CapturedCalls
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.gpt.engine import Engine

pytestmark = pytest.mark.pretend

GPU = torch.device("cuda", 0)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with pretend_cuda() as machine:
        gc.collect()
        gc.disable()  # nothing may be left to a collection that comes at some time
        try:
            yield machine
        finally:
            gc.enable()


def test_a_gpt_that_is_removed(machine: Machine) -> None:
    engine = Engine(copy.deepcopy(golden_gpt("tiny")), GPU, slots=2, max_length=256)
    engine.warm_up()
    engine.start()
    request = random_request(np.random.default_rng(1), golden_gpt("tiny").config, 1, max_tokens=9)
    engine.generate(request)
    before = torch.cuda.memory_allocated()
    for _ in range(2):
        engine.add_model("voice", copy.deepcopy(golden_gpt("tiny")))
        assert torch.cuda.memory_allocated() > before
        engine.remove_model("voice")
        assert torch.cuda.memory_allocated() == before
    engine.stop()
    assert machine.log.faults == []


def test_an_estimator_that_is_removed(machine: Machine) -> None:
    engine = FlowEngine(copy.deepcopy(sovits("tiny").flow).to(GPU))
    engine.start()
    own = FlowRequest(torch.randn(48, 60), torch.rand(100, 20), steps=2, seed=1, model="voice")
    before = torch.cuda.memory_allocated()
    engine.add_model("voice", copy.deepcopy(sovits("tiny").flow).to(GPU))
    engine.run(own)
    assert torch.cuda.memory_allocated() > before
    engine.remove_model("voice")
    assert torch.cuda.memory_allocated() == before
    engine.stop()
    assert machine.log.faults == []


def test_no_garbage_is_collected_in_a_capture(machine: Machine) -> None:
    capturing = []

    class Cycle:
        """As a model's graphs that only the collector finds."""

        def __init__(self) -> None:
            self.own = self

        def __del__(self) -> None:
            capturing.append(torch.cuda.is_current_stream_capturing())

    def call() -> None:
        Cycle()
        assert len([[] for _ in range(100)]) == 100  # enough that a collection is due
        values.add_(1)

    values = torch.zeros(3, device=GPU)
    calls, before = CapturedCalls(GPU), gc.get_threshold()
    gc.enable()
    gc.set_threshold(1)
    try:
        calls.capture("one", call)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert capturing == [False, False]  # of the call before the capture, and of the captured one
    assert gc.isenabled()
