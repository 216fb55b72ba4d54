"""Voices with a fine-tuned GPT: each request speaks through its own, whatever else is going on."""

from __future__ import annotations

import gc
import pickle
import shutil
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints.files import marker_bomb, save_pickle
from golden import case_weights
from gpt_models import golden_config
from voices.test_weight_cache import Recorder
from voices.voice_files import make_voice, write_wave
from voices.weights_files import full_file, gpt_file, tiny_shapes

from gsv.checkpoints.names.gpt import rename
from gsv.checkpoints.store import save_tensors
from gsv.checkpoints.voice_editing import NewVoice, add_voice
from gsv.errors import InvalidRequest, VoiceError
from gsv.stages import sizing
from gsv.stages.base import Place
from gsv.stages.messages import SemanticRequest
from gsv.stages.semantic_gpt import SemanticGPTStage, Settings

SEEDS = {"alice": 5, "bo": 6, "cy": 7}
SETTINGS: dict[str, Any] = {"max_tokens": 25, "slots": 4, "voice_slots": 2}


def write_base(folder: Path, seed: int | None = None) -> Path:
    """A version folder with the tiny base GPT, or another in its place."""
    folder.mkdir(parents=True)
    weights = {rename(k): v.half() for k, v in case_weights("s1", "tiny", seed).items()}
    save_tensors({str(k): v for k, v in weights.items()}, folder / "gpt.safetensors")
    golden_config("tiny").save(folder / "gpt.json")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the base; voices with a .ckpt laid there, and two that were added."""
    folder = tmp_path_factory.mktemp("own_gpt")
    write_base(folder / "repository" / "semantic_gpt" / "1")
    voices = folder / "voices"
    gpt_file(make_voice(voices / "alice", gpt="alice-e15.ckpt") / "alice-e15.ckpt", SEEDS["alice"])
    for name in ("bo", "cy"):
        gpt = gpt_file(folder / f"{name}.ckpt", SEEDS[name])
        recording = write_wave(folder / "take.wav")
        add_voice(voices, NewVoice(name, recording, "Words.", "en", gpt), tiny_shapes())
    make_voice(voices / "plain")
    return folder


def open_stage(root: Path, **settings: Any) -> SemanticGPTStage:
    place = Place(root / "repository" / "semantic_gpt" / "1")
    stage = SemanticGPTStage(place, Settings(**{**SETTINGS, **settings}))
    stage.warm_up()
    return stage


@pytest.fixture(scope="module")
def stage(root: Path) -> Iterator[SemanticGPTStage]:
    stage = open_stage(root)
    yield stage
    stage.close()


def request(voice: str, seed: int = 3) -> SemanticRequest:
    rng = np.random.default_rng(seed)
    zeros = np.zeros
    return SemanticRequest(
        phonemes=rng.integers(0, 700, 24, dtype=np.int32),
        phoneme_counts=np.array([10, 14], np.int32),
        bert_features=zeros((1, 1024), np.float32),
        bert_rows=zeros(24, np.int32),
        prompt_phonemes=rng.integers(0, 700, 9, dtype=np.int32),
        prompt_bert_features=zeros((1, 1024), np.float32),
        prompt_bert_rows=zeros(9, np.int32),
        prompt_tokens=rng.integers(0, 1024, 20, dtype=np.int32),
        seed=seed,
        voice=voice,
    )


def ask(stage: SemanticGPTStage, voice: str, seed: int = 3) -> Recorder:
    recorder = Recorder()
    stage.submit(request(voice, seed), recorder)
    return recorder


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def tokens(recorder: Recorder) -> list[int]:
    assert recorder.done.wait(60)
    (result,) = recorder.events
    assert not isinstance(result, BaseException), result
    found: list[int] = result.tokens.tolist()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """What each GPT says when it is the only one of a server."""
    answers = {}
    for name, seed in {**SEEDS, "plain": None}.items():
        folder = tmp_path_factory.mktemp("alone")
        write_base(folder / "repository" / "semantic_gpt" / "1", seed)
        stage = open_stage(folder)
        answers[name] = tokens(ask(stage, ""))
        stage.close()
    return answers


def test_each_voice_speaks_through_its_own(
    stage: SemanticGPTStage, alone: dict[str, list[int]]
) -> None:
    assert len({tuple(answer) for answer in alone.values()}) == 4
    recorders = {name: ask(stage, name) for name in alone for _ in range(3)}
    assert {name: tokens(recorder) for name, recorder in recorders.items()} == alone
    assert tokens(ask(stage, "")) == alone["plain"]


def test_more_voices_than_memory(root: Path, alone: dict[str, list[int]]) -> None:
    stage = open_stage(root, memory_budget_mib=1)
    size = stage._size(root / "voices" / "bo" / "gpt.safetensors")
    stage._weight_cache._budget = size + size // 2  # room for one
    names = ["bo", "cy", "plain", "alice", "cy", "bo", "plain", "alice"]
    recorders = [(name, ask(stage, name)) for name in names]
    assert [tokens(r) for _, r in recorders] == [alone[name] for name in names]
    assert len(stage._weight_cache.resident) == 1
    assert len(stage._engine._workers) == 2
    assert tokens(ask(stage, stage._weight_cache.resident[0])) == alone["alice"]
    stage.close()


def test_errors_of_voices(stage: SemanticGPTStage, root: Path) -> None:
    with pytest.raises(InvalidRequest, match="nobody"):
        ask(stage, "nobody")
    made = make_voice(root / "voices" / "wrong", gpt="x.ckpt")
    full_file(made / "x.ckpt")
    recorder = ask(stage, "wrong")
    assert recorder.done.wait(60)
    assert isinstance(recorder.events[0], VoiceError)
    assert str(recorder.events[0]).startswith("voice wrong: x.ckpt: this is a v4 SoVITS file")
    assert str(root) not in str(recorder.events[0])
    shutil.rmtree(made)


def test_a_malicious_pickle_in_the_folder(
    stage: SemanticGPTStage, root: Path, alone: dict[str, list[int]]
) -> None:
    marker = root / "exploded"
    made = make_voice(root / "voices" / "bomb", gpt="x.ckpt")
    save_pickle(pickle.dumps({"weight": marker_bomb(marker)}), made / "x.ckpt")
    recorder = ask(stage, "bomb")
    assert recorder.done.wait(60)
    assert isinstance(recorder.events[0], VoiceError)
    assert not marker.exists()
    assert tokens(ask(stage, "bo")) == alone["bo"]
    shutil.rmtree(made)


def test_files_that_no_check_has_foreseen(
    stage: SemanticGPTStage, root: Path, alone: dict[str, list[int]], monkeypatch: Any
) -> None:
    reads = []

    def fail(*_: object) -> None:
        reads.append(1)
        raise RecursionError("deep")

    monkeypatch.setattr("gsv.checkpoints.reader.open_zip", fail)
    made = make_voice(root / "voices" / "odd", gpt="x.ckpt")
    gpt_file(made / "x.ckpt")
    error: BaseException
    for attempt in range(3):
        try:
            recorder = ask(stage, "odd")
            assert attempt == 0, "later requests are refused at once"
            assert recorder.done.wait(60)
            error = recorder.events[0]
        except VoiceError as refusal:
            error = refusal
        assert isinstance(error, VoiceError)
        assert str(error).startswith("voice odd: x.ckpt: can't be read (RecursionError: deep)")
    assert len(reads) == 1
    assert tokens(ask(stage, "bo")) == alone["bo"]
    shutil.rmtree(made)


def test_an_unloaded_voice_leaves_no_memory_behind(root: Path) -> None:
    stage = open_stage(root, memory_budget_mib=64)
    try:
        tokens(ask(stage, "alice"))
        (key,) = (name for name in stage._engine._workers if name)
        runner = stage._engine._workers[key].runner
        left = [weakref.ref(part) for part in (runner, runner.cache, runner.model)]
        del runner
        gc.disable()  # only what unloading does itself counts
        try:
            wait_for(lambda: stage._weight_cache._entries[key].users == 0)
            entry = stage._weight_cache._entries[key]
            with stage._weight_cache._changed:
                assert stage._weight_cache._throw_out(key, entry)
            # The engine's thread may still be on its way out of the last step.
            wait_for(lambda: [ref() for ref in left] == [None] * 3)
        finally:
            gc.enable()
    finally:
        stage.close()


def test_slots_and_budgets_follow_the_free_memory(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def free(device: str) -> int:
        asked.append(device)
        return 600 * row

    row = sizing.row_bytes(golden_config("tiny"), sizing.GPU_POSITIONS, 4)
    monkeypatch.setattr("gsv.stages.semantic_gpt.memory_free", free)
    with caplog.at_level("INFO", logger="gsv"):
        stage = open_stage(root, slots=0)
    try:
        assert asked == ["cpu"]
        assert stage._engine.stats().slots == 64  # 120 would fit into a fifth
        assert stage._weight_cache._budget == 90 * row
        assert "64 slots of 2560 positions" in caplog.text
    finally:
        stage.close()
