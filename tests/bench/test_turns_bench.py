"""The benchmark of turns runs and tells what it found."""

from __future__ import annotations

import json
import math
from concurrent.futures import Future

import pytest
from click.testing import CliRunner
from golden import sovits_config, vocoder_config
from gpt_models import golden_config

from gsv.bench import turns
from gsv.bench.__main__ import main
from gsv.bench.acoustic import random_weights
from gsv.engine.turns import Turn
from gsv.models.flow import FlowMatching


def test_engines_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = golden_config("tiny"), sovits_config("tiny"), vocoder_config("tiny")
    monkeypatch.setitem(turns.SIZES, "small", tiny)
    printed = CliRunner().invoke(main, ["turns", "--json", "--owners", "1", "--pieces", "3"])
    assert printed.exit_code == 0, printed.output
    found = json.loads(printed.output)
    assert [one["engine"] for one in found] == ["semantic GPT", "flow", "vocoder"]
    for one in found:
        assert one["idle_ms"] > 0
        assert one["after"] == pytest.approx(one["in_turns_ms"] / one["idle_ms"])
        assert math.isfinite(one["kept"])  # on a busy machine it may be anything
    assert "semantic GPT" in turns.table([turns.Found(**_fields(one)) for one in found])


def _fields(one: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in one.items() if name not in ("before", "after")}


def test_by_arrival_all_have_one_owner_and_no_listener() -> None:
    asked: list[tuple[Turn, bool]] = []

    def submit(turn: Turn, long: bool) -> Future[None]:
        asked.append((turn, long))
        future: Future[None] = Future()
        future.set_result(None)
        return future

    turns.crowd(turns.Subject("", submit, lambda: None), 2, 3, Turn("all"), "all")
    assert {turn for turn, _ in asked} == {Turn("all")}
    assert sum(long for _, long in asked) == 6


def test_unknown_engine() -> None:
    refused = CliRunner().invoke(main, ["turns", "--engine", "bert"])
    assert refused.exit_code == 2
    assert "must be one of" in refused.output


def test_random_weights_leave_nothing_that_a_file_would_fill() -> None:
    """Memory as it was found can hold NaN."""
    model = FlowMatching(sovits_config("tiny"))
    for value in model.state_dict().values():
        value.fill_(float("nan"))
    made = random_weights(model, "cpu").state_dict()
    assert all(value.isfinite().all() for value in made.values())
