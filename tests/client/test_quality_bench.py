"""The measure of quality: what is spoken, what the report says of it, what judges hear."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from gsv_client import Audio, Client, SpeechOptions
from gsv_client.bench.judges import (
    Score,
    SpeakerJudge,
    WordJudge,
    edits,
    mean,
    needed,
    words,
)
from gsv_client.bench.load import Text
from gsv_client.bench.quality import (
    Answer,
    Panel,
    QualityRun,
    Way,
    everyday_texts,
    row,
    speak_all,
)
from gsv_client.cli import main
from gsv_client.errors import GsvClientError, ServerError
from gsv_client.spoken import SentenceReport
from gsv_client.testing import FakeTransport

TEXTS = [Text("a", "en", "One two. Three."), Text("b", "zh", "四五六。")]
WHOLE, STREAM = Way("unary", 2, guard=True), Way("stream", 3, guard=False)


def sentence(tokens: int, *signals: str, retries: tuple[str, ...] = ()) -> SentenceReport:
    details = {"expected": 50.0, "drawn": tokens + 10 * len(retries)}
    return SentenceReport("x", 20, tokens, tokens / 25, retries, 1, signals, details)


def test_there_are_a_hundred_everyday_texts() -> None:
    texts = everyday_texts()
    said = {text.text.lower() for text in texts}
    assert len(texts) == len(said) == len({text.id for text in texts}) == 100
    assert {text.language for text in texts} == {"en"}


@pytest.mark.parametrize("way", [WHOLE, STREAM])
def test_every_text_is_spoken_with_every_seed(way: Way) -> None:
    client = Client(transport=(fake := FakeTransport(times=True)))
    answers = speak_all(client, SpeechOptions(voice="demo"), TEXTS, [1, 2], way)
    assert [(a.text.id, a.seed) for a in answers] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert all(a.audio is not None and a.audio.report for a in answers)
    sent = [
        (r.inputs["SEED"].item(), r.inputs["GUARD"].item(), r.inputs["LANGUAGE"].item().decode())
        for r in fake.requests
    ]
    assert sorted(sent) == sorted((s, int(way.guard), t.language) for t in TEXTS for s in (1, 2))
    assert {r.model.endswith("stream") for r in fake.requests} == {way.mode == "stream"}


def test_a_request_that_fails_is_told_and_weighs_nothing() -> None:
    broken = ServerError("broke")
    client = Client(transport=FakeTransport(refuse=lambda request: broken))
    answers = speak_all(client, SpeechOptions(), TEXTS[:1], [1], WHOLE)
    run = QualityRun(WHOLE, answers, Panel({"words": Says(0.5)}).scores(answers))
    assert run.figures()["errors"] == {"ServerError: broke": 1}
    assert run.figures()["judges"] == {"words": None}
    assert row(run)[-2:] == ("1", "-")


class Says:
    """A judge with one opinion."""

    def __init__(self, value: float) -> None:
        self._value = value
        self.heard = 0

    def score(self, text: str, audio: Audio) -> Score:
        self.heard += 1
        return Score(self._value, len(text))


def test_figures_are_shares_of_sentences() -> None:
    tone = np.full(480, 0.1, np.float32)
    reports = [
        (sentence(50), sentence(101, "loop", retries=("loop", "loop"))),
        (sentence(100, retries=("silence",)), sentence(40)),
    ]
    answers = [Answer(TEXTS[0], n, Audio(tone, 48_000, report=r)) for n, r in enumerate(reports)]
    scores = Panel({"words": Says(0.5)}).scores(answers)
    run = QualityRun(WHOLE, answers, scores)
    figures = run.figures()
    assert (figures["sentences"], figures["bad"], figures["retried"]) == (4, 0.25, 0.5)
    assert figures["long"] == 0.25
    assert (figures["tokens"], figures["tokens_drawn"]) == (291, 321)
    assert figures["causes"] == {"loop": 2, "silence": 1}
    assert figures["judges"] == {"words": 0.5}
    assert row(run) == (
        "unary", "2", "on", "4", "25.0%", "50.0%", "25.0%", "291", "321", "0", "50.0%",
    )  # fmt: skip
    assert json.loads(json.dumps(run.as_dict()))["answers"][0]["sentences"][1]["drawn"] == 121


def test_equal_audio_is_heard_once() -> None:
    judge = Says(1.0)
    panel = Panel({"words": judge})
    waves = [np.full(480, level, np.float32) for level in (0.1, 0.1, 0.2, 0.0)]
    answers = [Answer(TEXTS[0], n, Audio(wave, 48_000)) for n, wave in enumerate(waves)]
    panel.scores(answers)
    panel.scores(answers)
    assert judge.heard == 2, "silence is not heard at all"


def test_a_mean_of_words_is_a_share_of_all_words() -> None:
    assert mean([Score(1.0, 9), Score(0.0, 1)]) == pytest.approx(0.9)
    assert mean([]) is None
    assert mean([Score(1.0, 0)]) is None


def test_word_errors() -> None:
    assert words("Don't, said he: two!") == ["don't", "said", "he", "two"]
    assert edits(words("a b c"), words("a c")) == 1
    assert edits([], words("a b")) == 2


def test_the_recogniser_hears_each_wave_by_itself() -> None:
    judge = WordJudge()
    rng = np.random.default_rng(3)
    hiss = Audio((rng.normal(0, 0.05, 24_000)).astype(np.float32), 24_000)
    first = judge.score("Some words here.", hiss)
    judge.score("Other words.", Audio(np.zeros(24_000, np.float32), 24_000))
    assert judge.score("Some words here.", hiss) == first
    assert first.weight == 3
    assert first.value <= 1
    assert math.isfinite(first.value)


def test_what_a_judge_needs_is_named() -> None:
    with pytest.raises(GsvClientError, match=r"'dnsmos' needs no_such_package.*\[quality\]"):
        needed("no_such_package", "dnsmos")


def test_the_speaker_judge_does_without_old_setuptools(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package that asks as webrtcvad does."""
    (tmp_path / "resemblyzer.py").write_text(
        "import pkg_resources\n"
        "version = pkg_resources.get_distribution('numpy').version\n"
        "preprocess_wav = lambda samples, source_sr: samples\n"
        "class VoiceEncoder:\n"
        "    def __init__(self, device, verbose): pass\n"
        "    def embed_utterance(self, samples): return samples[:2] / abs(samples[:2]).max()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    audio = Audio(np.array([0.5, 0.0, 0.1], np.float32), 16_000)
    try:
        assert SpeakerJudge(audio).score("", audio).value == pytest.approx(1.0)
    finally:
        sys.modules.pop("resemblyzer", None)
    assert "pkg_resources" not in sys.modules


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    fake = FakeTransport(times=True)
    monkeypatch.setattr("gsv_client.cli.bench.Client", lambda *_, **__: Client(transport=fake))
    return CliRunner().invoke(main, ["bench", "--quality", *arguments])


def test_the_command_compares_with_and_without_the_guard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[Any] = []
    monkeypatch.setattr("gsv_client.cli.bench.WordJudge", lambda: made.append(1) or Says(0.75))
    report = tmp_path / "quality.json"
    result = bench(
        monkeypatch, "--unary", "--stream", "-c", "1,2", "-n", "2", "--seeds", "2",
        "--judge", "words", "-o", str(report),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert made == [1]
    lines = result.stdout.splitlines()
    assert lines[0].split()[-1] == "WORDS"
    assert len(lines) == 9
    runs = json.loads(report.read_text(encoding="utf-8"))["runs"]
    assert [(r["mode"], r["concurrency"], r["guard"]) for r in runs[:3]] == [
        ("unary", 1, True), ("unary", 1, False), ("unary", 2, True),
    ]  # fmt: skip
    assert {r["figures"]["answers"] for r in runs} == {4}
    assert runs[0]["answers"][0]["scores"] == {"words": 0.75}


@pytest.mark.parametrize(
    "arguments", [["--rate", "1"], ["--plots", "x"], ["--judge", "speaker"], ["--judge", "taste"]]
)
def test_odd_orders_are_refused(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    assert bench(monkeypatch, *arguments).exit_code == 2


def test_judges_belong_to_quality() -> None:
    result = CliRunner().invoke(main, ["bench", "--judge", "words"])
    assert result.exit_code == 2
    assert "--quality" in result.output


def test_without_judges_their_packages_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsv_client.bench.judges.needed", lambda *_: pytest.fail("imported"))
    assert bench(monkeypatch, "-n", "1", "-c", "1").exit_code == 0
