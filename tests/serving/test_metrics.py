"""Metrics as Triton is told them, with a stand-in for its metric families."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, ClassVar, get_args

import pytest

from gsv.stages.base import Load
from gsv.timings import Timing, Timings

OURS = "gsv.serving.backend."


class Metric:
    """One series, and what it was told."""

    def __init__(self, labels: dict[str, str], buckets: list[float] | None = None) -> None:
        self.labels, self.buckets = labels, buckets
        self.told: list[tuple[str, float]] = []

    def increment(self, value: float) -> None:
        self.told.append(("increment", value))

    def set(self, value: float) -> None:
        self.told.append(("set", value))

    def observe(self, value: float) -> None:
        assert self.buckets is not None, "no histogram"
        self.told.append(("observe", value))


class MetricFamily:
    """As the stub brings it."""

    COUNTER, GAUGE, HISTOGRAM = range(3)
    made: ClassVar[dict[str, MetricFamily]] = {}

    def __init__(self, name: str, description: str, kind: int) -> None:
        self.kind = kind
        self.metrics: list[Metric] = []
        MetricFamily.made[name] = self

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Metric:  # noqa: N802
        assert (self.kind == self.HISTOGRAM) is (buckets is not None)
        self.metrics.append(Metric(labels, buckets))
        return self.metrics[-1]


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    stand_in = ModuleType("triton_python_backend_utils")
    stand_in.MetricFamily = MetricFamily  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    MetricFamily.made = {}
    yield importlib.import_module(OURS + "metrics")
    del sys.modules[OURS + "metrics"]


def only(name: str) -> Metric:
    (metric,) = MetricFamily.made[name].metrics
    return metric


def test_seconds_are_those_of_answered_requests(metrics: Any) -> None:
    counted = metrics.RequestMetrics("vocoder", "vocoder_0_1")
    counted.begin(3)
    for outcome, seconds in (("answered", 0.5), ("refused", 0.01), ("cancelled", 9.0)):
        counted.observe(outcome, seconds)
    seconds = only("gsv_request_seconds")
    assert seconds.told == [], "nothing is told but by the thread that flushes"
    counted.flush()
    assert seconds.told == [("observe", 0.5)]
    assert seconds.labels == {"model": "vocoder", "model_instance": "vocoder_0_1"}
    ended = {m.labels["outcome"]: m.told for m in MetricFamily.made["gsv_requests_total"].metrics}
    assert ended["refused"] == ended["cancelled"] == ended["answered"] == [("increment", 1)]
    assert ended["failed"] == []
    assert only("gsv_requests_in_flight").told == [("set", 0)]
    counted.begin()
    counted.flush()
    counted.flush()
    assert only("gsv_requests_in_flight").told == [("set", 0), ("set", 1)], "what has changed"


def test_a_running_batch_is_shown_now_and_then_and_its_end_at_once(metrics: Any) -> None:
    now = [0.0]
    shown = metrics.LoadMetrics("sovits_v4", "sovits_v4_0_0", lambda: now[0])
    steps = only("gsv_batch_steps").told
    for number in range(10):
        shown.show(Load(running=1, waiting=0, steps=number, rows=number))
        now[0] += 0.02
    assert steps == [("set", 0)]
    now[0] += 0.1
    shown.show(Load(running=1, waiting=0, steps=20, rows=20))
    shown.show(Load(running=0, waiting=0, steps=21, rows=21))
    assert steps == [("set", 0), ("set", 20), ("set", 21)]
    assert only("gsv_batch_running").told == [("set", 1), ("set", 0)]


def test_durations_of_a_stage_are_told_once_and_without_its_warm_up(metrics: Any) -> None:
    timings = Timings("queue", "late")
    timings.waited(77.0)
    told = metrics.TimingHistograms(timings, "sovits_v4", "sovits_v4_0_0")
    assert set(MetricFamily.made) == {"gsv_queue_seconds", "gsv_chunk_late_seconds"}
    timings.waited(0.25)
    timings.observe("late", -0.1)  # in time
    told.flush()
    told.flush()
    assert only("gsv_queue_seconds").told == [("observe", 0.25)]
    assert only("gsv_chunk_late_seconds").told == [("observe", 0.0)]


def test_buckets_rise_and_those_of_chunks_begin_with_the_ones_in_time(metrics: Any) -> None:
    for name, _, bounds in metrics._TIMINGS.values():
        assert name.endswith("_seconds")
        assert list(bounds) == sorted(set(bounds))
    assert metrics._LATE_BOUNDS[0] == 0.0
    metrics.RequestMetrics("m", "m_0_0")
    assert only("gsv_request_seconds").buckets == sorted(metrics._ANSWER_BOUNDS)


def test_all_durations_have_a_histogram(metrics: Any) -> None:
    assert set(metrics._TIMINGS) == set(get_args(Timing))
