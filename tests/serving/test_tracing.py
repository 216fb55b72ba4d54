"""Spans of the models, and what carries them from one to another."""

from __future__ import annotations

import json
import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from serving.collector import Collector, collecting

from gsv.serving.backend import tracing
from gsv.serving.backend.call_board import caller_id, owner_of, parent_span
from gsv.serving.backend.tracing import (
    Tracer,
    endpoint_of,
    span_of,
    split_traced_id,
    traced_id,
)
from gsv.serving.server.options import DEFAULT_TRACE_ENDPOINT, trace_endpoint

MODE = "mode=opentelemetry"
TRACE, ABOVE = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{ABOVE}-01"
CALL = "gsv!12!34!5!6!7!"


@pytest.mark.parametrize("own", ["", "mine", "a!b", "zwölf\n!", PARENT])
def test_an_id_carries_its_span(own: str) -> None:
    assert split_traced_id(traced_id(PARENT, own)) == (PARENT, own)
    assert caller_id(CALL + traced_id(PARENT, own)) == own
    assert parent_span(CALL + traced_id(PARENT, own)) == PARENT
    # Turns are shared among the same callers, traced or not.
    assert owner_of(CALL + traced_id(PARENT, own)) == owner_of(CALL + own)


def test_an_id_without_one_stays_as_it_is() -> None:
    for own in ("", "mine", f"{PARENT}", f"01{PARENT[2:]}!x"):
        assert split_traced_id(own) == ("", own)
        assert caller_id(CALL + own) == own
        assert parent_span(CALL + own) == ""
    assert parent_span(traced_id(PARENT, "x")) == "", "no call of ours"


@pytest.mark.parametrize(
    ("context", "found"),
    [
        (json.dumps({"traceparent": PARENT}), PARENT),
        (json.dumps({"traceparent": PARENT, "tracestate": "a=b"}), PARENT),
        (None, ""),
        ("", ""),
        ("{}", ""),
        ('{"traceparent":"nonsense"}', ""),
        ('{"traceparent":7}', ""),
        ("[]", ""),
        ("{", ""),
    ],
)
def test_what_triton_says_of_a_request(context: str | None, found: str) -> None:
    trace = SimpleNamespace(get_context=lambda: context)
    assert span_of(SimpleNamespace(trace=lambda: trace)) == found


def test_where_spans_go() -> None:
    assert endpoint_of({}) == ""
    assert endpoint_of({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}) == (
        "http://c:4318/v1/traces"
    )
    both = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", tracing.ENDPOINT: "http://d/x"}
    assert endpoint_of(both) == "http://d/x"


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ((), ""),
        (("--trace-config=mode=triton", "--trace-config=triton,file=f"), ""),
        (("--trace-config=opentelemetry,url=http://c",), ""),
        (("--trace-config=mode=opentelemetry",), DEFAULT_TRACE_ENDPOINT),
        (
            ("--trace-config=mode=opentelemetry", "--trace-config=opentelemetry,url=http://c/v1"),
            "http://c/v1",
        ),
        (
            (
                "--trace-config",
                "opentelemetry,url=http://c",
                "--trace-config",
                "mode=opentelemetry",
            ),
            "http://c",
        ),
    ],
)
def test_the_models_follow_tritons_options(options: tuple[str, ...], url: str) -> None:
    assert trace_endpoint(options) == url


def tracer(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Tracer:
    monkeypatch.setattr(tracing, "EXPORT_SECONDS", 0.05)
    monkeypatch.setenv(tracing.ENDPOINT, collector.url)
    made = Tracer.from_environment("vocoder", "vocoder_0_1")
    assert made is not None
    return made


def test_spans_arrive_below_their_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        made = tracer(collector, monkeypatch)
        assert made.begin("", "x") is None, "not traced"
        outer = made.begin(PARENT, "mine")
        assert outer is not None
        inner = made.begin(outer.traceparent, "mine")
        assert inner is not None
        inner.end("failed", ValueError("no"))
        outer.end("answered", None)
        with collector.arrived:
            assert collector.arrived.wait_for(lambda: len(collector.spans) == 2, 10)
        made.close()
    found = {span.parent: span for span in collector.spans}
    outer_seen = found[ABOVE]
    inner_seen = found[outer_seen.id]
    assert {s.trace for s in found.values()} == {TRACE}
    assert not outer_seen.failed
    assert inner_seen.failed
    assert outer_seen.seconds >= inner_seen.seconds >= 0
    assert outer_seen.attributes == {
        "gsv.outcome": "answered", "gsv.request_id": "mine", "gsv.model_instance": "vocoder_0_1",
    }  # fmt: skip
    assert (outer_seen.name, outer_seen.service) == ("vocoder", "gpt-sovits-triton")
    assert collector.tree(outer_seen) == [(0, "vocoder"), (1, "vocoder")]


def test_what_is_left_goes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with collecting() as collector:
        made = tracer(collector, monkeypatch)
        monkeypatch.setattr(tracing, "EXPORT_SECONDS", 60)
        for _ in range(3):
            span: Any = made.begin(PARENT, "")
            span.end("answered", None)
        made.close()
        assert len(collector.spans) == 3
    assert not [t for t in threading.enumerate() if t.name == "trace-export"]


def test_a_collector_that_refuses_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with collecting() as collector:
        collector.status = 503
        made = tracer(collector, monkeypatch)
        with caplog.at_level(logging.WARNING):
            for _ in range(3):
                span: Any = made.begin(PARENT, "")
                span.end("answered", None)
                made._send()
        made.close()
        lines = [r.getMessage() for r in caplog.records if "spans are lost" in r.getMessage()]
        assert len(lines) == 1
        assert "503" in lines[0]
        assert collector.spans == []


def test_nobody_collects(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (tracing.ENDPOINT, "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert Tracer.from_environment("vocoder", "vocoder_0_0") is None
