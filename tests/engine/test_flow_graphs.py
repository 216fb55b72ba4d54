"""Flow matching on a CUDA device: graphs against plain calls, and against the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
from acoustic_models import sovits
from torch.testing import assert_close

from gsv.engine.flow import FlowEngine, FlowJob
from gsv.engine.flow_graphs import GraphedEstimator

pytestmark = pytest.mark.usefixtures("no_grad")
needs_cuda = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def given(rows: int, frames: int, device: str = "cpu") -> tuple[torch.Tensor, ...]:
    flow = sovits("tiny").flow
    generator = torch.Generator().manual_seed(rows)
    noisy = torch.randn(rows, frames, 100, generator=generator)
    condition = torch.randn(rows, 48, frames, generator=generator)
    inputs = flow.embed(condition, torch.zeros(rows, 100, 5))
    modulation = flow.schedule(4)[:1].expand(rows, -1)
    lengths = torch.arange(frames, frames - rows, -1)
    return tuple(part.to(device) for part in (noisy, inputs, modulation, lengths))


def test_without_graphs_it_is_the_estimator() -> None:
    estimator = sovits("tiny").flow.estimator
    arguments = given(2, 30)
    assert_close(GraphedEstimator(estimator, disable=True)(*arguments), estimator(*arguments))


def test_a_capture_that_fails_is_not_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(GraphedEstimator, "_capture", fail)
    estimator = sovits("tiny").flow.estimator
    graphed, arguments = GraphedEstimator(estimator, disable=False), given(1, 30)
    for _ in range(2):
        assert_close(graphed(*arguments), estimator(*arguments))
    assert caplog.text.count("without CUDA graphs: operation not permitted") == 1


@pytest.mark.parametrize("rows", [1, 3, 6])
@pytest.mark.parametrize("frames", [64, 128])
class TestOnCuda:
    pytestmark = needs_cuda

    def test_graphs_equal_plain_calls(self, rows: int, frames: int) -> None:
        estimator = copy.deepcopy(sovits("tiny").flow.estimator).cuda()
        graphed = GraphedEstimator(estimator, disable=False)
        for seed in range(3):
            noisy, *rest = given(rows, frames, "cuda")
            noisy = noisy + seed
            assert_close(graphed(noisy, *rest), estimator(noisy, *rest), atol=1e-4, rtol=0)
            noisy, inputs, modulation, _ = given(rows, frames, "cuda")
            full = (noisy, inputs, modulation, None)
            assert_close(graphed(*full), estimator(*full), atol=1e-4, rtol=0)

    def test_engine_equals_the_cpu(self, rows: int, frames: int) -> None:
        flow = sovits("tiny").flow
        job = FlowJob(torch.randn(48, frames), torch.rand(100, 20), steps=4, seed=rows)
        made = []
        for own in (flow, copy.deepcopy(flow).cuda()):
            engine = FlowEngine(own)
            engine.start()
            made.append(engine.run(job).cpu())
            engine.stop()
        assert_close(made[0], made[1], atol=1e-3, rtol=0)
