"""Faults that are put into the product on purpose: each check must find its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpt_models import golden_gpt, random_request
from pretend_cuda import (
    IllegalCapture,
    Log,
    Machine,
    Misplaced,
    Site,
    StaleMemory,
    pretend_cuda,
)
from pretended.waiting import ALLOWED, LOADING, unlisted, unneeded
from torch import Tensor

from gsv.engine.cuda_graphs import CapturedCalls
from gsv.engine.gpt.engine import Engine
from gsv.engine.gpt.worker import Worker
from gsv.models.gpt import SemanticGPT

pytestmark = pytest.mark.pretend

GPU = torch.device("cuda", 0)


def write(machine: Machine) -> list[int]:
    """The tokens of one short sentence, from an engine that is loaded for it."""
    engine = _load()
    engine.start()
    try:
        request = random_request(
            np.random.default_rng(1), golden_gpt("tiny").config, 1, max_tokens=20
        )
        return [int(token) for token in engine.generate(request)]
    finally:
        engine.stop()


def _load() -> Engine:
    engine = Engine(copy.deepcopy(golden_gpt("tiny")), GPU, slots=1, max_length=256)
    engine.warm_up()
    return engine


def spoiled(
    monkeypatch: pytest.MonkeyPatch, kind: type, name: str, spoil: Callable[..., Any]
) -> None:
    """Let ``spoil`` see and change what the method answers."""
    method = getattr(kind, name)

    def changed(self: Any, *args: Any, **kwargs: Any) -> Any:
        return spoil(method(self, *args, **kwargs))

    monkeypatch.setattr(kind, name, changed)


@pytest.fixture
def loading() -> set[Site]:
    return {Site(Path(__file__).name, "_load")}


def test_without_faults_nothing_is_found(loading: set[Site]) -> None:
    with pretend_cuda(loading=loading) as machine:
        assert len(write(machine)) > 3
    assert machine.log.faults == []
    assert unlisted(machine.log) == []


def test_a_misplaced_tensor(monkeypatch: pytest.MonkeyPatch, loading: set[Site]) -> None:
    spoiled(monkeypatch, SemanticGPT, "decode", lambda logits: logits + torch.zeros(1025))
    with pretend_cuda(loading=loading) as machine:
        with pytest.raises(Misplaced, match=r"on cuda:0, \(1025,\) on cpu"):
            write(machine)
        assert isinstance(machine.log.faults[0], Misplaced)


def test_a_wait_in_a_capture(monkeypatch: pytest.MonkeyPatch, loading: set[Site]) -> None:
    def check(logits: Tensor) -> Tensor:
        assert logits.isfinite().all()
        return logits

    spoiled(monkeypatch, SemanticGPT, "decode", check)
    with pretend_cuda(loading=loading) as machine:
        with pytest.raises(IllegalCapture, match="stream is capturing: __bool__"):
            write(machine)
        assert isinstance(machine.log.faults[0], IllegalCapture)


def test_graphs_that_share_what_they_should_not() -> None:
    with pretend_cuda() as machine:
        made: dict[str, Tensor] = {}
        x, calls = torch.ones(4, device=GPU), CapturedCalls(GPU)

        def keep(name: str, factor: int) -> None:
            made[name] = x * factor

        for name, factor in (("two", 2), ("three", 3)):
            calls.capture(name, lambda name=name, factor=factor: keep(name, factor))
        for name in ("two", "three"):
            calls(name, lambda: None)
        assert made["three"].tolist() == [3] * 4
        with pytest.raises(StaleMemory):
            made["two"].tolist()
        assert isinstance(machine.log.faults[0], StaleMemory)


def test_a_wait_that_is_not_listed(monkeypatch: pytest.MonkeyPatch, loading: set[Site]) -> None:
    def wait(answer: object) -> object:
        torch.cuda.synchronize()
        return answer

    spoiled(monkeypatch, Worker, "step", wait)
    with pretend_cuda(loading=loading) as machine:
        write(machine)
    (line,) = unlisted(machine.log)
    assert line.startswith('Site("test_planted_faults.py", "wait")  # torch.cuda.synchronize, ')


def test_an_entry_that_is_not_needed() -> None:
    assert len(unneeded(Log())) == len(ALLOWED) + len(LOADING)
