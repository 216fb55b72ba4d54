"""How far ahead of its listener a stream's tokens are written."""

from __future__ import annotations

import threading
import time
import types
from typing import Any

import numpy as np
import pytest

from gsv.engine.chunk_plan import ChunkPlan
from gsv.stages import token_feed
from gsv.stages.synthesis import Listener
from gsv.stages.token_feed import TokenFeed


class Models:
    """Writes as many tokens as it is asked for."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def __call__(self, wanted: int) -> Any:
        if self.cancelled.is_set():
            raise RuntimeError("the test is over")
        return types.SimpleNamespace(
            tokens=np.zeros(wanted, np.int32), attempt=0, drawn="", is_last=0
        )

    def last(self, call: object) -> None:
        pass


def test_when_the_first_mel_is_made_the_next_chunks_tokens_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However fast that was: on a GPU it takes less than the feed holds back."""
    monkeypatch.setattr(token_feed, "HOLD_SECONDS", 60.0)
    monkeypatch.setattr(token_feed, "start_sentence", lambda request, sequence, wanted, *_: wanted)
    monkeypatch.setattr(token_feed, "continue_sentence", lambda request, sequence, wanted: wanted)
    monkeypatch.setattr(token_feed, "end_sequence", lambda sequence: None)
    plan, models = ChunkPlan(), Models()
    feed = TokenFeed(models, 2, lambda i: None, plan, lambda: Listener(False, 1.0))  # type: ignore[arg-type]
    feed.start()
    try:
        first, _ = feed.wait(0, 0, plan.first, 1.0)
        assert len(first) == plan.tokens_needed(plan.first, 1.0), "nothing beyond it so far"
        feed.write_ahead()
        after = plan.tokens_needed(3 * plan.first, 1.0)
        limit = time.monotonic() + 10.0
        while feed._count(0) < after and time.monotonic() < limit:
            time.sleep(0.01)
        assert feed._count(0) >= after
    finally:
        models.cancelled.set()
        feed.join()
