"""The gate's verdicts."""

from __future__ import annotations

from pathlib import Path

import gate
import numpy as np
import pytest
from recognition import Heard

from gsv_client import Audio


def heard(right: int) -> list[Heard]:
    return [Heard("", "", 100, right)]


@pytest.mark.parametrize(
    ("ways", "wrong"),
    [
        ({"whole": 90, "streamed": 87}, []),
        ({"whole": 90, "streamed": 99}, []),
        ({"whole": 90, "streamed": 86}, ["streamed"]),
        ({"whole": 1, "streamed": 1}, ["whole"]),
        ({"whole": 1, "streamed": 90}, ["whole"]),
    ],
)
def test_failures(ways: dict[str, int], wrong: list[str]) -> None:
    told = gate.failures({way: heard(right) for way, right in ways.items()})
    assert [line.partition(":")[0] for line in told] == wrong


def test_equal_waves_are_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Here:
        """Stands for the pool of processes."""

        def __init__(self, workers: int) -> None:
            self.jobs: list[str] = []

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *error: object) -> None: ...

        def map(self, function: object, texts: tuple[str], audios: tuple[Audio]) -> list[Heard]:
            calls.append(texts)
            return [Heard(t, "", 1, len(a.samples)) for t, a in zip(texts, audios, strict=True)]

    calls: list[tuple[str]] = []
    monkeypatch.setattr(gate, "ProcessPoolExecutor", Here)
    one, two = (Audio(np.zeros(size, np.float32), 48_000) for size in (1, 2))
    judged = gate.judge({"a": {"x": one, "y": one}, "b": {"x": one, "y": two}})
    assert calls == [("x", "y", "y")]
    assert [h.right for h in judged["a"]] == [1, 1]
    assert [h.right for h in judged["b"]] == [1, 2]


def test_waves_are_kept(tmp_path: Path) -> None:
    audio = Audio(np.zeros(480, np.float32), 48_000)
    gate.keep({"whole answers": {"x": audio, "y": audio}}, tmp_path)
    assert sorted(p.name for p in (tmp_path / "whole_answers").iterdir()) == ["01.wav", "02.wav"]


def lasting(seconds: float) -> Audio:
    return Audio(np.zeros(round(seconds * 48_000), np.float32), 48_000)


def test_long_sentences_must_be_understood_and_end() -> None:
    text = "They walked slowly over the bridge."  # 29 letters: 2.5 s
    assert gate.failures_of_long(heard(80), {text: lasting(3.0)}) == []
    (wrong,) = gate.failures_of_long(heard(60), {text: lasting(3.0)})
    assert wrong.startswith("long sentences: 60")
    (wrong,) = gate.failures_of_long(heard(80), {text: lasting(6.0)})
    assert wrong == f"{text!r} takes 6.0 s; at most 4.9 s is wanted"


def test_there_are_ten_long_sentences() -> None:
    assert len(gate.LONG) == 10
    assert min(len(text.split()) for text in gate.LONG) > 15
