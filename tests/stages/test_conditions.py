"""Conditions encoded in batches of waiting requests: the same answers, each error its own."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from acoustic_models import sovits
from replayed import ReplayedCalls
from torch.testing import assert_close
from voices.test_adapters import mel_of, open_stage, request
from voices.test_weight_cache import Recorder

from gsv.checkpoints.store import save_tensors
from gsv.errors import Cancelled, GsvError, InvalidRequest
from gsv.stages import conditions
from gsv.stages.conditions import Sentence, Waiting, encode, next_batch
from gsv.stages.mel_answer import MelWindow
from gsv.stages.sovits_v4 import SoVITSStage


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("conditions") / "sovits_v4" / "1"
    made.mkdir(parents=True)
    sovits("tiny").config.save(made / "sovits.json")
    save_tensors(sovits("tiny").state_dict(), made / "sovits.safetensors")
    return made


def as_on_a_gpu(stage: SoVITSStage) -> None:
    """From now on the conditions of those that wait at the same time are encoded together."""
    stage._queue.close()
    stage._start_queue(conditions.ROUND_TO)


@pytest.fixture
def stage(folder: Path) -> Iterator[SoVITSStage]:
    """A stage that encodes as on a GPU."""
    stage = open_stage(folder)
    as_on_a_gpu(stage)
    stage._warm_up_conditions()
    yield stage
    stage.close()


class Gate:
    """Holds the stage's thread up, so that requests wait together; notes the batches."""

    def __init__(self, stage: SoVITSStage, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []
        serve = stage._queue._serve

        def leased(batch: list[MelWindow]) -> None:
            self.entered.set()
            assert self.open.wait(60)
            self.batches.append(len(batch))
            serve(batch)

        monkeypatch.setattr(stage._queue, "_serve", leased)


@torch.no_grad()
def test_a_sentence_is_that_of_the_sentence_alone() -> None:
    model = sovits("tiny")
    rng = np.random.default_rng(1)
    sentences = [
        Sentence(
            rng.integers(0, 1024, tokens, dtype=np.int32),
            rng.integers(0, 732, phonemes, dtype=np.int32),
            torch.randn(1, model.config.gin_channels, 1),
            speed,
        )
        for tokens, phonemes, speed in ((17, 30, 1.0), (40, 8, 1.0), (33, 20, 1.3))
    ]
    together = encode(model, sentences, "cpu", round_to=32)
    for sentence, made in zip(sentences, together, strict=True):
        (alone,) = encode(model, [sentence], "cpu")
        assert made.shape == alone.shape
        assert_close(made, alone, atol=2e-5, rtol=0)


@torch.no_grad()
def test_graphs_give_the_same_and_leave_what_they_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conditions, "CapturedCalls", ReplayedCalls)
    shapes = [conditions.Shape(2, 32, 64), conditions.Shape(1, 64, 64)]
    monkeypatch.setattr(conditions, "GRAPH_SHAPES", shapes)
    model = sovits("tiny")
    graphed = conditions.GraphedConditions(model, "cpu")
    graphed.capture_all()
    rng = np.random.default_rng(1)

    def sentence(tokens: int, phonemes: int, speed: float = 1.0) -> Sentence:
        return Sentence(
            rng.integers(0, 1024, tokens, dtype=np.int32),
            rng.integers(0, 732, phonemes, dtype=np.int32),
            torch.randn(1, model.config.gin_channels, 1),
            speed,
        )

    for batch in ([sentence(17, 30), sentence(32, 64)], [sentence(9, 8)], [sentence(60, 20)]):
        made = graphed(batch)
        assert made is not None
        again = graphed([sentence(5, 5)])  # overwrites what the graph made
        assert again is not None
        for one, own in zip(batch, made, strict=True):
            assert_close(own, encode(model, [one], "cpu")[0], atol=2e-5, rtol=0)
    for batch in ([sentence(33, 5)] * 2, [sentence(8, 65)], [sentence(8, 8, 1.2)]):
        assert graphed(batch) is None
        (whole, *_) = encode(model, batch, "cpu", 32, graphed)
        assert_close(whole, encode(model, batch[:1], "cpu")[0], atol=2e-5, rtol=0)


def test_shapes_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []

    class Model:
        def condition(self, tokens, _, phonemes, __, timbre, speeds):  # type: ignore[no-untyped-def]
            shapes.append((*tokens.shape, *phonemes.shape, len(timbre), len(speeds)))
            return torch.zeros(len(tokens), 1, 4), [1] * len(tokens)

    ids = np.zeros(33, np.int32)
    found = encode(Model(), [Sentence(ids, ids[:5], torch.zeros(1, 2, 1))] * 3, "cpu", 32)  # type: ignore[arg-type]
    assert shapes == [(4, 64, 4, 32, 4, 4)]
    assert len(found) == 3


@torch.no_grad()
def test_long_texts_share_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue counts tokens; phonemes have scores as well."""
    model = sovits("tiny")
    shapes: list[tuple[int, int]] = []
    condition = model.condition

    def watched(tokens: torch.Tensor, *others: Any) -> Any:
        shapes.append((len(tokens), others[1].shape[1]))
        return condition(tokens, *others)

    monkeypatch.setattr(model, "condition", watched)
    monkeypatch.setattr(conditions, "MOST_SCORES", 3 * 20**2)
    timbre = torch.randn(1, model.config.gin_channels, 1)
    lengths = (3, 40, 38, 40, 39, 60, 2)
    batch = [Sentence(np.arange(5, dtype=np.int32), np.arange(n, dtype=np.int32), timbre)
             for n in lengths]  # fmt: skip
    together = encode(model, batch, "cpu")
    assert shapes == [(3, 40), (2, 40), (1, 60), (1, 2)]
    for sentence, made in zip(batch, together, strict=True):
        assert_close(made, encode(model, [sentence], "cpu")[0], atol=2e-5, rtol=0)


def waiting(rows: int, longest: int, urgent: bool = False, group: object = None) -> Waiting:
    return Waiting(group, rows, longest, urgent)


def test_who_waits_for_the_first_sound_goes_first() -> None:
    line = [waiting(1, 40), waiting(1, 40, urgent=True), waiting(2, 30), waiting(1, 9, urgent=True)]
    assert next_batch(line) == [line[1], line[3], line[0], line[2]]


def test_a_batch_keeps_its_bounds() -> None:
    models = object(), object()
    line = [
        waiting(20, 30, group=models[0]),
        waiting(1, 30, group=models[1]),
        waiting(13, 30, group=models[0]),
        waiting(1, 1500, group=models[0]),
        waiting(12, 60, group=models[0]),
    ]
    assert next_batch(line) == [line[0], line[4]]
    assert next_batch(line[3:]) == [line[3]]
    assert next_batch([waiting(100, 1500)])


def test_requests_at_once_are_answered_as_alone(
    stage: SoVITSStage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = open_stage(folder)
    seeds = range(6)
    alone = []
    for seed in seeds:
        recorder = Recorder()
        plain.submit(request("", seed), recorder)
        alone.append(mel_of(recorder))
    plain.close()
    gate = Gate(stage, monkeypatch)
    recorders = [Recorder() for _ in seeds]
    stage.submit(request("", 0), recorders[0])
    assert gate.entered.wait(60)
    for seed in seeds[1:]:
        stage.submit(request("", seed), recorders[seed])
    gate.open.set()
    for recorder, expected in zip(recorders, alone, strict=True):
        assert_close(mel_of(recorder), expected, atol=5e-3, rtol=1e-3)
    assert gate.batches == [1, 5]


def test_a_request_at_fault_fails_alone(
    stage: SoVITSStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(stage, monkeypatch)
    prepared = stage._prepared

    def failing(batch):  # type: ignore[no-untyped-def]
        if any(work.answer.request.seed == 2 for work in batch):
            raise RuntimeError("out of memory")
        return prepared(batch)

    monkeypatch.setattr(stage, "_prepared", failing)
    late = dataclasses.replace(
        request("", 5),
        tokens=np.zeros(10, np.int32), token_counts=np.array([10], np.int32),
        phonemes=np.zeros(5, np.int32), phoneme_counts=np.array([5], np.int32),
        first_frame=1000, past_mel=np.zeros((100, 8), np.float32),
    )  # fmt: skip
    recorders = [Recorder() for _ in range(4)]
    stage.submit(request("", 0), recorders[0])
    assert gate.entered.wait(60)
    for recorder, asked in zip(recorders[1:], (request("", 1), request("", 2), late), strict=True):
        stage.submit(asked, recorder)
    gate.open.set()
    mel_of(recorders[0])
    mel_of(recorders[1])
    assert recorders[2].done.wait(60)
    assert str(recorders[2].events[0]) == "out of memory"
    assert recorders[3].done.wait(60)
    assert isinstance(recorders[3].events[0], InvalidRequest)


def test_who_leaves_in_line_costs_nothing(
    stage: SoVITSStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(stage, monkeypatch)
    first, second, third = Recorder(), Recorder(), Recorder()
    stage.submit(request("", 0), first)
    assert gate.entered.wait(60)
    cancel = stage.submit(request("", 1), second)
    stage.submit(request("", 2), third)
    cancel()
    gate.open.set()
    assert second.done.wait(60)
    assert isinstance(second.events[0], Cancelled)
    mel_of(first)
    mel_of(third)
    assert len(second.events) == 1


def test_the_end_answers_who_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = open_stage(folder)
    as_on_a_gpu(stage)
    gate = Gate(stage, monkeypatch)
    first, second = Recorder(), Recorder()
    stage.submit(request("", 0), first)
    assert gate.entered.wait(60)
    stage.submit(request("", 1), second)
    closing = threading.Thread(target=stage.close)
    closing.start()
    while stage._queue._ended is None:
        closing.join(0.01)
    gate.open.set()
    closing.join(60)
    assert second.done.wait(60)
    assert isinstance(second.events[0], Cancelled)
    assert first.done.wait(60)
    with pytest.raises(Cancelled):
        stage.submit(request("", 2), Recorder())


def test_nobody_waits_for_a_thread_that_broke(
    stage: SoVITSStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(batch: list[MelWindow]) -> None:
        raise SystemExit("out of reach")

    monkeypatch.setattr(stage._queue, "_serve", broken)
    recorder = Recorder()
    stage.submit(request("", 0), recorder)
    assert recorder.done.wait(60)
    assert "the thread conditions broke: SystemExit" in str(recorder.events[0])
    with pytest.raises(GsvError, match="the thread conditions broke"):
        stage.submit(request("", 1), Recorder())
