"""Several prompts read at the same time on a pretended GPU: in order, and as each one alone."""

from __future__ import annotations

import copy
import queue

import numpy as np
import pytest
import torch
from gpt_models import golden_gpt, random_request
from pretend_cuda import pretend_cuda

from gsv.engine.gpt.engine import Engine

pytestmark = pytest.mark.pretend

GPU = torch.device("cuda", 0)
PROMPTS = 5


@pytest.mark.parametrize("longest", [64, 640])  # positions; at 64 some prompts have no graph
def test_prompts_side_by_side(monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    monkeypatch.setattr("gsv.engine.gpt.prompt_reader.PROMPT_GRAPHS", longest)
    rng = np.random.default_rng(4)
    config = golden_gpt("tiny").config
    asked = [random_request(rng, config, seed=n, max_tokens=6) for n in range(PROMPTS)]
    with pretend_cuda() as machine:
        engine = Engine(copy.deepcopy(golden_gpt("tiny")), GPU, slots=16, max_length=256)
        engine.warm_up()
        assert len(engine._workers[""].runner._readers) == 2  # type: ignore[attr-defined]
        answers: queue.SimpleQueue[object] = queue.SimpleQueue()
        made: list[list[int]] = [[] for _ in asked]
        for index, request in enumerate(asked):

            def heard(tokens: np.ndarray, last: bool, index: int = index) -> None:
                made[index].extend(tokens.tolist())
                if last:
                    answers.put(index)

            engine.submit(request, heard, answers.put)
        engine.start()  # all of them are read in its first step
        ended = {answers.get(timeout=30) for _ in asked}
        alone = [engine.generate(request).tolist() for request in asked]
        engine.stop()
        assert machine.log.faults == []
    assert ended == set(range(PROMPTS))
    assert made == alone
