"""The estimator's graphs: which shapes they serve, and on a GPU the same as plain calls."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from acoustic_models import sovits
from replayed import ReplayedCalls
from torch import Tensor
from torch.testing import assert_close

from gsv.engine.cuda_graphs import CapturedCalls
from gsv.engine.flow import graphed_estimator as flow_graphs
from gsv.engine.flow.engine import FlowEngine, FlowRequest
from gsv.engine.flow.graphed_estimator import GraphedEstimator, shapes

pytestmark = pytest.mark.usefixtures("no_grad")
needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def given(rows: int, frames: int, device: str = "cpu") -> tuple[Tensor, ...]:
    flow = sovits("tiny").flow
    generator = torch.Generator().manual_seed(rows)
    noisy = torch.randn(rows, frames, 100, generator=generator)
    condition = torch.randn(rows, 48, frames, generator=generator)
    inputs = flow.embed(condition, torch.zeros(rows, 100, 5))
    modulation = flow.schedule(4)[:1].expand(rows, -1).contiguous()
    lengths = torch.arange(frames, frames - rows, -1)
    return tuple(part.to(device) for part in (noisy, inputs, modulation, lengths))


class Calls:
    """As CapturedCalls on a GPU: a captured call is computed into the same tensors again."""

    def __init__(self, device: torch.device) -> None:
        self.kept: dict[Any, Any] = {}
        self.failing: set[Any] = set()
        self.replays = 0

    def __contains__(self, key: Any) -> bool:
        return key in self.kept

    def capture(self, key: Any, call: Any) -> None:
        if key not in self.failing:
            call()
            self.kept[key] = call

    @torch.inference_mode()
    def __call__(self, key: Any, call: Any) -> None:
        self.replays += 1
        made, own = self.kept[key].args
        made[0].copy_(sovits("tiny").flow.estimator(*vars(own).values()))


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> GraphedEstimator:
    """Graphs of four shapes."""
    monkeypatch.setattr(flow_graphs, "CapturedCalls", Calls)
    monkeypatch.setattr(flow_graphs, "ROW_BUCKETS", (1, 2, 4))
    monkeypatch.setattr(flow_graphs, "LENGTH_BUCKETS", (32, 64))
    monkeypatch.setattr(flow_graphs, "MOST_FRAMES", 128)
    monkeypatch.setattr(flow_graphs, "_SMALL", 64)
    made = GraphedEstimator(sovits("tiny").flow.estimator)
    made._disable = False
    return made


def test_on_a_cpu_it_is_the_estimator() -> None:
    estimator = sovits("tiny").flow.estimator
    made, arguments = GraphedEstimator(estimator), given(2, 30)
    made.capture_all()
    assert len(made) == 0
    assert made.bucket(1, 1) is None
    assert_close(made(*arguments), estimator(*arguments))


def test_a_plan_of_few_graphs() -> None:
    assert len(shapes()) <= 40
    assert all(rows * frames <= flow_graphs.MOST_FRAMES for rows, frames in shapes())
    assert {(1, 128), (1, 1024), (8, 1024), (16, 512)} <= set(shapes())


def test_a_batch_goes_to_the_smallest_shape_that_holds_it(graphed: GraphedEstimator) -> None:
    graphed.capture_all()
    assert sorted(graphed._captured) == [(1, 32), (1, 64), (2, 32), (2, 64), (4, 32)]
    for rows, frames, expected in [
        (1, 20, (1, 32)),
        (1, 33, (1, 64)),
        (2, 64, (2, 64)),
        (4, 30, (4, 32)),
        (3, 30, None),  # a third of the graph would be computed in vain
        (2, 30, (2, 32)),
        (2, 40, None),
        (1, 65, None),
        (4, 64, None),
    ]:
        assert graphed.bucket(rows, frames) == expected, (rows, frames)


def test_what_is_computed_in_vain_changes_nothing(graphed: GraphedEstimator) -> None:
    estimator = sovits("tiny").flow.estimator
    graphed.capture_all()
    storage = graphed._storage
    assert storage is not None
    for rows, frames in [(1, 20), (2, 60), (4, 29), (1, 64), (2, 31)]:
        noisy, inputs, modulation, lengths = given(rows, frames)
        for ragged in (lengths, None):
            storage.noisy.fill_(7.0)  # what another batch may have left
            storage.inputs.fill_(-3.0)
            made = graphed(noisy, inputs, modulation, ragged)
            wanted = estimator(noisy, inputs, modulation, ragged)
            assert made.shape == wanted.shape
            for row, length in enumerate(lengths if ragged is not None else [frames] * rows):
                assert_close(made[row, :length], wanted[row, :length], atol=2e-5, rtol=0)
    assert graphed._calls.replays == 10  # type: ignore[attr-defined]


def test_a_shape_without_memory_runs_without_a_graph(graphed: GraphedEstimator) -> None:
    graphed._calls.failing.add((1, 32))  # type: ignore[attr-defined]
    graphed.capture_all()
    assert len(graphed) == 4
    assert graphed.bucket(1, 32) == (1, 64)
    assert graphed.bucket(4, 32) == (4, 32)


def test_jobs_through_graphs_equal_jobs_without(
    graphed: GraphedEstimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches share the graphs' memory: whoever leaves one takes along what he has."""
    generator = torch.Generator().manual_seed(0)
    requests = [
        FlowRequest(
            torch.randn(48, frames, generator=generator),
            torch.rand(100, 9, generator=generator),
            steps,
            seed=frames,
        )
        for frames, steps in [(30, 3), (64, 5), (29, 2), (31, 7), (50, 4), (28, 1)]
    ]
    alone = [solve(FlowEngine(sovits("tiny").flow), [request])[0] for request in requests]
    graphed.capture_all()
    engine = FlowEngine(sovits("tiny").flow, slots=4, batch_frames=128)
    engine._runner._estimators[""] = graphed
    # Lengths are always given where graphs are.
    together = solve(engine, requests)
    assert graphed._calls.replays > 8  # type: ignore[attr-defined]
    for one, other in zip(together, alone, strict=True):
        assert_close(one, other, atol=5e-5, rtol=0)


def test_embeddings_through_graphs_equal_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_graphs, "CapturedCalls", ReplayedCalls)
    monkeypatch.setattr(flow_graphs, "LENGTH_BUCKETS", (32, 64))
    flow = sovits("tiny").flow
    graphed = flow_graphs.GraphedEmbedding(flow)
    graphed.capture_all()
    assert len(graphed) == 2
    generator = torch.Generator().manual_seed(0)
    made, wanted = [], []
    for frames, heard in [(64, 40), (20, 9), (33, 32), (32, 0), (70, 5)]:  # the last fits none
        condition = torch.randn(48, frames, generator=generator)
        prompt = torch.rand(100, heard, generator=generator)
        graphed._condition.fill_(float("nan"))  # what another request may have left
        graphed._prompt.fill_(float("nan"))
        made.append(graphed(condition, prompt))
        wanted.append(flow.embed(condition[None], prompt[None])[0])
    for one, other in zip(made, wanted, strict=True):
        assert_close(one, other, atol=2e-5, rtol=0)


def solve(engine: FlowEngine, requests: list[FlowRequest]) -> list[Tensor]:
    """All at once, in the order of the requests."""
    found: dict[int, Tensor | BaseException] = {}
    engine.start()
    with engine._changed:
        for index, request in enumerate(requests):
            put = lambda mel, index=index: found.update({index: mel})  # noqa: E731
            engine.submit(request, put, put)
    end = time.monotonic() + 60
    while len(found) < len(requests) and time.monotonic() < end:
        time.sleep(0.001)
    engine.stop()
    made = [found[index] for index in range(len(requests))]
    for one in made:
        assert isinstance(one, Tensor), one
    return made  # type: ignore[return-value]


@pytest.mark.parametrize("rows", [1, 3, 6])
@pytest.mark.parametrize("frames", [64, 128])
class TestOnCuda:
    pytestmark = needs_cuda

    def test_graphs_equal_plain_calls(self, rows: int, frames: int) -> None:
        estimator = copy.deepcopy(sovits("tiny").flow.estimator).cuda()
        graphed = GraphedEstimator(estimator)
        graphed.capture(8, 128)
        graphed.capture(1, 128)
        assert len(graphed) == 2
        for seed in range(3):
            noisy, *rest = given(rows, frames, "cuda")
            noisy = noisy + seed
            made, wanted = graphed(noisy, *rest), estimator(noisy, *rest)
            for row in range(rows):
                length = frames - row
                assert_close(made[row, :length], wanted[row, :length], atol=1e-4, rtol=0)
            noisy, inputs, modulation, _ = given(rows, frames, "cuda")
            full = (noisy, inputs, modulation, None)
            assert_close(graphed(*full), estimator(*full), atol=1e-4, rtol=0)

    def test_engine_equals_the_cpu(self, rows: int, frames: int) -> None:
        flow = sovits("tiny").flow
        request = FlowRequest(torch.randn(48, frames), torch.rand(100, 20), steps=4, seed=rows)
        made = []
        for own in (flow, copy.deepcopy(flow).cuda()):
            engine = FlowEngine(own)
            engine.start()
            engine.warm_up()
            made.append(engine.run(request))
            engine.stop()
        assert_close(made[0], made[1], atol=1e-3, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_calls_say_what_they_have() -> None:
    calls, values = CapturedCalls(torch.device("cuda")), torch.zeros(3, device="cuda")
    calls.capture("one", lambda: values.add_(1))
    assert "one" in calls
    assert "two" not in calls
