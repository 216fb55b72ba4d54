"""Whole answers in many voices, with the folder changing under the requests."""

from __future__ import annotations

import concurrent.futures
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from voices.voice_files import make_voice, write_wave
from voices.weights_files import full_file, gpt_file, lora_file

from gsv.checkpoints.demo import make_demo
from gsv.checkpoints.prepare import Files, prepare
from gsv.checkpoints.text_data import Sources
from gsv.checkpoints.voice_editing import NewVoice, Shapes, add_voice, remove_voice
from gsv.errors import InvalidRequest, VoiceError
from gsv.offline import Offline

TEXT = "Hello there."
STEPS = 2
SETTINGS = {"semantic_gpt_engine": {"max_tokens": "12", "voice_slots": "4"}}
OWN = "[sampling]\ntop_k = 1\nspeed = 1.5"
CALM = "[references.calm]\nreference = 'calm.wav'\ntext = 'Calm words.'"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo repository and voices of every kind."""
    root = tmp_path_factory.mktemp("end_to_end")
    make_demo("tiny", root / "demo")
    prepare(
        Files.find(root / "demo"), root / "repository", voices=root / "voices", text=Sources(),
        replace=False, demo=True, report=lambda line: None,
    )  # fmt: skip
    voices, shapes = root / "voices", Shapes.of(root / "repository")
    write_wave(make_voice(voices / "plain", CALM, seed=1) / "calm.wav", seed=2)
    make_voice(voices / "own", OWN, seed=3)
    lora = lora_file(root / "l.pth")
    recording = write_wave(root / "take.wav", seed=4)
    tuned = NewVoice("tuned", recording, "Words.", "en", gpt_file(root / "g.ckpt"), lora)
    add_voice(voices, tuned, shapes)
    full = NewVoice("full", recording, "Words.", "en", None, full_file(root / "f.pth"))
    add_voice(voices, full, shapes)
    return root


@pytest.fixture(scope="module")
def speaker(root: Path) -> Iterator[Offline]:
    with Offline(root / "repository", settings=SETTINGS) as speaker:
        yield speaker


def say(speaker: Offline, voice: str, **options: Any) -> NDArray[np.float32]:
    values = {"text": TEXT, "seed": 3, "sample_steps": STEPS, "pause_seconds": 0.0, **options}
    return speaker.say(voice=voice, **values)[0]


def same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return one.shape == other.shape and bool(np.abs(one - other).max() < 2e-3)


VOICES = ("plain", "plain/calm", "own", "tuned", "full")


def test_voices_differ_and_company_changes_nothing(speaker: Offline) -> None:
    alone = {voice: say(speaker, voice) for voice in VOICES}
    for index, voice in enumerate(VOICES):
        for other in VOICES[:index]:
            assert not same(alone[voice], alone[other]), (voice, other)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda voice: say(speaker, voice), VOICES * 2))
    for voice, answer in zip(VOICES * 2, answers, strict=True):
        assert same(answer, alone[voice]), voice


def test_defaults_of_a_voice(speaker: Offline) -> None:
    own = say(speaker, "own")
    assert same(say(speaker, "own", top_k=1, speed=1.5), own)
    assert not same(say(speaker, "own", speed=1.0), own)


def test_a_stream_speaks_in_the_voice_as_well(speaker: Offline) -> None:
    for voice in ("plain/calm", "tuned"):
        values = {"TEXT": TEXT, "SEED": 3, "SAMPLE_STEPS": STEPS, "PAUSE_SECONDS": 0.0}
        settings = {**values, "VOICE": voice}
        chunks = [c["AUDIO"] for c in speaker("gpt_sovits_v4_stream", settings, [], decoupled=True)]
        whole = say(speaker, voice)
        # Chunks hear less of the sentence than the whole does: alike, not equal.
        assert abs(sum(map(len, chunks)) - len(whole)) <= 480


def test_errors(speaker: Offline, root: Path) -> None:
    for voice in ("nobody", "plain/angry", "../plain", "/etc"):
        with pytest.raises(InvalidRequest, match="VOICE"):
            say(speaker, voice)
    make_voice(root / "voices" / "broken", gpt="missing.ckpt")
    with pytest.raises(VoiceError, match="missing.ckpt"):
        say(speaker, "broken")


def test_a_folder_that_changes_all_the_time(speaker: Offline, root: Path) -> None:
    """Replaced voices answer in one of their versions, removed ones with the right error."""
    voices, shapes = root / "voices", Shapes.of(root / "repository")
    lora = root / "l.pth"
    versions = [
        NewVoice("changing", write_wave(root / f"v{i}.wav", seed=10 + i), f"Words {i}.", "en", gpt,
                 lora if i % 2 else None)
        for i, gpt in enumerate([None, root / "g.ckpt", None])
    ]  # fmt: skip
    expected = []
    for version in versions:
        add_voice(voices, version, shapes, replace=True)
        speaker._stages["gpt_sovits_v4"]._voices.get("changing", fresh=True)
        expected.append(say(speaker, "changing"))
    alone = {voice: [say(speaker, voice)] for voice in ("plain", "tuned")} | {"changing": expected}
    done = threading.Event()
    errors: list[str] = []

    def client(seed: int) -> int:
        choice = random.Random(seed)
        count = 0
        while not done.is_set():
            voice = choice.choice(["plain", "tuned", "changing", "changing", "coming"])
            try:
                answer = say(speaker, voice)
            except InvalidRequest as error:
                if voice != "coming" or "allowed" not in str(error):
                    errors.append(f"{voice}: {error}")
            except Exception as error:
                errors.append(f"{voice}: {error!r}")
            else:
                allowed = alone["plain"] if voice == "coming" else alone[voice]
                if not any(same(answer, one) for one in allowed):
                    errors.append(f"{voice}: another voice")
                count += 1
        return count

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, seed) for seed in range(6)]
        for round_ in range(12):
            add_voice(voices, versions[round_ % 3], shapes, replace=True)
            if round_ % 2:
                remove_voice(voices, "coming")
            else:
                plain = NewVoice("coming", voices / "plain" / "reference.wav", "Some words.", "en")
                add_voice(voices, plain, shapes)
            done.wait(0.4)
        done.set()
        counts = [client.result() for client in clients]
    assert errors == []
    assert sum(counts) > 20
