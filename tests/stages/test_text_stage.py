"""The text stage: voices with a lexicon of their own, readings and pauses in the text."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from voices.voice_files import make_voice

from gsv.constants import BERT_DIM
from gsv.errors import Cancelled, ConfigurationError, InvalidRequest, VoiceError
from gsv.stages import text_frontend
from gsv.stages.base import Place
from gsv.stages.messages import TextRequest, TextResult
from gsv.stages.text_frontend import Settings, TextFrontendStage
from gsv.text.frontend import TextFrontend
from gsv.text.symbols import LANGUAGES
from gsv.voices import folder as voice_folder

OWN = "[en]\nfoo = 'F UW1'\n[zh]\n'重庆' = 'zhong4 qing4'\n"


class Ones:
    """In BERT's place: a row of ones for each character."""

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        return [np.ones((len(text), BERT_DIM), np.float32) for text in texts]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TextFrontendStage:
    monkeypatch.setattr(text_frontend, "load_bert", lambda *_, **__: Ones())
    monkeypatch.setattr(voice_folder, "CHECK_SECONDS", 0.0)
    folder = tmp_path / "repository" / "text_frontend" / "1"
    (folder / "text_data").mkdir(parents=True)
    (folder / "text_data" / "lexicon.toml").write_text("[en]\nfoo = 'F OW1'\nbar = 'B AA1'\n")
    make_voice(tmp_path / "voices" / "plain")
    (make_voice(tmp_path / "voices" / "own", text="The foo.") / "lexicon.toml").write_text(
        OWN, encoding="utf-8"
    )
    return TextFrontendStage(Place(folder), Settings(default_voice="plain"))


def symbols(result: Any) -> str:
    assert isinstance(result, TextResult), result
    sentences = json.loads(result.analysis)["sentences"]
    return " ".join(p for s in sentences for g in s["segments"] for p in g["phonemes"])


def read(stage: TextFrontendStage, text: str, voice: str = "", language: str = "en") -> str:
    (result,) = stage.run_batch([TextRequest(text, language, voice=voice)])
    return symbols(result)


def test_the_models_lexicon_counts_for_all_voices(stage: TextFrontendStage) -> None:
    for voice in ("", "plain"):
        assert read(stage, "foo bar foo", voice) == "F OW1 B AA1 F OW1 ."


def test_a_voices_lexicon_lies_over_the_models(stage: TextFrontendStage) -> None:
    assert read(stage, "foo bar foo", "own") == "F UW1 B AA1 F UW1 ."
    assert read(stage, "我在重庆生活", "own", "zh").split()[4:8] == ["zh", "ong4", "q", "ing4"]
    assert read(stage, "我在重庆生活", "plain", "zh").split()[4:8] == ["ch", "ong2", "q", "ing4"]


def test_requests_of_one_batch_keep_their_own(stage: TextFrontendStage) -> None:
    names = ["own", "plain", "own", ""]
    results = stage.run_batch([TextRequest("foo bar foo", "en", voice=name) for name in names])
    found = [symbols(result).split()[:2] for result in results]
    assert found == [["F", "UW1"], ["F", "OW1"], ["F", "UW1"], ["F", "OW1"]]


def test_the_transcript_is_read_with_it_as_well(stage: TextFrontendStage) -> None:
    own, other = stage.run_batch(
        [TextRequest("hello", voice="own"), TextRequest("hello", reference_text="The foo.")]
    )
    assert isinstance(own, TextResult)
    assert isinstance(other, TextResult)
    assert own.prompt_phonemes.tolist() != other.prompt_phonemes.tolist()
    assert len(own.prompt_phonemes) == len(other.prompt_phonemes)


def test_a_changed_lexicon_is_live(stage: TextFrontendStage, tmp_path: Path) -> None:
    lexicon = tmp_path / "voices" / "own" / "lexicon.toml"
    assert read(stage, "foo bar foo", "own").startswith("F UW1")
    lexicon.write_text("[en]\nfoo = 'P IY1'\n")
    assert read(stage, "foo bar foo", "own").startswith("P IY1")
    lexicon.unlink()
    assert read(stage, "foo bar foo", "own").startswith("F OW1")


def test_it_is_made_once_for_each_content(
    stage: TextFrontendStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = stage._frontend.voice_lexicon

    def counted(own: Any) -> Any:
        made.append(own)
        return original(own)

    monkeypatch.setattr(stage._frontend, "voice_lexicon", counted)
    for _ in range(3):
        read(stage, "foo bar foo", "own")
        read(stage, "foo bar", "plain")
    assert len(made) == 1


def test_a_broken_lexicon_is_told_and_harms_no_other(
    stage: TextFrontendStage, tmp_path: Path
) -> None:
    (tmp_path / "voices" / "own" / "lexicon.toml").write_text("[en]\nfoo = 'F UW9'\n")
    broken, fine = stage.run_batch(
        [TextRequest("foo", voice="own"), TextRequest("foo bar foo", "en")]
    )
    assert isinstance(broken, VoiceError)
    assert str(broken).startswith("voice own: lexicon: [en] 'foo': 'UW9' is not an ARPAbet phoneme")
    assert symbols(fine).startswith("F OW1")


def test_a_big_lexicon_costs_little_at_a_request(stage: TextFrontendStage, tmp_path: Path) -> None:
    def seconds() -> float:
        start = time.process_time()
        for number in range(20):
            assert read(stage, f"word{number} foo bar", "own").startswith("W")
        return time.process_time() - start

    read(stage, "word7 foo", "own")
    small = seconds()
    words = "\n".join(f"word{number} = 'W ER1 D'" for number in range(20_000))
    japanese = "\n".join(f"'東雲{number}' = 'しののめ'" for number in range(3_000))
    lexicon = tmp_path / "voices" / "own" / "lexicon.toml"
    lexicon.write_text(f"[en]\n{words}\n[ja]\n{japanese}\n", encoding="utf-8")
    assert read(stage, "word7 foo", "own").startswith("W ER1 D")
    assert seconds() < 10 * small  # 40 times with one look at all words for each request


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("好[pause:11s]", "TEXT: character 2: .*0 to 10 s"),
        ("我重{chong9}庆", "TEXT: character 3: .*'chong9'"),
        ("a tomato{T AH9}", "TEXT: character 9: 'AH9'"),
    ],
)
def test_markup_that_cannot_be_read(stage: TextFrontendStage, text: str, message: str) -> None:
    (answer,) = stage.run_batch([TextRequest(text, "zh")])
    assert isinstance(answer, InvalidRequest)
    with pytest.raises(InvalidRequest, match=message):
        raise answer


@pytest.mark.parametrize("text", ["[pause:1s] Hello.", "!!!"])
def test_a_voice_whose_text_cannot_be_read_is_not_the_callers_fault(
    stage: TextFrontendStage, tmp_path: Path, text: str
) -> None:
    make_voice(tmp_path / "voices" / "odd", text=text)
    (result,) = stage.run_batch([TextRequest("Hello.", "en", voice="odd")])
    assert isinstance(result, VoiceError)
    assert str(result).startswith("voice odd: its text can't be read: ")


def test_pauses_and_rows(stage: TextFrontendStage) -> None:
    text = "[pause:0.5s]今天天气真好。[pause:800ms]Let us go out!"
    (result,) = stage.run_batch([TextRequest(text, "zh", pause_seconds=0.25)])
    assert isinstance(result, TextResult)
    np.testing.assert_allclose(result.pauses, [0.5, 0.8, 0.25])
    assert result.phoneme_counts.sum() == len(result.phonemes) == len(result.bert_rows)
    first = result.phoneme_counts[0]
    assert result.bert_rows[:first].min() == 1
    assert not result.bert_rows[first:].any()
    assert result.bert_features.shape == (result.bert_rows.max() + 1, BERT_DIM)
    assert not result.bert_features[0].any()


class Answers:
    """The replies of several requests, in the order in which they came."""

    def __init__(self) -> None:
        self.came: list[tuple[str, Any]] = []
        self._changed = threading.Condition()

    def reply(self, name: str) -> Any:
        answers = self

        class One:
            def send(self, result: Any, *, final: bool) -> None:
                assert final
                answers.add(name, result)

            def finish(self) -> None:
                raise AssertionError("one answer is the whole of it")

            def fail(self, error: BaseException) -> None:
                answers.add(name, error)

        return One()

    def add(self, name: str, answer: Any) -> None:
        with self._changed:
            self.came.append((name, answer))
            self._changed.notify()

    def wait(self, count: int) -> dict[str, Any]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.came) >= count, timeout=60)
        return dict(self.came)


def test_where_callers_wait_languages_are_loaded_as_they_are_needed(
    stage: TextFrontendStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.close()
    monkeypatch.setattr(text_frontend, "_LOAD_SECONDS", 0.2)
    loaded: list[str] = []
    whole = TextFrontend.warm_up

    def warm_up(frontend: TextFrontend, languages: Sequence[str] = LANGUAGES) -> None:
        loaded.extend(languages)
        whole(frontend, languages)

    monkeypatch.setattr(TextFrontend, "warm_up", warm_up)
    place = Place(tmp_path / "repository" / "text_frontend" / "1", is_awaited=True)
    awaited = TextFrontendStage(place, Settings())
    awaited.warm_up()
    assert loaded == []
    answers = Answers()
    awaited.submit(TextRequest("foo bar", "en"), answers.reply("first"))
    assert symbols(answers.wait(1)["first"]) == ". F OW1 B AA1 ."
    limit = time.monotonic() + 60.0
    while loaded != list(LANGUAGES) and time.monotonic() < limit:
        time.sleep(0.05)
    assert loaded == list(LANGUAGES), "the others come by themselves"
    awaited.submit(TextRequest("foo bar", "en"), answers.reply("second"))
    assert symbols(answers.wait(2)["second"]) == ". F OW1 B AA1 ."
    awaited.close()


def test_a_short_text_does_not_wait_for_a_long_one(stage: TextFrontendStage) -> None:
    stage.warm_up()
    answers = Answers()
    long = "今天天气真好，我们去公园散步。" * 600
    stage.submit(TextRequest(long, "zh"), answers.reply("long"))
    time.sleep(0.05)
    stage.submit(TextRequest("foo bar", "en"), answers.reply("short"))
    found = answers.wait(2)
    stage.close()
    assert [name for name, _ in answers.came] == ["short", "long"]
    (alone,) = stage.run_batch([TextRequest(long, "zh")])
    assert isinstance(alone, TextResult)
    assert found["long"].phonemes.tolist() == alone.phonemes.tolist()
    assert found["long"].bert_rows.tolist() == alone.bert_rows.tolist()
    assert symbols(found["short"]) == ". F OW1 B AA1 ."


def test_each_request_has_its_own_error(stage: TextFrontendStage) -> None:
    answers = Answers()
    stage.submit(TextRequest("Привет", "en"), answers.reply("bad"))
    stage.submit(TextRequest("你好世界，再见。", "zh"), answers.reply("good"))
    found = answers.wait(2)
    stage.close()
    assert isinstance(found["bad"], InvalidRequest)
    assert isinstance(found["good"], TextResult)
    assert found["good"].bert_features.shape == (9, BERT_DIM)


def test_a_caller_that_leaves_is_not_waited_for(stage: TextFrontendStage) -> None:
    answers = Answers()
    cancel = stage.submit(TextRequest("很长的一句话。" * 1_000, "zh"), answers.reply("gone"))
    cancel()
    found = answers.wait(1)
    stage.close()
    assert isinstance(found["gone"], Cancelled)


def test_nothing_is_taken_after_the_end(stage: TextFrontendStage) -> None:
    stage.close()
    with pytest.raises(Cancelled):
        stage.submit(TextRequest("foo", "en"), Answers().reply("late"))


def test_the_reading_is_a_parameter(tmp_path: Path, stage: TextFrontendStage) -> None:
    folder = tmp_path / "repository" / "text_frontend" / "1"
    upstream = TextFrontendStage(Place(folder), Settings(reading="upstream"))
    assert read(upstream, "10元", language="zh") != read(stage, "10元", language="zh")
    with pytest.raises(ConfigurationError, match="reading: got 'x'"):
        TextFrontendStage(Place(folder), Settings(reading="x"))


def test_the_analysis_tells_changes_and_what_is_not_read(stage: TextFrontendStage) -> None:
    (result,) = stage.run_batch([TextRequest("It’s Ж, foo", "en")])
    assert isinstance(result, TextResult)
    (sentence,) = json.loads(result.analysis)["sentences"]
    (segment,) = sentence["segments"]
    assert {"written": "’", "spoken": "'", "reason": "apostrophe"} in segment["changes"]
    assert sentence["unread"] == segment["unread"] == ["Ж"]
    counted = [
        change for change in stage.voice_metrics.take() if change.family == "unread_characters"
    ]
    assert [(change.voice, change.value) for change in counted] == [("plain", 1)]


def test_analysis_needs_no_voice(tmp_path: Path, stage: TextFrontendStage) -> None:
    """Where the default voice is missing, the reference encoder says so; the text is read."""
    folder = tmp_path / "repository" / "text_frontend" / "1"
    without = TextFrontendStage(Place(folder), Settings(default_voice="nobody"))
    assert read(without, "foo bar") == ". F OW1 B AA1 ."
    (answer,) = without.run_batch([TextRequest("foo", "en", voice="nobody")])
    assert isinstance(answer, InvalidRequest)
